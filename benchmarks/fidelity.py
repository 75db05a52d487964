"""What precision "fast" costs: its pictures against those of "fp32"."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .report import Fidelity
from .stream import Stream

__all__ = ["compare_pictures", "measure_fidelity", "psnr"]

Image = npt.NDArray[np.uint8]
_PEAK = 255.0


def measure_fidelity(fast: Stream, exact: Stream, *, frames: int, seconds: float) -> Fidelity:
    """Both render the same frames, side by side; nothing is timed here.

    Args:
        fast, exact: fresh streams of the same case.
        seconds: stops after so long, with fewer frames, on machines that are too slow.
    """
    pairs: list[tuple[bool, float]] = []
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(max_workers=2) as pool:
        while len(pairs) < frames and time.perf_counter() < end:
            one, other = pool.map(lambda stream: stream.step()[0], (fast, exact))
            pairs.append((np.array_equal(one, other), psnr(one, other)))
    return compare_pictures(fast, pairs)


def compare_pictures(stream: Stream, pairs: Sequence[tuple[bool, float]]) -> Fidelity:
    """From each pair's identity and PSNR. Identical pictures have no PSNR and do not enter it."""
    different = [decibel for is_same, decibel in pairs if not is_same]
    return Fidelity(
        case=stream.case,
        frames=len(pairs),
        identical=len(pairs) - len(different),
        mean_psnr_db=float(np.mean(different)) if different else None,
        worst_psnr_db=min(different, default=None),
    )


def psnr(one: Image, other: Image) -> float:
    """Peak signal-to-noise ratio in decibel; infinite when equal."""
    error = float(np.square(one.astype(np.int32) - other.astype(np.int32)).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(_PEAK**2 / error))
