"""What a soak's memory did: slopes after warm-up, and a plot of one or more runs of soak.py.

scripts/soak_report.py soak.csv [more.csv ...] --warm-up 0.25 --plot docs/images/soak.png
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAST = ("frames", "clips", "interrupts", "resets", "sessions", "dropped", "threads", "files")


@dataclass(frozen=True)
class Trend:
    """What a run's memory did after warm-up."""

    audio_hours: float
    wall_hours: float
    start_mib: float
    end_mib: float
    rss_slope: float  # MB per hour of sound, least squares
    heap_slope: float  # likewise
    late: float  # MB of RSS, mean of the last tenth minus mean of the tenth in the middle


def read_csv(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def trend(columns: dict[str, np.ndarray], warm_up_hours: float) -> Trend:
    warm = columns["audio_s"] >= warm_up_hours * 3600
    if warm.sum() < 10:
        raise SystemExit(f"error: fewer than 10 rows after a warm-up of {warm_up_hours} h of sound")
    hours = columns["audio_s"][warm] / 3600
    rss, heap = (columns[name][warm] * 1024 / 1e6 for name in ("rss_kib", "heap_kib"))
    tenth = len(rss) // 10
    middle = (len(rss) - tenth) // 2
    return Trend(
        audio_hours=float(columns["audio_s"][-1] / 3600),
        wall_hours=float(columns["wall_s"][-1] / 3600),
        start_mib=float(rss[:tenth].mean() * 1e6 / (1 << 20)),
        end_mib=float(rss[-tenth:].mean() * 1e6 / (1 << 20)),
        rss_slope=float(np.polyfit(hours, rss, 1)[0]),
        heap_slope=float(np.polyfit(hours, heap, 1)[0]),
        late=float(rss[-tenth:].mean() - rss[middle : middle + tenth].mean()),
    )


def plot(runs: dict[Path, dict[str, np.ndarray]], warm_up: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(runs), 1, figsize=(8, 2.6 * len(runs)), squeeze=False)
    for axis, (name, columns) in zip(axes[:, 0], runs.items(), strict=True):
        hours = columns["audio_s"] / 3600
        axis.plot(hours, columns["rss_kib"] / 1024, linewidth=0.8, label="resident")
        axis.plot(hours, columns["heap_kib"] / 1024, linewidth=0.8, label="in use, of malloc")
        axis.axvline(warm_up, color="grey", linewidth=0.8, linestyle="--")
        axis.set_ylim(0, columns["rss_kib"].max() / 1024 * 1.15)
        slope = trend(columns, warm_up).rss_slope
        axis.set_title(f"{name.stem}: {slope:+.2f} MB per hour of sound", fontsize=10)
        axis.set_xlabel("hours of sound")
        axis.set_ylabel("MiB")
        axis.legend(loc="lower right", fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("csvs", type=Path, nargs="+")
    parser.add_argument("--warm-up", type=float, default=0.25, help="hours of sound left out")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    runs = {path: read_csv(path) for path in args.csvs}
    for path, columns in runs.items():
        found = trend(columns, args.warm_up)
        print(f"{path.name}: {found.audio_hours:.2f} h of sound in {found.wall_hours:.2f} h")
        print("   " + ", ".join(f"{int(columns[name][-1])} {name}" for name in LAST))
        print(f"   RSS {found.start_mib:.1f} MiB after warm-up, {found.end_mib:.1f} MiB at the end")
        print(
            f"   per hour of sound: RSS {found.rss_slope:+.3f} MB, in use {found.heap_slope:+.3f} "
            f"MB; RSS of the last tenth {found.late:+.3f} MB against the middle"
        )
    if args.plot is not None:
        plot(runs, args.warm_up, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
