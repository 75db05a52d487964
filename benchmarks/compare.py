"""Is it slower than it was? A report against an older one of the same head on the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gt_infer.errors import InputError

from .report import CaseResult, Ratio, Report
from .sections import case_label, number
from .table import Section

__all__ = ["Comparison", "compare"]

_LOW, _HIGH = 10, 90  # percentiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`slower`: what got worse by more than the threshold, in words; empty when nothing did."""

    section: Section
    slower: list[str]


def compare(old: Report, new: Report, threshold: float) -> Comparison:
    """Frame latency of every way to run that both have, and memory.

    A way to run is slower when the median ratio of its rounds' medians, each new one over each old
    one, is above 1 + `threshold` and 90 % of these ratios are above 1: a busy minute in either run
    makes some rounds long and is not a slowdown. Memory hardly varies, so its ratio decides alone.

    Args:
        threshold: 0.1 allows 10 %.

    Raises: InputError: the reports are not about the same work.
    """
    if old.avatar.sha256 != new.avatar.sha256:
        raise InputError(
            f"the older report is about another avatar ({old.avatar.name}, sha256 "
            f"{old.avatar.sha256[:16]}; now {new.avatar.name}, {new.avatar.sha256[:16]}): they "
            "cannot be compared"
        )
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
        ratio = _rounds_ratio(was, now)
        is_slower = ratio.median > 1 + threshold and ratio.low > 1
        rows.append(_row(name, was.latency.p50, now.latency.p50, ratio, is_slower))
        if is_slower:
            slower.append(f"{name}: {ratio.median - 1:.0%} slower")
    for was_memory, now_memory in _memory(old, new):
        value = now_memory / was_memory
        is_larger = value > 1 + threshold
        rows.append(
            _row(
                "memory, MB",
                was_memory,
                now_memory,
                Ratio(median=value, low=value, high=value, pairs=1),
                is_larger,
            )
        )
        if is_larger:
            slower.append(f"memory: {value - 1:.0%} more")
    notes = [f"ratio: now over before; more than {1 + threshold:.2f} is too much."]
    if old.machine.cpu != new.machine.cpu or old.machine.cores != new.machine.cores:
        notes.append(
            f"The older report is from another machine ({old.machine.cpu}, {old.machine.cores} "
            "core(s)): the ratios are about the machines."
        )
    section = Section(
        title=f"Compared with {old.created}",
        header=("", "before", "now", "ratio", "p10-p90", ""),
        rows=rows,
        notes=notes,
    )
    return Comparison(section=section, slower=slower)


def _rounds_ratio(old: CaseResult, new: CaseResult) -> Ratio:
    ratios = np.divide.outer(np.array(new.round_ms), np.array(old.round_ms))
    low, middle, high = np.percentile(ratios, (_LOW, 50, _HIGH)).tolist()
    return Ratio(median=middle, low=low, high=high, pairs=ratios.size)


def _memory(old: Report, new: Report) -> Sequence[tuple[float, float]]:
    before = {found.case: found.resident_mb for found in old.first_frame}
    return [
        (before[found.case], found.resident_mb) for found in new.first_frame if found.case in before
    ]


def _row(name: str, before: float, now: float, ratio: Ratio, is_worse: bool) -> list[str]:
    spread = f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio.pairs > 1 else ""
    verdict = "WORSE" if is_worse else "ok"
    return [name, number(before), number(now), f"{ratio.median:.2f}", spread, verdict]
