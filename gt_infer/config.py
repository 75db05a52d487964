"""Frozen settings: how a checkpoint was rasterized, how its sound is framed, how to run it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from .errors import InputError

__all__ = ["TIMING", "EngineConfig", "LifeConfig", "RasterConfig", "Timing"]

Precision = Literal["fast", "fp32"]
PosePolicy = Literal["clamp", "strict", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RasterConfig:
    """Thresholds of the splatter that a checkpoint was trained with (MODEL section 3).

    They differ between renderers and are baked into the weights, so they travel in the avatar.
    The defaults are those of GaussianTalker; `csrc/include/gt/raster_params.h` holds the same
    numbers and a test keeps both equal.
    """

    near: float = 0.2  # view depth (head-space units) at or below which a Gaussian is culled
    eps2d: float = 0.3  # px^2 added to the diagonal of the 2D covariance, at the trained size
    fov_margin: float = 1.3  # x/z and y/z are clamped to this times tan(fov/2) in the Jacobian
    radius_sigmas: float = 3.0  # extent of a Gaussian's tile rectangle
    eigenvalue_floor: float = 0.1  # px^4, under the root of the larger eigenvalue
    alpha_max: float = 0.99
    alpha_min: float = 1.0 / 255.0  # fainter contributions are skipped
    transmittance_min: float = 1e-4  # blending stops before this would be crossed

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (isinstance(value, float) and math.isfinite(value) and value > 0):
                raise InputError(f"RasterConfig.{name} = {value!r}: must be a finite float > 0")
        if self.alpha_max >= 1.0:
            raise InputError(f"RasterConfig.alpha_max = {self.alpha_max}: must be < 1")
        if self.alpha_min >= self.alpha_max:
            raise InputError(
                f"RasterConfig.alpha_min = {self.alpha_min}: must be below alpha_max = "
                f"{self.alpha_max}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How sound is cut into frames (MODEL section 5). Fixed by the trained networks."""

    sample_rate: int = 16_000  # Hz
    fps: int = 25
    hop_samples: int = 320  # one feature step: 50 Hz
    chunk_samples: int = 640  # one frame period
    steps_per_window: int = 16
    windows_per_frame: int = 8
    lookahead_frames: int = 6  # whole frames of sound after a frame that it needs, as trained


TIMING = Timing()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How an engine runs.

    Attributes:
        precision: "fp32" meets the golden vectors; "fast" uses reduced-precision products where
            pictures do not show it. On the CPU: integer products with AMX, AVX-512 VNNI or
            AVX-VNNI (pictures 65 dB from "fp32"); without them both are float32.
        threads: worker threads, None = the cores this process may use.
        isa: instruction set of the CPU engine ("amx", "avx512vnni", "avx512", "avx2vnni",
            "avx2", "portable"), None = the best of this machine. See `gt-info`. "amx" has to be
            asked for: it has not run on such a processor yet.
        device: index of the GPU, for the engines that run on one (docs/gpu.md).
        device_output: pictures stay on the GPU, as `DeviceImage`.
        stream: the CUDA stream to work on: an int handle, or a stream of cupy, torch, numba, pycuda
            or cuda.core. None, one of the engine's own.
        allow_host_code: also load version-compatible TensorRT engines. They hold a library that is
            run, so let them come from a hand that you trust.
    """

    precision: Precision = "fast"
    threads: int | None = None
    isa: str | None = None
    device: int = 0
    device_output: bool = False
    stream: Any = None
    allow_host_code: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("fast", "fp32"):
            raise InputError(f'precision = {self.precision!r}: must be "fast" or "fp32"')
        if self.threads is not None and not (
            isinstance(self.threads, int) and 1 <= self.threads <= 256
        ):
            raise InputError(f"threads = {self.threads!r}: must be None or 1 to 256")
        if type(self.device) is not int or self.device < 0:
            raise InputError(f"device = {self.device!r}: must be a GPU's index, from 0")
        for name in ("device_output", "allow_host_code"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be True or False")


@dataclass(frozen=True, kw_only=True, slots=True)
class LifeConfig:
    """What the head does by itself (docs/life.md).

    Attributes:
        idle_motion: a pose that is left out is natural motion; off, the mean pose.
        blinking: a blink that is left out is natural; off, open eyes.
        silence_gate: dBFS below which the mouth rests; None, never.
        pose_range: poses outside the trained range are brought back smoothly ("clamp", with one
            warning), refused ("strict"), or shown as they are ("off").
        seed: of motion and blinks. Equal seeds, equal life.
    """

    idle_motion: bool = True
    blinking: bool = True
    silence_gate: float | None = -50.0
    pose_range: PosePolicy = "clamp"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pose_range not in ("clamp", "strict", "off"):
            raise InputError(
                f'pose_range = {self.pose_range!r}: must be "clamp", "strict" or "off"'
            )
        gate = self.silence_gate
        if gate is not None and not -120.0 <= gate <= 0.0:
            raise InputError(f"silence_gate = {gate!r}: must be None or -120 to 0 (dBFS)")
