"""How the results in benchmarks/results changed over time: one PNG per machine.

python -m gt_bench.history benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gt_infer.cli.common import run
from gt_infer.errors import InputError

from .plot import load_pyplot
from .report_file import read_report
from .sections import describe_case

__all__ = ["main"]

_DPI = 110

Series = dict[str, list[tuple[datetime, float]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 on errors."""
    parser = argparse.ArgumentParser(
        prog="python -m gt_bench.history",
        description="Draw DIR/<machine>/history.png from the reports of gt-bench (bench-*.json) "
        "and of the suites (suites-*.json) beside it.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    arguments = parser.parse_args(argv)
    return run(lambda: _draw_all(arguments.folder))


def _draw_all(folder: Path) -> int:
    drawn = 0
    for machine in sorted(path for path in folder.glob("*") if path.is_dir()):
        latencies, ratios = _latencies(machine), _ratios(machine)
        if latencies or ratios:
            _draw(machine, latencies, ratios)
            print(machine / "history.png")
            drawn += 1
    if not drawn:
        raise InputError(f"{folder}: no <machine>/bench-*.json or suites-*.json in it")
    return 0


def _latencies(machine: Path) -> Series:
    """Median frame of every way to run; interrupted runs are left out."""
    series: Series = {}
    for path in sorted(machine.glob("bench-*.json")):
        report = read_report(path)
        for result in report.cases if report.complete else []:
            point = (datetime.fromisoformat(report.created), result.latency.p50)
            series.setdefault(describe_case(result.case), []).append(point)
    return series


def _ratios(machine: Path) -> Series:
    series: Series = {}
    for path in sorted(machine.glob("suites-*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            when = datetime.fromisoformat(record["created"])
            for race in record["races"]:
                series.setdefault(race["name"], []).append((when, float(race["ratio"])))
        except (ValueError, KeyError, TypeError) as err:
            raise InputError(f"{path}: not a result of the suites ({err!r})") from err
    return series


def _draw(machine: Path, latencies: Series, ratios: Series) -> None:
    pyplot = load_pyplot()
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(11, 8), layout="constrained")
    figure.suptitle(machine.name)
    _draw_series(top, latencies, "Frame latency, gt-bench", "ms, p50")
    _draw_series(bottom, ratios, "Suites", "theirs / ours")
    figure.savefig(machine / "history.png", dpi=_DPI)
    pyplot.close(figure)


def _draw_series(axes: Any, series: Series, title: str, unit: str) -> None:
    # What was measured once has no history yet, and would hide what has.
    series = {name: points for name, points in series.items() if len(points) > 1} or series
    for name, points in series.items():
        points.sort()
        axes.plot([when for when, _ in points], [value for _, value in points], "o-", label=name)
    axes.set(title=title, ylabel=unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.tick_params(axis="x", labelrotation=20)
    if series:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    sys.exit(main())
