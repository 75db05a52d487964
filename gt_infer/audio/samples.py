"""What counts as sound: int16 or float32 arrays, finite, and one way to mix them to mono."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AudioError, InputError
from ..types import FloatArray

__all__ = ["LOUDEST", "as_float32", "is_sound", "mix_to_mono"]

# Full scale is 1. Mixing and filtering add samples up; sums of these are still finite.
LOUDEST = 1e35


def as_float32(
    samples: npt.NDArray[Any], *, name: str = "samples", loudest: float = LOUDEST
) -> FloatArray:
    """Samples as float32, full scale 1: int16 is divided by 32768, float32 is returned as it is.

    Args:
        samples: int16 or float32, [n] or [n, channels].
        name: what the error calls it.
        loudest: largest magnitude.

    Raises:
        InputError: not such an array.
        AudioError: NaN, inf or beyond `loudest`; the message says where.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype not in (np.int16, np.float32):
        kind = getattr(samples, "dtype", type(samples).__name__)
        raise InputError(
            f"{name}: expected a numpy array of int16 or float32, got {kind}. Convert with "
            f"{name}.astype(np.float32); full scale is 1.0."
        )
    if samples.ndim not in (1, 2):
        raise InputError(f"{name}: expected [n] or [n, channels], got {list(samples.shape)}")
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    fine = is_sound(samples, loudest)
    if not fine.all():
        at = int(np.argwhere(~fine)[0, 0])
        raise AudioError(
            f"{name}[{at}] is {samples[at]}: sound must be finite, and its full scale is 1.0"
        )
    return np.ascontiguousarray(samples)


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
