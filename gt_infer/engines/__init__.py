"""Engines: an avatar compiled for one device, behind one small protocol."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ..avatar import Avatar
from ..config import EngineConfig, RasterConfig
from ..errors import EngineError, InputError
from ..types import Camera, FloatArray, Gaussians

__all__ = [
    "Canvas",
    "Engine",
    "EngineName",
    "EngineStatus",
    "FrameJob",
    "OutputFormat",
    "create",
    "survey",
]

_LOG = logging.getLogger(__name__)

EngineName = Literal["auto", "tensorrt", "cuda", "cpu"]
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


@dataclass(frozen=True, slots=True, eq=False)
class FrameJob:
    """One frame of several that are drawn together: the arguments of `Engine.render`. `window` is
    None only where no network runs."""

    window: FloatArray | None
    eye: float
    camera: FloatArray
    viewmat: FloatArray
    layer_weights: Sequence[float]
    out: Any
    alpha: Any = None
    depth: Any = None


class Engine(Protocol):
    """Safe to call from any thread."""

    @property
    def name(self) -> str:
        """As `Renderer(engine=...)` takes it."""

    @property
    def gives_device_images(self) -> bool:
        """Whether pictures stay on the GPU: `out`, `alpha` and `depth` of `render` are then what
        `device_image` and `device_plane` give, otherwise numpy arrays."""

    def device_image(self, canvas: Any, out: Any) -> Any:
        """A picture to draw into: a new one, or another library's device array."""

    def device_plane(self, canvas: Any, name: str, out: Any) -> Any:
        """The same for alpha and depth."""

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
        out: Any,
        *,
        layer_weights: Sequence[float] = (),
        alpha: Any = None,
        depth: Any = None,
    ) -> dict[str, float]:
        """Draws one frame into `out`; gives the wall time of its stages in milliseconds.

        layer_weights: K numbers adding up to 1; empty for the first layer."""

    def render_many(self, canvas: Any, jobs: Sequence[FrameJob]) -> None:
        """Draws several frames, together where that is faster; the same pictures as one by one."""

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


def survey(device: int = 0) -> list[EngineStatus]:
    """The engines this version knows, in the order in which `auto` tries them.

    Args:
        device: index of the GPU.
    """
    from .. import _native
    from .cuda_api import unavailable_reason
    from .tensorrt import unavailable_reason as without_tensorrt

    isas = _native.available_isas()
    no_gpu = unavailable_reason(device)
    no_tensorrt = without_tensorrt() or no_gpu
    return [
        EngineStatus("tensorrt", no_tensorrt is None, no_tensorrt or "its networks, our splatter"),
        EngineStatus("cuda", no_gpu is None, no_gpu or "native kernels on the GPU"),
        EngineStatus(
            "cpu", True, f"native kernels for {isas[0]}, {_native.usable_cores()} usable core(s)"
        ),
    ]


def create(
    avatar: Avatar, engine: str, config: EngineConfig, *, folder: Path | None = None
) -> Engine:
    """The engine of that name for an avatar; "auto" takes the first of `survey` that works, and
    warns when a GPU engine that is there does not.

    Args:
        folder: where the avatar's file lies, and its TensorRT engines beside it.

    Raises:
        InputError: no such engine.
        EngineError: it cannot run here.
    """
    if engine not in get_args(EngineName):
        names = ", ".join(f'"{name}"' for name in get_args(EngineName))
        raise InputError(f"engine = {engine!r}: this version has {names}")
    found = {status.name: status for status in survey(config.device)}
    if engine != "auto":
        if not found[engine].available:
            raise EngineError(f'engine = "{engine}": {found[engine].reason}. Or pass engine="cpu".')
        return _make(engine, avatar, config, folder)
    refused: list[str] = []
    for status in found.values():
        if status.name == "cpu" and config.device_output:
            reasons = refused or [f"cuda: {found['cuda'].reason}"]
            raise EngineError(f"device_output = True needs a GPU engine; {'; '.join(reasons)}")
        if status.available:
            try:
                made = _make(status.name, avatar, config, folder)
            except EngineError as err:
                refused.append(f"{status.name}: {err}")
                continue
            if refused and refused[0].startswith("tensorrt") and status.name == "cuda":
                _LOG.info("engine cuda; %s", refused[0])  # as fast, or nearly: nothing to warn of
            elif refused:
                _warn(f"engine {status.name} is used; {'; '.join(refused)}")
            return made
        if status.name == "cuda" and has_cuda_part():
            refused.append(f"cuda: {status.reason}")
    raise AssertionError("the CPU engine is always there")


def _make(name: str, avatar: Avatar, config: EngineConfig, folder: Path | None) -> Engine:
    if name == "tensorrt":
        from .tensorrt_engine import TensorRtEngine

        return TensorRtEngine(avatar, config, folder)
    if name == "cuda":
        from .cuda import CudaEngine

        return CudaEngine(avatar, config)
    if config.device_output:
        raise EngineError(
            'device_output = True: engine="cpu" draws in host memory. Pass engine="cuda".'
        )
    from .cpu import CpuEngine

    return CpuEngine(avatar, config)


def has_cuda_part() -> bool:
    """Whether this build was made with it: then somebody meant to use a GPU."""
    return find_spec("gt_infer._cuda") is not None


def _warn(message: str) -> None:
    level, frame = 2, sys._getframe(1)  # where the caller outside this package is
    while frame.f_back is not None and str(frame.f_globals.get("__package__")).startswith(
        "gt_infer"
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def empty_image(camera: Camera, output: OutputFormat) -> npt.NDArray[Any]:
    """A fresh output array for a format: [H, W, 3 or 4] uint8, or float32 for "float32"."""
    channels = 4 if output == "rgba8" else 3
    dtype = np.float32 if output == "float32" else np.uint8
    return np.empty((camera.height, camera.width, channels), dtype)
