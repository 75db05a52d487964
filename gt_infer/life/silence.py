"""The mouth rests in silence: while sound is quiet, the networks hear digital silence."""

from __future__ import annotations

import numpy as np

from ..audio.frontend import FeatureFrontend
from ..config import TIMING
from ..errors import InputError
from ..types import FloatArray

__all__ = ["GatedFrontend"]

# The level of a step is that of the last 25 ms when it becomes due: of a log-mel front-end, the
# very samples that the step is made of. Only what is above 200 Hz counts, so that hum, rumble and
# an offset do not hold the gate open.
_BLOCK_SAMPLES = 400
_FIRST_BIN = 200 * _BLOCK_SAMPLES // TIMING.sample_rate
_PHASE = 2.0 * np.pi * np.arange(_BLOCK_SAMPLES) / _BLOCK_SAMPLES
_HANN = 0.5 - 0.5 * np.cos(_PHASE)
# The bins below, by a cosine and a sine each, so that their power is the sum of squares.
_LOW_BINS = np.concatenate(
    [
        [np.sqrt(0.5) * _HANN],
        *([_HANN * np.cos(k * _PHASE), _HANN * np.sin(k * _PHASE)] for k in range(1, _FIRST_BIN)),
    ]
)
# From the power of the windowed samples to their mean square before windowing.
_POWER = 1.0 / float(np.square(_HANN).sum())
_LOW_POWER = 2.0 / _BLOCK_SAMPLES * _POWER  # a bin's mirror image counts, too (Parseval)

# Noise that is always there is the least level, smoothed over some 50 ms, of the last 1.5 to
# 3 s: speech, too, falls silent for moments (minimum statistics; Martin 2001). The gate opens this
# much above it, so that noise louder than the threshold closes the mouth as well.
_ABOVE_NOISE = 10.0**0.9
_NOISE_SHARE = 0.4
_NOISE_STEPS = 75
# Never more than this above the threshold, whatever goes on without a break.
_HIGHEST = 10.0**1.5

_HYSTERESIS = 10.0**-0.3
# Longer than the closure of a plosive, which is silent and part of speech.
_HOLD_STEPS = 10
_RELEASE_STEPS = 6


class GatedFrontend:
    """A front-end whose steps become those of digital silence while the sound is quiet.

    Opens with the first step whose level reaches `threshold_db`, at once, so that an onset is not
    cut. Closes when the level has stayed 3 dB lower for 200 ms, by a cross-fade of 120 ms between
    steps: the sound itself is never touched. While open, steps are the inner front-end's, bit for
    bit. Steady noise raises the threshold to 9 dB above itself, by up to 15 dB. A clip starts shut.

    What comes out is a function of the stream alone, however it is cut.

    Args:
        inner: a fresh front-end, owned by this object from here on.
        threshold_db: level above 200 Hz that is taken for speech, -120 to 0 dB re the mean square
            of full scale.

    Raises:
        InputError: threshold_db out of range.
    """

    def __init__(self, inner: FeatureFrontend, *, threshold_db: float = -50.0) -> None:
        if not -120.0 <= threshold_db <= 0.0:  # phrased so that NaN is refused too
            raise InputError(f"threshold_db = {threshold_db!r}: must be -120 to 0 (dBFS)")
        self._inner = inner
        self._threshold = 10.0 ** (threshold_db / 10.0)
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
        past = np.zeros(self.right_context_samples, np.float32)
        steps = self._gate(self._inner.flush(), past)
        self._start_clip()
        return steps

    def reset(self) -> None:
        self._inner.reset()
        self._start_clip()

    def _start_clip(self) -> None:
        # Step t is judged by the 400 samples before 320 t + right.
        right = min(self.right_context_samples, _BLOCK_SAMPLES)
        self._sound = np.zeros(_BLOCK_SAMPLES - right, np.float32)  # from the next block's start
        self._quiet_steps = _HOLD_STEPS + _RELEASE_STEPS  # in a row; so many: shut
        self._steps = 0
        self._smooth = 0.0
        # Until something is known, no noise: a clip may begin in the middle of a word.
        self._least = self._least_before = 0.0

    def _gate(self, steps: FloatArray, samples: FloatArray) -> FloatArray:
        sound = np.concatenate([self._sound, samples])
        start = 0
        shares = np.empty((len(steps), 1), np.float32)
        for index in range(len(steps)):
            shares[index] = self._share(_power(sound[start : start + _BLOCK_SAMPLES]))
            start += TIMING.hop_samples
        self._sound = sound[start:].copy()
        if (shares == 1.0).all():
            return steps
        faded = self._rest + shares * (steps - self._rest)
        return np.where(shares == 1.0, steps, faded)

    def _share(self, power: float) -> float:
        """How much of the next step passes, 0 to 1, given its level."""
        speech = max(self._threshold, self._noise(power) * _ABOVE_NOISE)
        speech = min(speech, self._threshold * _HIGHEST)
        if self._quiet_steps < _HOLD_STEPS:
            speech *= _HYSTERESIS
        self._quiet_steps = 0 if power >= speech else self._quiet_steps + 1
        return min(1.0, max(0.0, 1.0 - (self._quiet_steps - _HOLD_STEPS) / _RELEASE_STEPS))

    def _noise(self, power: float) -> float:
        """Power of the noise that is always there, as far as is known."""
        share = _NOISE_SHARE if self._steps else 1.0
        self._smooth += share * (power - self._smooth)
        if self._steps % _NOISE_STEPS == 0:
            self._least_before, self._least = self._least, self._smooth
        self._least = min(self._least, self._smooth)
        self._steps += 1
        return min(self._least, self._least_before)


def _power(block: FloatArray) -> float:
    """Mean square of 400 samples above 200 Hz. One block at a time, so that the result cannot
    depend on what it is computed together with."""
    samples = block.astype(np.float64)
    windowed = _HANN * samples
    low = _LOW_BINS @ samples
    power = _POWER * float(windowed @ windowed) - _LOW_POWER * float(low @ low)
    return max(0.0, power)  # rounding, where there is nothing else
