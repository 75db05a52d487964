"""The CPU engine: native fused kernels (csrc/cpu) and nothing else in the frame."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _native
from ..avatar import Avatar, CanonicalGaussians, Linear, Network
from ..config import TIMING, EngineConfig
from ..errors import ClosedError, EngineError, InputError
from ..pose import Pose
from ..types import FloatArray, Gaussians
from . import Canvas, FrameJob

__all__ = ["CpuEngine", "at_degree_3"]

_SH_COEFFICIENTS = 16  # of the native kernels: degree 3


@dataclass(frozen=True, slots=True, eq=False)
class _PreparedCanvas:
    focal: float
    raster: _native.RasterParams
    background: _native.Background
    is_transparent: bool
    format: _native.PixelFormat


class CpuEngine:
    """An avatar prepared for this machine's CPU.

    Args:
        avatar: validated.
        config: `isa`, `threads` and `precision`; without AMX or VNNI "fast" is float32 too.

    Raises:
        InputError: an instruction set that this machine or build does not have.
    """

    name = "cpu"
    gives_device_images = False

    def __init__(self, avatar: Avatar, config: EngineConfig) -> None:
        isas = _native.available_isas()
        isa = config.isa if config.isa is not None else isas[0]
        if isa not in isas:
            raise InputError(f"isa = {isa!r}: this machine and build have {', '.join(isas)}")
        threads = config.threads if config.threads is not None else _native.usable_cores()
        self._sh_coefficients = avatar.gaussians.sh.shape[1]
        self._isa = isa
        self._threads = threads
        self._precision = config.precision
        self._model: _native.Model | None = _native.Model(
            *at_degree_3(avatar.gaussians, avatar.network)
        )
        self._examples = _examples(avatar)
        self._engines: dict[int, _native.Engine] = {}
        self._making = threading.Lock()
        self._engine()

    def _engine(self) -> _native.Engine:
        """This process's native engine. A forked child inherits its parent's without the threads:
        it gets its own, on the same model."""
        process = os.getpid()
        engine = self._engines.get(process)
        if engine is not None:
            return engine
        with self._making:
            if self._model is None:
                raise ClosedError("this engine is closed")
            if process not in self._engines:
                made = _native.Engine(
                    self._model,
                    isa=self._isa,
                    precision=self._precision,
                    threads=self._threads,
                    examples=self._examples,
                )
                self._engines[process] = made
            return self._engines[process]

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "isa": self._isa, "threads": self._threads}

    def prepare(self, canvas: Canvas) -> _PreparedCanvas:
        return _PreparedCanvas(
            focal=canvas.camera.focal,
            raster=_native.RasterParams(**asdict(canvas.raster)),
            background=_native.Background(canvas.layers),
            is_transparent=canvas.is_transparent,
            format=getattr(_native.PixelFormat, canvas.output),
        )

    def deform(
        self, window: FloatArray, eye: float, camera: FloatArray, *, attention: bool = False
    ) -> Gaussians:
        arrays = self._engine().deform(window, eye, camera, attention=attention)
        if self._sh_coefficients != _SH_COEFFICIENTS:
            arrays["sh"] = np.ascontiguousarray(arrays["sh"][:, : self._sh_coefficients])
        return Gaussians(**arrays)

    def render(
        self,
        canvas: _PreparedCanvas,
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
        engine = self._engine()
        try:
            return engine.render(
                window,
                eye,
                camera,
                viewmat=viewmat,
                focal=canvas.focal,
                raster=canvas.raster,
                image=out,
                format=canvas.format,
                is_transparent=canvas.is_transparent,
                background=canvas.background,
                layer_weights=list(layer_weights),
                alpha=alpha,
                depth=depth,
            )
        except RuntimeError as err:
            raise EngineError(f"this frame cannot be drawn: {err}") from err

    def render_many(self, canvas: _PreparedCanvas, jobs: Sequence[FrameJob]) -> None:
        """One after another: every frame keeps all threads busy by itself."""
        for job in jobs:
            assert job.window is not None
            self.render(
                canvas,
                job.window,
                job.eye,
                job.camera,
                job.viewmat,
                job.out,
                layer_weights=job.layer_weights,
                alpha=job.alpha,
                depth=job.depth,
            )

    def device_image(self, canvas: _PreparedCanvas, out: Any) -> Any:
        raise EngineError('engine="cpu" draws in host memory')

    def device_plane(self, canvas: _PreparedCanvas, name: str, out: Any) -> Any:
        raise EngineError('engine="cpu" draws in host memory')

    def splat(
        self,
        canvas: _PreparedCanvas,
        gaussians: Gaussians,
        viewmat: FloatArray,
        out: npt.NDArray[Any],
        *,
        layer_weights: Sequence[float] = (),
    ) -> None:
        _native.rasterize(
            means=gaussians.means,
            quats=gaussians.quats,
            scales=gaussians.scales,
            opacities=gaussians.opacities,
            sh=gaussians.sh,
            viewmat=viewmat,
            focal=canvas.focal,
            raster=canvas.raster,
            image=out,
            format=canvas.format,
            is_transparent=canvas.is_transparent,
            background=canvas.background,
            layer_weights=list(layer_weights),
            isa=self._isa,
            threads=self._threads,
        )

    def close(self) -> None:
        """Threads and memory go when the last call that is under way returns."""
        with self._making:
            self._model = None
            self._engines = {}


def _examples(avatar: Avatar) -> list[tuple[FloatArray, float, FloatArray, FloatArray]]:
    """Audio window, eye, camera and viewmat of frames at the ends of what this head does: features
    are normalised, and its poses are known when it was exported with them."""
    poses = avatar.poses
    if poses is None:
        return []
    channels = avatar.network.audio_conv[0].weight.shape[1]
    shape = (TIMING.windows_per_frame, channels, TIMING.steps_per_window)
    level = np.ones(shape)
    mixed = np.sqrt(2) * np.cos(np.arange(level.size)).reshape(shape)  # as loud, of all shapes
    most, next_most = np.argsort(np.ptp(poses.euler, axis=0))[:-3:-1]
    return [
        (audio.astype(np.float32), float(eye), pose.camera_vector(), pose.viewmat())
        for audio, eye, pose in (
            (audio, eye, Pose.from_tracking(poses.euler[frame], poses.trans[frame]))
            for audio, eye, frame in (
                (level, poses.blink.min(), poses.euler[:, most].argmin()),
                (-level, poses.blink.max(), poses.euler[:, most].argmax()),
                (mixed, poses.blink.min(), poses.euler[:, next_most].argmin()),
                (-mixed, poses.blink.max(), poses.euler[:, next_most].argmax()),
            )
        )
    ]


def at_degree_3(
    gaussians: CanonicalGaussians, network: Network
) -> tuple[CanonicalGaussians, Network]:
    """Avatars of a lower SH degree get zero coefficients, which add nothing to any colour."""
    missing = _SH_COEFFICIENTS - gaussians.sh.shape[1]
    if missing == 0:
        return gaussians, network
    sh = np.pad(gaussians.sh, ((0, 0), (0, missing), (0, 0)))
    heads = dict(network.heads)
    if "sh" in heads:
        hidden, out = heads["sh"]
        bias = None if out.bias is None else np.pad(out.bias, (0, 3 * missing))
        heads["sh"] = (hidden, Linear(np.pad(out.weight, ((0, 3 * missing), (0, 0))), bias))
    return replace(gaussians, sh=sh), replace(network, heads=heads)
