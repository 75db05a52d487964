"""What is made of timings. All times are milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from .report import Latency, Ratio

__all__ = ["DEADLINE_MS", "interleave", "median", "paired_ratio", "summarize"]

DEADLINE_MS = 40.0  # one frame period at 25 FPS
_LEAST_ROUNDS = 3
_LOW, _HIGH = 10, 90  # percentiles that the spread of a ratio is stated as


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def summarize(frame_ms: Sequence[float]) -> Latency:
    """Percentiles are of single frames; FPS is frames over the sum of their times."""
    p50, p90, p99 = np.percentile(frame_ms, (50, 90, 99)).tolist()
    return Latency(
        p50=p50,
        p90=p90,
        p99=p99,
        max=max(frame_ms),
        fps=1000.0 * len(frame_ms) / sum(frame_ms),
        frames=len(frame_ms),
        missed=sum(value > DEADLINE_MS for value in frame_ms),
    )


def interleave(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    *,
    seconds: float = float("inf"),
    warm_up: int = 1,
    between: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Time several calls in turn, A B C A B C ...: a busy neighbour slows all of them.

    Every other round goes backwards, so that none always follows the same predecessor.

    Args:
        seconds: no round begins after so long, once there have been three.
        warm_up: unmeasured calls of each before the first round.
        between: called before every timed call, outside the clock.

    Returns: per call, its times; the same number for all.
    """
    for call in calls:
        for _ in range(warm_up):
            call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    for index in range(rounds):
        if index >= _LEAST_ROUNDS and time.perf_counter() > end:
            break
        order = range(len(calls)) if index % 2 == 0 else reversed(range(len(calls)))
        for which in order:
            if between is not None:
                between()
            start = time.perf_counter()
            calls[which]()
            times[which].append((time.perf_counter() - start) * 1e3)
    return times


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Median and spread of the ratios of times that were taken one right after the other."""
    ratios = np.array(numerator) / np.array(denominator)
    low, middle, high = np.percentile(ratios, (_LOW, 50, _HIGH)).tolist()
    return Ratio(median=middle, low=low, high=high, pairs=len(ratios))
