"""A run from start to end. The report grows as it goes; an interruption leaves what there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gt_infer.errors import AudioError

from .fidelity import measure_fidelity
from .first_frame import measure_first_frame
from .latency import LatencyRun
from .machine import core_seconds, load_average
from .plan import Way
from .report import Report, Sessions, Unavailable
from .sessions import measure_sessions

__all__ = ["Amounts", "measure"]

_FIDELITY_SECONDS = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """How much is measured.

    Attributes:
        seconds: of frames, each way to run.
        most_sessions: where the search for sessions ends; 0 for no search.
        session_seconds: each trial of it.
        first_frames: fresh processes; 0 for none.
        fidelity_frames: 0 for none.
    """

    seconds: float
    most_sessions: int
    session_seconds: float = 3.0
    first_frames: int = 3
    fidelity_frames: int = 200


def measure(
    report: Report,
    path: Path,
    ways: Sequence[Way],
    amounts: Amounts,
    *,
    peers: Callable[[Way], None] | None = None,
    progress: Callable[[str], None],
) -> None:
    """Fills the report. What is measured once per engine is measured in its first way to run.

    Args:
        path: of the avatar file.
        peers: measures these too, into the report.
        progress: told what comes next.

    Raises: GtError of whatever fails; KeyboardInterrupt. The report is consistent then too.
    """
    started = time.perf_counter()
    try:
        _measure_latency(report, ways, amounts, progress)
        firsts = [way for i, way in enumerate(ways) if way.engine not in _names(ways[:i])]
        for way in firsts:
            if amounts.first_frames:
                _measure_first_frame(report, path, way, amounts, progress)
            if amounts.most_sessions:
                _measure_sessions(report, way, amounts, progress)
            if amounts.fidelity_frames:
                progress(f"{way.engine}: pictures of fast against fp32")
                with ExitStack() as stack:
                    fast, exact = way.open("fast"), way.open("fp32")
                    stack.callback(fast.close)
                    stack.callback(exact.close)
                    report.fidelity.append(
                        measure_fidelity(
                            fast,
                            exact,
                            frames=amounts.fidelity_frames,
                            seconds=_FIDELITY_SECONDS,
                        )
                    )
        if peers is not None:
            peers(ways[0])
        report.complete = True
    finally:
        report.seconds = time.perf_counter() - started
        report.machine = replace(report.machine, load_after=load_average())


def _names(ways: Sequence[Way]) -> set[str]:
    return {way.engine for way in ways}


def _measure_latency(
    report: Report, ways: Sequence[Way], amounts: Amounts, progress: Callable[[str], None]
) -> None:
    plural = "ways to run, in turn" if len(ways) > 1 else "way to run"
    progress(f"frame latency: {len(ways)} {plural}, {amounts.seconds:g} s each")
    with ExitStack() as stack:
        streams = []
        for way in ways:
            streams.append(way.open())
            stack.callback(streams[-1].close)
        run = LatencyRun(streams)
        before = core_seconds()
        try:
            run.run(amounts.seconds)
        finally:
            report.cases = run.results()
            report.machine = replace(report.machine, core_wait=_wait(before, core_seconds()))


def _wait(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    """Share of waiting in the time between two answers of `core_seconds`."""
    if before is None or after is None:
        return None
    ran, waited = after[0] - before[0], after[1] - before[1]
    return waited / (ran + waited) if ran > 0 else None


def _measure_first_frame(
    report: Report, path: Path, way: Way, amounts: Amounts, progress: Callable[[str], None]
) -> None:
    progress(f"{way.engine}: first frame and memory of a fresh process")
    case = next(result.case for result in report.cases if result.case.engine == way.engine)
    # A fresh process reads the file: it shows the avatar itself, whatever heads were made from it.
    case = replace(
        case,
        avatar=report.avatar.name,
        gaussians=report.avatar.gaussians,
        layers=report.avatar.layers,
    )
    report.first_frame.append(measure_first_frame(path, case, way.size, amounts.first_frames))


def _measure_sessions(
    report: Report, way: Way, amounts: Amounts, progress: Callable[[str], None]
) -> None:
    progress(f"{way.engine}: sessions at 25 FPS")
    others = list(report.sessions)

    def keep(found: Sessions) -> None:
        report.sessions = [*others, found]

    stage = way.open_stage()
    try:
        measure_sessions(
            stage,
            most=amounts.most_sessions,
            seconds=amounts.session_seconds,
            on_trial=keep,
        )
    except AudioError as err:  # features come precomputed; a stream was measured from windows
        report.unavailable.append(Unavailable(what="sessions", reason=str(err)))
    finally:
        stage.close()
