"""Types of the compiled CPU core (csrc/bind)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .avatar import CanonicalGaussians, Network

_Floats = npt.NDArray[np.float32]

def available_isas() -> list[str]: ...
def usable_cores() -> int: ...
def build_info() -> dict[str, str]: ...

class LogMel:
    def __init__(
        self,
        mean: npt.NDArray[np.float64],
        std: npt.NDArray[np.float64],
        *,
        sample_rate: int = ...,
        hop: int = ...,
        window: int = ...,
        n_fft: int = ...,
        f_min: float = ...,
        f_max: float = ...,
        eps: float = ...,
    ) -> None: ...
    @property
    def bands(self) -> int: ...
    def push(self, samples: _Floats) -> _Floats: ...
    def flush(self) -> _Floats: ...
    def reset(self) -> None: ...

class RasterParams:
    def __init__(
        self,
        *,
        near: float = ...,
        eps2d: float = ...,
        fov_margin: float = ...,
        radius_sigmas: float = ...,
        eigenvalue_floor: float = ...,
        alpha_max: float = ...,
        alpha_min: float = ...,
        transmittance_min: float = ...,
    ) -> None: ...
    @property
    def near(self) -> float: ...
    @property
    def eps2d(self) -> float: ...
    @property
    def fov_margin(self) -> float: ...
    @property
    def radius_sigmas(self) -> float: ...
    @property
    def eigenvalue_floor(self) -> float: ...
    @property
    def alpha_max(self) -> float: ...
    @property
    def alpha_min(self) -> float: ...
    @property
    def transmittance_min(self) -> float: ...

class PixelFormat:
    rgb8: PixelFormat
    bgr8: PixelFormat
    rgba8: PixelFormat
    float32: PixelFormat

class Background:
    def __init__(self, pixels: _Floats) -> None: ...

class Model:
    def __init__(self, gaussians: CanonicalGaussians, network: Network) -> None: ...
    def features(self) -> _Floats: ...

class Engine:
    def __init__(
        self,
        model: Model,
        *,
        isa: str,
        precision: str,
        threads: int,
        examples: Sequence[tuple[_Floats, float, _Floats, _Floats]] = ...,
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def tokens(self, audio: _Floats, eye: float, camera: _Floats) -> _Floats: ...
    def deform(
        self, audio: _Floats, eye: float, camera: _Floats, *, attention: bool = ...
    ) -> dict[str, _Floats]: ...
    def render(
        self,
        audio: _Floats,
        eye: float,
        camera: _Floats,
        *,
        viewmat: _Floats,
        focal: float,
        raster: RasterParams,
        image: npt.NDArray[np.uint8] | _Floats,
        format: PixelFormat,
        is_transparent: bool = ...,
        background: Background | None = ...,
        layer_weights: list[float] = ...,
        alpha: _Floats | None = ...,
        depth: _Floats | None = ...,
    ) -> dict[str, float]: ...

def rasterize(
    *,
    means: _Floats,
    quats: _Floats,
    scales: _Floats,
    opacities: _Floats,
    sh: _Floats,
    viewmat: _Floats,
    focal: float,
    raster: RasterParams,
    image: npt.NDArray[np.uint8] | _Floats,
    format: PixelFormat,
    is_transparent: bool = ...,
    background: Background | None = ...,
    layer_weights: list[float] = ...,
    alpha: _Floats | None = ...,
    depth: _Floats | None = ...,
    isa: str = ...,
    threads: int = ...,
) -> None: ...
