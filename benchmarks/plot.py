"""A report as a picture: every frame, the stages, and a curve over whatever was varied."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gt_infer.destination import destination
from gt_infer.errors import EngineError

from .report import Case, CaseResult, Report
from .sections import case_label, describe_case
from .stream import STAGES
from .timing import DEADLINE_MS

__all__ = ["draw", "load_pyplot"]

_PANEL = (7.0, 4.2)  # inches
_DPI = 110
_AXES: dict[str, Callable[[Case], float]] = {
    "Gaussians": lambda case: case.gaussians,
    "pixels": lambda case: case.width * case.height,
    "threads": lambda case: case.threads,
}
_MOST_LINES = 8  # of frame distributions: more cannot be told apart


def load_pyplot() -> Any:
    """matplotlib without a display. Raises: EngineError: it is not installed."""
    try:
        import matplotlib
    except ImportError as err:
        raise EngineError(f"plots need matplotlib ({err}): pip install 'gt-infer[bench]'") from err
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes a PNG, whole or not at all. Raises: EngineError: no matplotlib. OSError."""
    pyplot = load_pyplot()
    panels: list[Callable[[Any], None]] = []
    if report.cases:
        panels += [
            partial(_draw_frames, report.cases),
            partial(_draw_stages, report.cases),
        ]
    panels += [partial(_draw_curve, report.cases, name) for name in _varied(report.cases)]
    if any(found.trials for found in report.sessions):
        panels.append(partial(_draw_sessions, report))
    rows = max(1, -(-len(panels) // 2))
    figure, grid = pyplot.subplots(
        rows,
        2,
        figsize=(2 * _PANEL[0], rows * _PANEL[1]),
        squeeze=False,
        layout="constrained",
    )
    title = f"{report.avatar.name} on {report.machine.cpu}, {report.machine.cores} core(s)"
    if len(report.cases) == 1:
        title += f"\n{describe_case(report.cases[0].case)}"
    figure.suptitle(f"{title}; {report.created}", fontsize=10)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    target = destination(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, dpi=_DPI, format="png")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        pyplot.close(figure)


def _draw_frames(results: Sequence[CaseResult], axes: Any) -> None:
    cases = [result.case for result in results]
    for result in results[:_MOST_LINES]:
        values = sorted(result.frame_ms)
        share = [100 * (i + 1) / len(values) for i in range(len(values))]
        axes.step(values, share, where="post", label=case_label(result.case, cases))
    axes.axvline(DEADLINE_MS, color="0.4", linestyle="--", label="40 ms: one frame at 25 FPS")
    axes.set_xscale("log")
    left_out = len(results) - _MOST_LINES
    title = (
        f"Frame latency (the first {_MOST_LINES} ways to run)" if left_out > 0 else "Frame latency"
    )
    axes.set(title=title, xlabel="ms", ylabel="% of frames that took at most this")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


def _draw_stages(results: Sequence[CaseResult], axes: Any) -> None:
    cases = [result.case for result in results]
    labels = [case_label(case, cases) for case in cases]
    left = [0.0] * len(results)
    for stage in STAGES:
        widths = [max(0.0, result.stages[stage]) for result in results]
        axes.barh(labels, widths, height=0.6, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_ylim(
        len(results) - 0.5 if len(results) > 1 else 1.5, -0.5 if len(results) > 1 else -1.5
    )
    axes.set(title="Stages, medians", xlabel="ms")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)


def _varied(results: Sequence[CaseResult]) -> list[str]:
    return [
        name for name, value in _AXES.items() if len({value(result.case) for result in results}) > 1
    ]


def _draw_curve(results: Sequence[CaseResult], name: str, axes: Any) -> None:
    """Median latency over one axis; a line joins the cases that are alike otherwise."""
    value = _AXES[name]
    others = [other for key, other in _AXES.items() if key != name]
    lines: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in results:
        case = result.case
        key: tuple[object, ...] = (case.engine, case.isa, case.precision, case.layers)
        key += tuple(other(case) for other in others)
        lines.setdefault(key, []).append(result)
    firsts = [line[0].case for line in lines.values()]
    for line in lines.values():
        line.sort(key=lambda result: value(result.case))
        x = [value(result.case) for result in line]
        y = [result.latency.p50 for result in line]
        low = [p50 - min(result.round_ms) for p50, result in zip(y, line, strict=True)]
        high = [max(result.round_ms) - p50 for p50, result in zip(y, line, strict=True)]
        spread = [[max(0.0, gap) for gap in gaps] for gaps in (low, high)]
        axes.errorbar(
            x, y, yerr=spread, marker="o", capsize=3, label=case_label(line[0].case, firsts)
        )
    if name == "threads":
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=f"Latency over {name}", xlabel=name, ylabel="ms, p50 (bars: rounds' extremes)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8)


def _draw_sessions(report: Report, axes: Any) -> None:
    for found in report.sessions:
        trials = sorted(found.trials, key=lambda trial: trial.sessions)
        x = [trial.sessions for trial in trials]
        for name in ("p50", "p99"):
            y = [getattr(trial, name) for trial in trials]
            axes.plot(x, y, marker="o", linestyle="", label=f"{found.case.engine} {name}")
    axes.axhline(DEADLINE_MS, color="0.4", linestyle="--", label="40 ms")
    axes.set(
        title="Sessions at 25 FPS (a trial ends at its first late frame)",
        xlabel="sessions",
        ylabel="ms from sound to picture",
    )
    longest = max(trial.p99 for found in report.sessions for trial in found.trials)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.1 * max(DEADLINE_MS, longest))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
