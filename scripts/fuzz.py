"""Damages files of every kind that gt_infer and gt_export open, by the hundred thousand.

    scripts/fuzz.py run --cases 100000 --jobs 2      all kinds, each by its share
    scripts/fuzz.py run --only sound --cases 5000
    scripts/fuzz.py replay sound 1234 -o case.wav    one case, in this process, and its file
    scripts/fuzz.py guided cfg_args --seconds 60     by coverage, with atheris (pip install atheris)

A case is a function of its kind and number: a finding is found again by its number. What a case
must do is in tests/fuzz/harness.py; the suite runs a few hundred (tests/fuzz/test_short.py).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.fuzz.harness import Finding, Runner, Summary  # noqa: E402
from tests.fuzz.pool import file_of, run_cases  # noqa: E402
from tests.fuzz.targets import TARGETS  # noqa: E402

BATCH = 1000  # cases per process
# Whose branches count as new code.
GUIDED_BY = (
    "gt_infer.audio.precomputed",
    "gt_infer.avatar",
    "gt_infer.avatar_file",
    "gt_infer.avatar_network",
    "gt_infer.avatar_parts",
    "gt_infer.pose",
    "gt_infer.tracking",
    "gt_export.cfg_args",
    "gt_export.checkpoint",
    "gt_export.ply",
    "ast",
    "csv",
    "json.decoder",
    "numpy.lib.format",
    "pickletools",
    "zipfile",
)


def batches(args: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    names = args.only or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    for name in names:
        count = round(args.cases * TARGETS[name].share / total)
        for first in range(args.first, args.first + count, BATCH):
            yield name, first, min(first + BATCH, args.first + count)


def run(args: argparse.Namespace) -> int:
    totals: dict[str, Summary] = {}
    findings: list[Finding] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:

        def work(batch: tuple[str, int, int]) -> None:
            name, first, stop = batch
            summary, found = run_cases(name, first, stop, Path(folder) / f"{name}-{first}")
            totals.setdefault(name, Summary()).add(summary)
            findings.extend(found)
            for finding in found:
                print(f"{finding.kind}: {finding.target} {finding.case}: {finding.detail}")
            print(f"{time.monotonic() - begun:7.0f} s  {name} {first}..{stop - 1}", flush=True)

        list(pool.map(work, batches(args)))
    seconds = time.monotonic() - begun
    cases = sum(total.accepted + total.refused for total in totals.values())
    print(f"{cases} cases in {seconds:.0f} s, {cases / seconds:.0f} a second, {args.jobs} jobs")
    print(f"{'kind':14}{'cases':>8}{'read':>8}{'refused':>9}{'places':>8}{'memory':>10}")
    for name, total in totals.items():
        print(
            f"{name:14}{total.accepted + total.refused:8}{total.accepted:8}{total.refused:9}"
            f"{len(total.places):8}{total.most_memory / (1 << 20):7.2f} MiB"
        )
    print(f"{len(findings)} findings")
    return 1 if findings else 0


def replay(args: argparse.Namespace) -> int:
    if args.output is not None:
        args.output.write_bytes(file_of(args.target, args.case))
    with tempfile.TemporaryDirectory() as folder:
        finding = Runner(args.target, Path(folder)).run(args.case)
    print("passed" if finding is None else f"{finding.kind}: {finding.detail}")
    return 0 if finding is None else 1


def guided(args: argparse.Namespace) -> int:
    """Inputs that reach new code are kept and damaged further; anything but a GtError stops it."""
    import atheris

    from gt_infer import GtError

    target = TARGETS[args.target]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(seed)
        path = Path(folder) / f"case{target.suffix}"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            with contextlib.suppress(GtError):
                target.read(path)

        for name in GUIDED_BY:
            for function in vars(importlib.import_module(name)).values():
                if inspect.isfunction(function):
                    atheris.instrument_func(function)
        options = [f"-max_total_time={args.seconds}", "-timeout=20", "-rss_limit_mb=1024"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], read)
        atheris.Fuzz()  # exits
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="many cases, in processes of their own")
    running.add_argument("--cases", type=int, default=100_000)
    running.add_argument("--first", type=int, default=0, help="number of the first case")
    running.add_argument("--only", nargs="+", choices=TARGETS)
    running.add_argument("--jobs", type=int, default=1)
    running.set_defaults(command=run)
    replaying = commands.add_parser("replay", help="one case again")
    replaying.add_argument("target", choices=TARGETS)
    replaying.add_argument("case", type=int)
    replaying.add_argument("-o", "--output", type=Path, help="write its file here")
    replaying.set_defaults(command=replay)
    guiding = commands.add_parser("guided", help="by coverage, with atheris")
    guiding.add_argument("target", choices=TARGETS)
    guiding.add_argument("--seconds", type=int, default=60)
    guiding.set_defaults(command=guided)
    args = parser.parse_args()
    code: int = args.command(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
