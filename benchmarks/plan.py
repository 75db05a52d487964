"""Which ways to run are measured: the product of what the command line lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from gt_infer import _native
from gt_infer.avatar import Avatar
from gt_infer.cli.machine import find_gpus
from gt_infer.config import Precision
from gt_infer.engines import survey
from gt_infer.errors import EngineError, InputError

from .report import Unavailable
from .stream import Stage, Stream
from .synthetic import resembling

__all__ = ["ENGINES", "Choices", "Way", "choose_engines", "choose_isas", "make_ways"]

# Also those that this version may not have: asking for one gets an answer, not a usage message.
ENGINES = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What to vary. None: as gt_infer chooses by itself, or as the avatar is."""

    engines: Sequence[str]
    isas: Sequence[str | None] = (None,)
    threads: Sequence[int | None] = (None,)
    precisions: Sequence[Precision] = ("fast",)
    sizes: Sequence[int | None] = (None,)
    gaussians: Sequence[int | None] = (None,)
    layers: Sequence[int | None] = (None,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to run one head."""

    avatar: Avatar
    engine: str
    isa: str | None
    threads: int | None
    precision: str
    size: int | None

    def open(self, precision: str | None = None) -> Stream:
        """A fresh stream; `precision` instead of the way's own. Raises: InputError, EngineError."""
        options = self._options()
        return Stream(
            self.avatar, **(options if precision is None else {**options, "precision": precision})
        )

    def open_stage(self) -> Stage:
        """A fresh renderer for several speakers. Raises: InputError, EngineError."""
        return Stage(self.avatar, **self._options())

    def _options(self) -> dict[str, Any]:
        names = ("engine", "isa", "threads", "precision", "size")
        return {name: getattr(self, name) for name in names}


def choose_engines(wanted: str) -> tuple[list[str], list[Unavailable]]:
    """The engines to measure, and why others are not.

    Args:
        wanted: "auto" for what a renderer takes by itself, "all" for every one that runs here, or
            a name.

    Raises: EngineError: an engine asked for by name cannot run here.
    """
    statuses = {status.name: status for status in survey()}
    missing = []
    for name in ENGINES:
        if name not in statuses:
            reason = "not in this version of gt_infer"
        elif not statuses[name].available:
            reason = statuses[name].reason
        else:
            continue
        if name != "cpu":
            gpus = find_gpus()
            if gpus["reason"] and gpus["reason"] not in reason:
                reason += f"; {gpus['reason']}"
        missing.append(Unavailable(what=f"engine {name}", reason=reason))
    there = [name for name, status in statuses.items() if status.available]
    if wanted == "auto":
        return there[:1], missing
    if wanted == "all":
        return there, missing
    if wanted not in there:
        reason = next(item.reason for item in missing if item.what == f"engine {wanted}")
        raise EngineError(f"--engine {wanted}: {reason}. Here there is: {', '.join(there)}.")
    return [wanted], missing


def choose_isas(wanted: Sequence[str] | None) -> list[str | None]:
    """Instruction sets of the CPU engine; None for the best, "all" for every one.

    Raises: InputError: one that this machine and build do not have.
    """
    if wanted is None:
        return [None]
    there = _native.available_isas()
    if list(wanted) == ["all"]:
        return list(there)
    for isa in wanted:
        if isa not in there:
            raise InputError(f"--isa {isa}: this machine and build have {', '.join(there)}")
    return list(wanted)


def make_ways(avatar: Avatar, choices: Choices) -> Iterator[Way]:
    """Every combination; instruction sets and threads are the CPU engine's alone.

    Raises: InputError: a number out of range.
    """
    for value in choices.precisions:
        if value not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise InputError(f"--precision {value}: must be one of {known}")
    heads = [
        resembling(avatar, gaussians=count, layers=depth)
        for count, depth in itertools.product(choices.gaussians, choices.layers)
    ]
    for engine in choices.engines:
        on_cpu = engine == "cpu"
        for head, isa, threads, precision, size in itertools.product(
            heads,
            choices.isas if on_cpu else (None,),
            choices.threads if on_cpu else (None,),
            choices.precisions,
            choices.sizes,
        ):
            yield Way(
                avatar=head,
                engine=engine,
                isa=isa,
                threads=threads,
                precision=precision,
                size=size,
            )
