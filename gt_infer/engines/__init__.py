"""Engines: an avatar compiled for one device, behind one small protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ..avatar import Avatar
from ..config import EngineConfig, RasterConfig
from ..errors import EngineError, InputError
from ..types import Camera, FloatArray, Gaussians

__all__ = ["Canvas", "Engine", "EngineName", "EngineStatus", "OutputFormat", "create", "survey"]

EngineName = Literal["auto", "tensorrt", "cpu"]
OutputFormat = Literal["rgb8", "bgr8", "rgba8", "float32"]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """What stays the same from frame to frame of one renderer.

    Attributes:
        camera: size and focal length of the picture.
        raster: thresholds, `eps2d` already at this size.
        layers: [K, H, W, 4] float32 in [0, 1], alpha multiplied in: what is behind the head. A
            frame shows one of them or a weighted mix.
        is_transparent: whether the layers' alpha counts. If so, rgba8 is straight colour and
            alpha, the other formats are over black, and `alpha` covers head and layer.
        output: pixel format.
    """

    camera: Camera
    raster: RasterConfig
    layers: FloatArray
    is_transparent: bool
    output: OutputFormat


class Engine(Protocol):
    """Safe to call from any thread; calls take turns."""

    @property
    def name(self) -> str:
        """As `Renderer(engine=...)` takes it."""

    def describe(self) -> dict[str, Any]:
        """What runs: for logs and gt-info."""

    def prepare(self, canvas: Canvas) -> Any:
        """The canvas on this engine's device, for `render`."""

    def deform(
        self, window: FloatArray, eye: float, camera: FloatArray, *, attention: bool = False
    ) -> Gaussians:
        """MODEL section 2, steps 2 to 7: window [8, C, 16], eye in [0, 1], camera [12]."""

    def render(
        self,
        canvas: Any,
        window: FloatArray,
        eye: float,
        camera: FloatArray,
        viewmat: FloatArray,
        out: npt.NDArray[Any],
        *,
        layer_weights: Sequence[float] = (),
        alpha: FloatArray | None = None,
        depth: FloatArray | None = None,
    ) -> dict[str, float]:
        """Draws one frame into `out`; gives the wall time of its stages in milliseconds.

        layer_weights: K numbers adding up to 1; empty for the first layer."""

    def splat(
        self,
        canvas: Any,
        gaussians: Gaussians,
        viewmat: FloatArray,
        out: npt.NDArray[Any],
        *,
        layer_weights: Sequence[float] = (),
    ) -> None:
        """Draws given Gaussians (`sh` of degree 3) into `out`, without the networks."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Whether an engine can be had on this machine, and why (not)."""

    name: str
    available: bool
    reason: str


def survey() -> list[EngineStatus]:
    """The engines this version knows, in the order in which `auto` tries them."""
    from .. import _native

    isas = _native.available_isas()
    return [
        EngineStatus("tensorrt", False, _why_no_tensorrt()),
        EngineStatus(
            "cpu", True, f"native kernels for {isas[0]}, {_native.usable_cores()} usable core(s)"
        ),
    ]


def create(avatar: Avatar, engine: str, config: EngineConfig) -> Engine:
    """The engine of that name for an avatar; "auto" takes the first available of `survey`.

    Raises:
        InputError: no such engine.
        EngineError: it cannot run here.
    """
    if engine not in get_args(EngineName):
        names = ", ".join(f'"{name}"' for name in get_args(EngineName))
        raise InputError(f"engine = {engine!r}: this version has {names}")
    found = {status.name: status for status in survey()}
    if engine != "auto" and not found[engine].available:
        raise EngineError(f'engine = "{engine}": {found[engine].reason}. Or pass engine="cpu".')
    from .cpu import CpuEngine

    return CpuEngine(avatar, config)


def _why_no_tensorrt() -> str:
    from .tensorrt import unavailable_reason

    return unavailable_reason() or (
        "its networks can run here, but this build has no CUDA splatter to draw what they give"
    )


def empty_image(camera: Camera, output: OutputFormat) -> npt.NDArray[Any]:
    """A fresh output array for a format: [H, W, 3 or 4] uint8, or float32 for "float32"."""
    channels = 4 if output == "rgba8" else 3
    dtype = np.float32 if output == "float32" else np.uint8
    return np.empty((camera.height, camera.width, channels), dtype)
