"""gt-bench: what a user of gt_infer feels on this machine, in numbers."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import gt_infer
from gt_infer.avatar import Avatar
from gt_infer.cli.common import EXIT_INTERRUPTED, printable, run
from gt_infer.destination import destination
from gt_infer.errors import InputError

from .compare import check_same_avatar, compare
from .machine import describe_machine
from .plan import ENGINES, Choices, Way, choose_engines, choose_isas, make_ways
from .plot import draw, load_pyplot
from .report import AvatarFacts, Report
from .report_file import read_report, write_report
from .runner import Amounts, measure
from .sections import sections_of
from .table import as_markdown, as_text
from .workload import find_avatar

__all__ = ["main"]

_EXIT_SLOWER = 1
_EPILOG = """examples:
  gt-bench                                     the frozen workload, under 90 seconds
  gt-bench anna.safetensors --size 256,512,1024
  gt-bench --isa all --threads 1,2 --plot bench.png
  gt-bench --gaussians 9000,18000,36448,72896 --layers 1,2 --plot curves.png
  gt-bench --json before.json                  then, after a change:
  gt-bench --compare before.json               exit status 1 when slower
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0; 1 when --compare finds a slowdown; 2 on errors; 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["gt-bench", *map(_without_folders, words)])
    return run(lambda: _bench(arguments, command))


def _without_folders(word: str) -> str:
    """A word of a command line for those who read it elsewhere: files by name alone."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return option + equals + (Path(value).name or value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gt-bench",
        description="Measure frame latency at batch 1 (sound in, picture out), its stages, time to "
        "first frame, memory and sessions at 25 FPS. Lists are separated by commas; every "
        "combination is measured, in turn.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "avatar", nargs="?", help="avatar file, or 'demo' (default: the frozen workload)"
    )
    vary = parser.add_argument_group("what to vary")
    vary.add_argument(
        "--engine",
        choices=("auto", "all", *ENGINES),
        default="auto",
        help="auto: as a renderer chooses (default); all: every one that runs here",
    )
    vary.add_argument("--isa", type=_words, help="instruction sets of the CPU engine, or all")
    vary.add_argument("--size", type=_numbers, default=[None], help="heights, pixels")
    vary.add_argument("--threads", type=_numbers, default=[None], help="default: usable cores")
    vary.add_argument("--precision", type=_words, default=["fast"], help="fast, fp32")
    vary.add_argument(
        "--gaussians", type=_numbers, default=[None], help="synthetic heads like the avatar"
    )
    vary.add_argument("--layers", type=_numbers, default=[None], help="synthetic, likewise")
    amount = parser.add_argument_group("how much")
    amount.add_argument(
        "--seconds", type=_seconds, default=8.0, help="each way to run (default: 8)"
    )
    amount.add_argument(
        "--sessions",
        type=_count,
        default=16,
        metavar="N",
        help="search for sessions up to N; 0: do not (default: 16)",
    )
    amount.add_argument(
        "--peers", action="store_true", help="also PyTorch, ONNX Runtime, OpenVINO, in turn"
    )
    output = parser.add_argument_group("what comes out")
    output.add_argument("--json", metavar="FILE", help="everything, for programs")
    output.add_argument("--markdown", action="store_true", help="print Markdown")
    output.add_argument("--plot", metavar="FILE.png")
    output.add_argument("--compare", metavar="OLD.json", help="exit 1 when slower than it")
    output.add_argument(
        "--threshold",
        type=_percent,
        default=0.10,
        metavar="PERCENT",
        help="by which --compare allows to be slower (default: 10)",
    )
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--version", action="version", version=f"%(prog)s {gt_infer.__version__}")
    return parser


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r}: expected names separated by commas")
    return words


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as err:
        message = f"{text!r}: expected whole numbers separated by commas"
        raise argparse.ArgumentTypeError(message) from err


def _seconds(text: str) -> float:
    return _bounded(text, 0.1, 3600.0)


def _percent(text: str) -> float:
    return _bounded(text, 0.0, 1000.0) / 100


def _bounded(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {low:g} to {high:g}")
    return value


def _count(text: str) -> int:
    return int(_bounded(text, 0, 1024))


def _bench(arguments: argparse.Namespace, command: str) -> int:
    # What can be wrong is found out before minutes are spent.
    for name in (arguments.json, arguments.plot):
        if name is not None:
            _check_output(Path(name))
    if arguments.plot is not None:
        load_pyplot()
    old = None if arguments.compare is None else read_report(arguments.compare)
    engines, unavailable = choose_engines(arguments.engine)
    path, origin = find_avatar(arguments.avatar)
    avatar = Avatar.load(path)
    choices = Choices(
        engines=engines,
        isas=choose_isas(arguments.isa),
        threads=arguments.threads,
        precisions=arguments.precision,
        sizes=arguments.size,
        gaussians=arguments.gaussians,
        layers=arguments.layers,
    )
    ways = list(make_ways(avatar, choices))
    report = Report(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        machine=describe_machine(),
        avatar=_facts(avatar, origin),
        unavailable=unavailable,
    )
    if old is not None:
        check_same_avatar(old, report)
    amounts = Amounts(seconds=arguments.seconds, most_sessions=arguments.sessions)
    progress = _silent if arguments.quiet else _say
    status = 0
    try:
        measure(
            report,
            path,
            ways,
            amounts,
            peers=_peers_of(report, progress) if arguments.peers else None,
            progress=progress,
        )
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    return _deliver(arguments, report, old, status)


def _facts(avatar: Avatar, origin: str) -> AvatarFacts:
    return AvatarFacts(
        name=avatar.name,
        origin=origin,
        sha256=avatar.sha256,
        gaussians=len(avatar),
        layers=len(avatar.network.layers),
    )


def _peers_of(report: Report, progress: Callable[[str], None]) -> Callable[[Way], None]:
    def measure_them(way: Way) -> None:
        from .peers import measure_peers

        measure_peers(way, report, progress)

    return measure_them


def _deliver(arguments: argparse.Namespace, report: Report, old: Report | None, status: int) -> int:
    """Writes and prints what there is. Returns the exit status."""
    if arguments.json is not None:
        write_report(report, arguments.json)
    if arguments.plot is not None:
        draw(report, arguments.plot)
    as_words = as_markdown if arguments.markdown else as_text
    print(as_words(sections_of(report)), flush=True)
    slower: list[str] = []
    if old is not None and report.cases:
        comparison = compare(old, report, arguments.threshold)
        print(f"\n{as_words([comparison.section])}", flush=True)
        slower = comparison.slower
    for line in slower:
        print(f"slower: {printable(line)}", file=sys.stderr)
    if status == 0 and slower:
        return _EXIT_SLOWER
    return status


def _check_output(path: Path) -> None:
    """Refuse a file that cannot be written. Raises: InputError."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory; pass the name of a file")
    try:
        folder = destination(path).parent
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: not writable")


def _say(message: str) -> None:
    print(f"... {printable(message)}", file=sys.stderr, flush=True)


def _silent(message: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
