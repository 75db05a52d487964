"""Is it slower than it was? A report against an older one of the same head on the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gt_infer.errors import InputError

from .report import CaseResult, Report
from .sections import case_label, number
from .table import Section
from .timing import median

__all__ = ["Comparison", "check_same_avatar", "compare"]

_QUIET = 25  # percentile of the rounds: what else runs on a machine only ever adds time


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`slower`: what got worse by more than the threshold, in words; empty when nothing did."""

    section: Section
    slower: list[str]


def compare(old: Report, new: Report, threshold: float) -> Comparison:
    """Frame latency of every way to run that both have, and memory.

    A way to run is slower when both the median of its rounds and their lower quartile have grown
    by more than the threshold: a busy minute makes some rounds long, a slowdown makes all of them
    longer. Memory hardly varies, so its ratio decides alone.

    Args:
        threshold: 0.1 allows 10 %.

    Raises: InputError: the reports are not about the same work.
    """
    check_same_avatar(old, new)
    before = {result.case: result for result in old.cases}
    pairs = [(before[now.case], now) for now in new.cases if now.case in before]
    if not pairs:
        raise InputError(
            "the older report has no way to run in common with this run: give the same --engine, "
            "--isa, --size, --threads, --precision, --gaussians and --layers"
        )
    cases = [now.case for _, now in pairs]
    rows, slower = [], []
    for was, now in pairs:
        name = f"frame, {case_label(now.case, cases)}"
        ratio = median(now.round_ms) / median(was.round_ms)
        quiet = _quiet(now) / _quiet(was)
        is_slower = min(ratio, quiet) > 1 + threshold
        rows.append(_row(name, was.latency.p50, now.latency.p50, ratio, f"{quiet:.2f}", is_slower))
        if is_slower:
            slower.append(f"{name}: {ratio - 1:.0%} slower")
    for was_memory, now_memory in _memory(old, new):
        ratio = now_memory / was_memory
        is_larger = ratio > 1 + threshold
        rows.append(_row("memory, MB", was_memory, now_memory, ratio, "", is_larger))
        if is_larger:
            slower.append(f"memory: {ratio - 1:.0%} more")
    notes = [
        f"ratio: now over before, of the median round; quiet: of the lower quartile. Both above "
        f"{1 + threshold:.2f} is too much."
    ]
    if old.machine.cpu != new.machine.cpu or old.machine.cores != new.machine.cores:
        notes.append(
            f"The older report is from another machine ({old.machine.cpu}, {old.machine.cores} "
            "core(s)): the ratios are about the machines."
        )
    section = Section(
        title=f"Compared with {old.created}",
        header=("", "before", "now", "ratio", "quiet", ""),
        rows=rows,
        notes=notes,
    )
    return Comparison(section=section, slower=slower)


def check_same_avatar(old: Report, new: Report) -> None:
    """Can be asked before measuring. Raises: InputError: the reports are about two avatars."""
    if old.avatar.sha256 != new.avatar.sha256:
        raise InputError(
            f"the older report is about another avatar ({old.avatar.name}, sha256 "
            f"{old.avatar.sha256[:16]}; now {new.avatar.name}, {new.avatar.sha256[:16]}): they "
            "cannot be compared"
        )


def _quiet(result: CaseResult) -> float:
    return float(np.percentile(result.round_ms, _QUIET))


def _memory(old: Report, new: Report) -> Sequence[tuple[float, float]]:
    before = {found.case: found.resident_mb for found in old.first_frame}
    return [
        (before[found.case], found.resident_mb) for found in new.first_frame if found.case in before
    ]


def _row(
    name: str, before: float, now: float, ratio: float, quiet: str, is_worse: bool
) -> list[str]:
    verdict = "WORSE" if is_worse else "ok"
    return [name, number(before), number(now), f"{ratio:.2f}", quiet, verdict]
