"""Plain data that passes between the parts: no behaviour beyond checking itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

__all__ = ["Camera", "FloatArray", "Frame", "Gaussians"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a session, with the sound to play while it is shown.

    Attributes:
        image: as the renderer's `output` says, for example uint8 [H, W, 3].
        index: 0, 1, ... since the session's start or last `reset`, without gaps but for frames that
            were dropped or interrupted.
        pts: seconds, index / 25 exactly.
        sound: the samples that were pushed for this frame's 40 ms, as they were pushed: dtype,
            rate, channels. Put end to end, the frames' sounds are the clip; the last one's may be
            shorter.
        sample_rate: of `sound`, Hz.
        alpha: [H, W] float32 or None: see `Renderer.render_window`.
        depth: [H, W] float32 or None.
        attention: uint8 [4, H, W, 3] or None: what the head looks at, for the audio, eye, camera
            and null token.
    """

    image: npt.NDArray[Any]
    index: int
    pts: float
    sound: npt.NDArray[Any]
    sample_rate: int
    alpha: FloatArray | None = None
    depth: FloatArray | None = None
    attention: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Gaussians:
    """N activated Gaussians, as the splatter takes them (MODEL section 2, steps 6 and 7).

    Attributes:
        means: [N, 3] float32, head space.
        quats: [N, 4] float32, unit length, w x y z.
        scales: [N, 3] float32, standard deviations > 0.
        opacities: [N] float32 in [0, 1].
        sh: [N, K, 3] float32, real SH coefficients, K = (degree + 1)^2.
        attention: [L, N, 4] float32 or None: per layer the weights of the audio, eye, camera and
            null token, mean over heads.
    """

    means: FloatArray
    quats: FloatArray
    scales: FloatArray
    opacities: FloatArray
    sh: FloatArray
    attention: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Camera:
    """Intrinsics of a pinhole camera whose principal point is the picture's centre.

    Attributes:
        width, height: pixels.
        focal: pixels, the same in x and y.
    """

    width: int
    height: int
    focal: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"camera size {self.width}x{self.height}: both must be >= 1 pixel")
        if not (math.isfinite(self.focal) and self.focal > 0):
            raise InputError(f"camera focal = {self.focal}: must be finite and > 0 (pixels)")
