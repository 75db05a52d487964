"""gt-export's part about graphs, engines and their cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from gt_infer.avatar import Avatar
from gt_infer.cli.common import printable
from gt_infer.engines.cache import EngineCache
from gt_infer.engines.deform_io import PRECISIONS
from gt_infer.engines.tensorrt_build import PORTABLE
from gt_infer.errors import InputError

from .planning import Plan, Request, Target, plan_targets

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

__all__ = ["add_arguments", "clear_cache", "list_cache", "plan_of", "run_targets"]

EXIT_GATE_FAILED = 1
_OPTIONS = (
    "sm",
    "attention",
    "refittable",
    "strip_weights",
    "version_compatible",
    "hardware_compatible",
    "no_check",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("graphs and engines (docs/export.md)")
    group.add_argument(
        "--target",
        choices=get_args(Target),
        help="also make ONNX graphs, and of them TensorRT engines; all: what can be made here",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp16",
        help="of the engines' products (default: %(default)s)",
    )
    group.add_argument(
        "--sm",
        type=_sms,
        default=(),
        metavar="86,89,120",
        help="tensorrt-rtx: one engine for each compute capability (default: portable, one for "
        "all)",
    )
    group.add_argument(
        "--attention", action="store_true", help="the engine also gives the attention weights"
    )
    group.add_argument(
        "--refittable", action="store_true", help="weights can be replaced later; needs a GPU"
    )
    group.add_argument(
        "--strip-weights",
        action="store_true",
        help="engines without weights, which are refitted from the ONNX graph; needs a GPU",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="tensorrt: later versions up to the next major one can load the engine",
    )
    group.add_argument(
        "--hardware-compatible",
        action="store_true",
        help="tensorrt: other GPUs, of compute capability 8.0 and later, can run the engine",
    )
    group.add_argument("--no-check", action="store_true", help="skip the accuracy gate")
    group.add_argument("--list-cache", action="store_true", help="list the runtime's engines")
    group.add_argument("--clear-cache", action="store_true", help="remove the runtime's engines")


def plan_of(arguments: argparse.Namespace) -> Plan | None:
    """What will be made; None without --target.

    Raises: as `plan_targets`; InputError: an option that needs --target.
    """
    if arguments.target is None:
        for option in _OPTIONS:
            if getattr(arguments, option):
                raise InputError(f"--{option.replace('_', '-')} needs --target")
        return None
    return plan_targets(
        Request(
            target=arguments.target,
            precision=arguments.precision,
            sms=arguments.sm,
            attention=arguments.attention,
            refittable=arguments.refittable,
            stripped=arguments.strip_weights,
            version_compatible=arguments.version_compatible,
            hardware_compatible=arguments.hardware_compatible,
            checks=not arguments.no_check,
        )
    )


def run_targets(
    plan: Plan,
    avatar: Avatar,
    stem: Path,
    checkpoint: Checkpoint | None,
    progress: Callable[[str], None],
) -> int:
    """Returns: 0, or 1 when the accuracy gate failed. Raises: as `export_targets`."""
    from .targets import export_targets  # brings torch along

    outcome = export_targets(avatar, stem, plan, checkpoint=checkpoint, progress=progress)
    for check in outcome.checks:
        print("\n".join(check.lines()))
    for path in outcome.files:
        print(f"{printable(str(path))}: {path.stat().st_size / 1e6:.2f} MB")
    for reason in outcome.left_out:
        print(f"left out   {printable(reason)}")
    if not outcome.passed:
        print(f"error: {stem.name} does not pass the accuracy gate", file=sys.stderr)
        return EXIT_GATE_FAILED
    return 0


def list_cache() -> int:
    cache = EngineCache()
    entries = cache.entries()
    total = sum(entry.size for entry in entries)
    print(f"{cache.folder}: {len(entries)} engine(s), {total / 1e6:.1f} MB")
    for entry in entries:
        what = f"damaged: {entry.problem}"
        if entry.facts is not None:
            facts = entry.facts
            what = (
                f"{facts.graph} {facts.precision}, {facts.flavour} {facts.version}, sm {facts.sm}, "
                f"avatar {facts.avatar[:16]}"
            )
        print(printable(f"  {entry.path.name}: {entry.size / 1e6:.1f} MB, {what}"))
    return 0


def clear_cache() -> int:
    """Raises: OSError."""
    cache = EngineCache()
    print(f"{cache.folder}: {cache.clear()} engine(s) removed")
    return 0


def _sms(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(name.isdecimal() or name == PORTABLE for name in names):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected {PORTABLE}, or compute capabilities without a dot such as "
            "86,89,120"
        )
    return names
