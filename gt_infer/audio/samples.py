"""What counts as sound: int16 or float32 arrays, finite, and one way to mix them to mono."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AudioError, InputError
from ..types import FloatArray

__all__ = ["LOUDEST", "as_float32", "check_samples", "in_blocks", "is_sound", "mix_to_mono"]

# Full scale is 1. Mixing and filtering add samples up; sums of these are still finite.
LOUDEST = 1e35

# Long sound is worked on in blocks of so many samples. What malloc is asked for is then small and
# of few sizes: big arrays of ever other sizes, freed in another order, leave holes in its heaps,
# and a process that speaks for hours grows by them (docs/soak.md).
BLOCK = 4096

# As dtypes: every comparison with a type would make one.
_INT16, _FLOAT32 = np.dtype(np.int16), np.dtype(np.float32)


def check_samples(
    samples: npt.NDArray[Any], *, name: str = "samples", loudest: float = LOUDEST
) -> None:
    """Refuses what is no sound; takes no memory to speak of, however long it is.

    Args:
        samples: int16 or float32, [n] or [n, channels].
        name: what the error calls it.
        loudest: largest magnitude.

    Raises:
        InputError: not such an array.
        AudioError: NaN, inf or beyond `loudest`; the message says where.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype not in (_INT16, _FLOAT32):
        kind = getattr(samples, "dtype", type(samples).__name__)
        raise InputError(
            f"{name}: expected a numpy array of int16 or float32, got {kind}. Convert with "
            f"{name}.astype(np.float32); full scale is 1.0."
        )
    if samples.ndim not in (1, 2):
        raise InputError(f"{name}: expected [n] or [n, channels], got {list(samples.shape)}")
    if samples.dtype == _INT16:
        return
    for start, block in in_blocks(samples):
        # Two passes that make nothing new; phrased so that NaN is refused.
        if block.size and not (block.min() >= -loudest and block.max() <= loudest):
            fine = is_sound(block, loudest)
            at = start + int(np.argwhere(~fine)[0, 0])
            raise AudioError(
                f"{name}[{at}] is {samples[at]}: sound must be finite, and its full scale is 1.0"
            )


def as_float32(
    samples: npt.NDArray[Any], *, name: str = "samples", loudest: float = LOUDEST
) -> FloatArray:
    """Samples as float32, full scale 1: int16 is divided by 32768, float32 is returned as it is.
    Arguments and errors as `check_samples`."""
    check_samples(samples, name=name, loudest=loudest)
    if samples.dtype == _INT16:
        scaled = samples.astype(np.float32)
        scaled /= np.float32(32768)
        return scaled
    return np.ascontiguousarray(samples)


def in_blocks(samples: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Views of at most `BLOCK` samples one after another, each with the number of its first."""
    for start in range(0, len(samples), BLOCK):
        yield start, samples[start : start + BLOCK]


def is_sound(samples: FloatArray, loudest: float = LOUDEST) -> npt.NDArray[np.bool_]:
    """Which samples are finite, and will be after mixing and filtering."""
    fine: npt.NDArray[np.bool_] = np.abs(samples) <= loudest  # phrased so that NaN is not
    return fine


def mix_to_mono(samples: FloatArray) -> FloatArray:
    """[n, channels] -> [n, 1], the channels' mean."""
    if samples.shape[1] == 1:
        return samples
    # Channel by channel: numpy's sum over the short axis may add in another order for another n,
    # and the result must not depend on how the sound is cut.
    mono = samples[:, :1].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel : channel + 1]
    mono /= np.float32(samples.shape[1])
    return mono
