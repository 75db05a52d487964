"""The mouth rests in silence: below a level, the networks hear digital silence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..audio.frontend import FeatureFrontend
from ..config import TIMING
from ..errors import InputError
from ..types import FloatArray

__all__ = ["GatedFrontend"]

Float64Array = npt.NDArray[np.float64]

# The level of a step is that of the last 25 ms when it becomes due: of a log-mel front-end, the
# very samples that the step is made of. Only what is above 200 Hz counts, so that hum, rumble and
# an offset do not hold the gate open.
_BLOCK_SAMPLES = 400
_FIRST_BIN = 200 * _BLOCK_SAMPLES // TIMING.sample_rate
_HANN = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_BLOCK_SAMPLES) / _BLOCK_SAMPLES)
# From a one-sided power sum to the mean square of the samples before windowing (Parseval).
_POWER = 2.0 / (_BLOCK_SAMPLES * float(np.square(_HANN).sum()))

_HYSTERESIS_DB = 6.0
# Longer than a plosive's closure, which is silent and part of speech.
_HOLD_STEPS = 10
_RELEASE_STEPS = 6


class GatedFrontend:
    """A front-end whose steps become those of digital silence while the sound is quiet.

    Opens at once, with the first step whose level reaches `threshold_db`, so that nothing of an
    onset above it is lost. Closes when the level has stayed 6 dB lower for 200 ms, by a cross-fade
    of 120 ms between steps: the sound itself is never touched. While open, steps are the inner
    front-end's, bit for bit. A clip starts closed.

    What comes out is a function of the stream alone, however it is cut.

    Args:
        inner: a fresh front-end, owned by this object from here on.
        threshold_db: level from 200 Hz up that counts as speech, in dB re full scale, below 0:
            0 dB is the mean square of a full-scale square wave.

    Raises:
        InputError: threshold_db out of range.
    """

    def __init__(self, inner: FeatureFrontend, *, threshold_db: float = -50.0) -> None:
        if not -120.0 <= threshold_db <= 0.0:  # phrased so that NaN is refused too
            raise InputError(f"threshold_db = {threshold_db!r}: must be -120 to 0 (dBFS)")
        self._inner = inner
        self._open_power = 10.0 ** (threshold_db / 10.0)
        self._close_power = 10.0 ** ((threshold_db - _HYSTERESIS_DB) / 10.0)
        inner.reset()
        self._rest: FloatArray = inner.push(np.zeros(TIMING.sample_rate, np.float32))[-1].copy()
        self.reset()

    @property
    def channels(self) -> int:
        return self._inner.channels

    @property
    def right_context_samples(self) -> int:
        return self._inner.right_context_samples

    def push(self, samples: FloatArray) -> FloatArray:
        return self._gate(self._inner.push(samples), samples)

    def flush(self) -> FloatArray:
        # Outside the clip there is silence, as for the inner front-end.
        past = np.zeros(self.right_context_samples + _BLOCK_SAMPLES, np.float32)
        steps = self._gate(self._inner.flush(), past)
        self._start_clip()
        return steps

    def reset(self) -> None:
        self._inner.reset()
        self._start_clip()

    def _start_clip(self) -> None:
        # Steps are judged by the block before this many samples after their own time.
        right = min(self.right_context_samples, _BLOCK_SAMPLES)
        self._sound = np.zeros(_BLOCK_SAMPLES - right, np.float32)  # from the next block's start
        self._quiet_steps = _HOLD_STEPS + _RELEASE_STEPS  # shut

    def _gate(self, steps: FloatArray, samples: FloatArray) -> FloatArray:
        sound = np.concatenate([self._sound, samples])
        start = 0
        shares = np.empty(len(steps), np.float32)
        for index in range(len(steps)):
            shares[index] = self._share(_power(sound[start : start + _BLOCK_SAMPLES]))
            start += TIMING.hop_samples
        self._sound = sound[start:].copy()
        if (shares == 1.0).all():
            return steps
        share = shares[:, np.newaxis]
        return np.where(share == 1.0, steps, self._rest + share * (steps - self._rest))

    def _share(self, power: float) -> float:
        """How much of a step passes, 0 to 1, given the level of this step and those before."""
        is_open = self._quiet_steps < _HOLD_STEPS
        if power >= (self._close_power if is_open else self._open_power):
            self._quiet_steps = 0
        else:
            self._quiet_steps += 1
        return min(1.0, max(0.0, 1.0 - (self._quiet_steps - _HOLD_STEPS) / _RELEASE_STEPS))


def _power(block: FloatArray) -> float:
    """Mean square of 400 samples above 200 Hz. One block at a time, so that the result cannot
    depend on what it is computed together with."""
    spectrum = np.fft.rfft(_HANN * block)[_FIRST_BIN:]
    return _POWER * float(np.vdot(spectrum, spectrum).real)
