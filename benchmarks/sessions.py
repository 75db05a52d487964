"""How many people can be served at once: streams at 25 FPS without a late frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from gt_infer.config import TIMING

from .report import Sessions, SessionTrial
from .stream import SESSIONS_ARE, Speaker, Stage
from .timing import DEADLINE_MS

__all__ = ["measure_sessions", "search_upward"]

_PERIOD = 1.0 / TIMING.fps
_WARM_UP_CHUNKS = 10  # more than the lookahead: from here on every chunk gives a frame
_ATTEMPTS = 2  # a number of sessions fails when it fails twice: once may be a neighbour's fault


def measure_sessions(
    stage: Stage, *, most: int, seconds: float, on_trial: Callable[[Sessions], None]
) -> None:
    """Searches upward: 1, 2, 4, ... sessions until some frame comes late, then between.

    Args:
        most: where the search ends.
        seconds: length of a trial; one that fails ends at its first late frame.
        on_trial: told what is known after every trial.

    Raises: AudioError: the avatar's features cannot be computed from sound.
    """
    speakers: list[Speaker] = []
    trials: list[SessionTrial] = []

    def holds(count: int) -> bool:
        while len(speakers) < count:
            speakers.append(stage.speaker(len(speakers)))
            for _ in range(_WARM_UP_CHUNKS):
                speakers[-1].step()
        for _ in range(_ATTEMPTS):
            trials.append(_trial(speakers[:count], seconds))
            sustained = max((t.sessions for t in trials if t.late == 0), default=0)
            on_trial(
                Sessions(
                    case=stage.case,
                    what=SESSIONS_ARE,
                    sustained=sustained,
                    is_limit=sustained == most,
                    trials=list(trials),
                )
            )
            if trials[-1].late == 0:
                return True
        return False

    search_upward(holds, most)


def search_upward(holds: Callable[[int], bool], most: int) -> int:
    """The largest count up to `most` that holds, if those below hold too: doubling, then halving
    the gap. 0 when not even one does."""
    good, bad = 0, 1
    while bad <= most and holds(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def _trial(speakers: list[Speaker], seconds: float) -> SessionTrial:
    """Every session in a thread of its own. Their chunks come evenly spread over the 40 ms, as
    those of strangers do."""
    n_frames = max(1, round(seconds * TIMING.fps))
    delays: list[float] = []  # milliseconds from sound to picture; appending is atomic
    stop = threading.Event()
    failures: list[BaseException] = []
    begin = time.perf_counter() + _PERIOD

    def speak(speaker: Speaker, offset: float) -> None:
        try:
            for frame in range(n_frames):
                due = begin + offset + frame * _PERIOD
                if stop.wait(max(0.0, due - time.perf_counter())):
                    return
                speaker.step()
                delays.append((time.perf_counter() - due) * 1e3)
                if delays[-1] > DEADLINE_MS:
                    stop.set()
        except BaseException as err:
            failures.append(err)
            stop.set()

    threads = [
        threading.Thread(target=speak, args=(speaker, _PERIOD * i / len(speakers)), daemon=True)
        for i, speaker in enumerate(speakers)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    p50, p99 = np.percentile(delays, (50, 99)).tolist()
    return SessionTrial(
        sessions=len(speakers),
        frames=len(delays),
        late=sum(delay > DEADLINE_MS for delay in delays),
        p50=p50,
        p99=p99,
        max=max(delays),
    )
