"""Feature front-ends: 16 kHz sound to the 50 Hz steps that an avatar's networks were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from .. import _native
from ..errors import AudioError
from ..types import FloatArray

if TYPE_CHECKING:
    from ..avatar import AudioFrontend, LogMelConstants

__all__ = ["FeatureFrontend", "LogMel", "frontend_from_avatar"]


class FeatureFrontend(Protocol):
    """Turns sound into steps, one per 320 samples; step t stands for sample 320 t.

    Steps must not depend on how the sound is cut, and may depend on no sound at or after sample
    320 t + `right_context_samples`.
    """

    @property
    def channels(self) -> int:
        """C, values per step."""

    @property
    def right_context_samples(self) -> int:
        """Step t is due when 320 t + this many samples have arrived."""

    def push(self, samples: FloatArray) -> FloatArray:
        """Samples float32 [n], 16 kHz -> the steps they make due, float32 [k, C]."""

    def flush(self) -> FloatArray:
        """Ends the clip -> its last steps, float32 [k, C]: S samples have ceil(S / 320) in all.
        The next push starts a new clip."""

    def reset(self) -> None:
        """Forgets the clip."""


class LogMel:
    """`logmel29`: normalised log energies of mel bands, computed natively in double.

    Step t covers samples [320 t - 200, 320 t + 200); samples outside the clip are 0. A clip's
    features are bit-identical for any chunking, and within 1e-6 of a float64 computation.

    Raises:
        ValueError: constants that contradict each other.
    """

    def __init__(self, constants: LogMelConstants) -> None:
        self._native = _native.LogMel(
            np.asarray(constants.mean, np.float64),
            np.asarray(constants.std, np.float64),
            sample_rate=constants.sample_rate,
            hop=constants.hop,
            window=constants.window,
            n_fft=constants.n_fft,
            f_min=constants.f_min,
            f_max=constants.f_max,
            eps=constants.eps,
        )
        self._right_context = constants.window // 2

    @property
    def channels(self) -> int:
        return int(self._native.bands)

    @property
    def right_context_samples(self) -> int:
        return self._right_context

    def push(self, samples: FloatArray) -> FloatArray:
        return self._native.push(samples)

    def flush(self) -> FloatArray:
        return self._native.flush()

    def reset(self) -> None:
        self._native.reset()


def frontend_from_avatar(frontend: AudioFrontend) -> FeatureFrontend:
    """A fresh front-end with the avatar's constants.

    Raises:
        AudioError: the avatar was trained on features that cannot be computed from sound here, or
            its encoder cannot be loaded.
    """
    if frontend.encoder is not None:
        from .encoder import OnnxEncoder

        return OnnxEncoder(frontend.encoder)
    if frontend.constants is None:
        raise AudioError(
            f"this avatar was trained on {frontend.channels}-channel features that gt_infer cannot "
            "compute from sound. Pass them precomputed (gt-render --features x.npy)."
        )
    return LogMel(frontend.constants)
