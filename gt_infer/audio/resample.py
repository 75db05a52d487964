"""Any rate and channel count to the 16 kHz mono that the front-ends take."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TIMING
from ..errors import InputError
from ..types import FloatArray
from .samples import as_float32, mix_to_mono

__all__ = ["SAMPLE_RATES", "RateConverter", "Resampler", "check_sample_rate"]

SAMPLE_RATES = range(1_000, 768_001)  # Hz; a header that claims another is damaged


def check_sample_rate(sample_rate: int) -> None:
    """Raises: InputError: not a whole number of Hz that sound can have."""
    if not isinstance(sample_rate, int) or sample_rate not in SAMPLE_RATES:
        raise InputError(
            f"sample_rate = {sample_rate!r}: must be an integer from {SAMPLE_RATES[0]} to "
            f"{SAMPLE_RATES[-1]} Hz"
        )


class RateConverter:
    """Changes the rate of a float32 stream [n, channels], aligned to the sample.

    soxr's band-limited streaming filter. It holds back some 20 ms until more sound or `flush`
    comes, yet output sample j is the sound at time j / to_rate; where the input is cut changes no
    bit; S samples become exactly ceil(S * to_rate / from_rate). Equal rates: passes through.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._from_rate = from_rate
        self._to_rate = to_rate
        self._channels = channels
        self.reset()

    def push(self, samples: FloatArray) -> FloatArray:
        self._taken += len(samples)
        return self._convert(samples, last=False)

    def flush(self) -> FloatArray:
        """Gives what was held back; the next push starts a new stream."""
        missing = -(-self._taken * self._to_rate // self._from_rate) - self._given
        # soxr rounds its total to nearest. Silence after the end, which its filter assumes anyway,
        # makes it give at least `missing`.
        silence = np.zeros((2 * self._from_rate // self._to_rate + 2, self._channels), np.float32)
        rest = self._convert(silence, last=True)[:missing] if missing else silence[:0]
        self.reset()
        return rest

    def reset(self) -> None:
        self._stream: Any = None
        if self._from_rate != self._to_rate:
            import soxr

            self._stream = soxr.ResampleStream(
                self._from_rate, self._to_rate, self._channels, dtype="float32", quality="HQ"
            )
        self._taken = 0
        self._given = 0

    def _convert(self, samples: FloatArray, *, last: bool) -> FloatArray:
        result: FloatArray = samples
        if self._stream is not None:
            result = self._stream.resample_chunk(samples, last=last)
        self._given += len(result)
        return result


class Resampler:
    """Converts a live stream to what `FrameWindows` takes: 16 kHz, mono, float32.

    The result does not depend on how the sound is cut, is aligned to the sample, and has exactly
    ceil(S * 16000 / sample_rate) samples after `flush`. At 16 kHz sound passes at once; from other
    rates about 20 ms are held back until more arrives.

    Args:
        sample_rate: of what is pushed, Hz, 1 kHz to 768 kHz.
        channels: of what is pushed; they are averaged.

    Raises:
        InputError: a rate or channel count out of range.
    """

    def __init__(self, sample_rate: int, channels: int = 1) -> None:
        check_sample_rate(sample_rate)
        if not (isinstance(channels, int) and channels >= 1):
            raise InputError(f"channels = {channels!r}: must be an integer >= 1")
        self._channels = channels
        self._converter = RateConverter(sample_rate, TIMING.sample_rate, 1)

    def push(self, samples: npt.NDArray[Any]) -> FloatArray:
        """Takes int16 or float32 [n] (mono) or [n, channels]; gives the 16 kHz [m] that are due.

        Raises:
            InputError: wrong dtype, shape or channel count.
            AudioError: NaN or inf.
        """
        sound = as_float32(samples)
        if sound.ndim == 1:
            sound = sound[:, np.newaxis]
        if sound.shape[1] != self._channels:
            raise InputError(
                f"samples: expected [n, {self._channels}], one column per channel, got "
                f"{list(samples.shape)}"
            )
        return self._converter.push(mix_to_mono(sound))[:, 0]

    def flush(self) -> FloatArray:
        """Ends the stream: gives what was held back. The next push starts a new stream."""
        return self._converter.flush()[:, 0]

    def reset(self) -> None:
        """Forgets the stream."""
        self._converter.reset()
