"""Plain data that passes between the parts: no behaviour beyond checking itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Camera", "FloatArray", "Gaussians"]

FloatArray = npt.NDArray[np.float32]


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
            raise ValueError(f"camera size {self.width}x{self.height}: both must be >= 1 pixel")
        if not (math.isfinite(self.focal) and self.focal > 0):
            raise ValueError(f"camera focal = {self.focal}: must be finite and > 0 (pixels)")
