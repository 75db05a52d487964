"""The CUDA engine: networks and splatter in csrc/cuda's kernels, one graph per frame."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..avatar import Avatar
from ..config import EngineConfig
from ..device_image import DeviceImage
from ..errors import ClosedError, EngineError, InputError
from ..types import FloatArray, Gaussians
from . import Canvas, FrameJob
from .cpu import at_degree_3
from .cuda_api import (
    Array,
    Core,
    CudaApi,
    InputStage,
    Model,
    Outputs,
    Splatter,
    Stream,
    Translated,
    load_cuda,
    stream_handle,
    unavailable_reason,
)
from .cuda_frames import CanvasFrames, Drawer

__all__ = ["CudaEngine", "GpuEngine"]

_SH_COEFFICIENTS = 16  # of the native kernels: degree 3
_ATTRIBUTES = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh": (16, 3)}


class GpuEngine:
    """What engines on an NVIDIA GPU have in common: everything but the networks.

    Args:
        avatar: validated.
        config: `device`, `stream`, `device_output`, `precision`.
        api: stands in for the compiled module, in tests.

    Raises:
        EngineError: there is no such GPU, or this build has no code for it.
        DeviceMemoryError: it has no room.
        InputError: `config.stream` is no stream of that device.

    Thread-safe; calls take turns. A process that was forked after this one used the GPU cannot use
    it: calls there raise EngineError.
    """

    name = ""
    most_frames = 64  # in one launch

    def __init__(self, avatar: Avatar, config: EngineConfig, api: CudaApi | None = None) -> None:
        self._api = load_cuda() if api is None else api
        reason = unavailable_reason(config.device, self._api)
        if reason is not None:
            raise EngineError(f'engine = "{self.name}", device = {config.device}: {reason}')
        self._avatar = avatar
        self._config = config
        self._process = os.getpid()
        self._turn = threading.Lock()
        self._is_closed = False
        self._device = config.device
        self.gives_device_images = config.device_output
        handle = None if config.stream is None else stream_handle(config.stream)
        with self._translated("opening"):
            self._api.require_kernels(config.device)
            with Translated(self._api, "EngineConfig.stream"):
                self._stream: Stream = self._api.Stream(config.device, handle)

    def describe(self) -> dict[str, Any]:
        info = self._api.device_info(self._device)
        return {
            "engine": self.name,
            "device": self._device,
            "gpu": info["name"],
            "compute_capability": info["compute_capability"],
            "precision": self._config.precision,
            "threads": 1,
        }

    def prepare(self, canvas: Canvas) -> CanvasFrames:
        self._check_open()
        with self._turn, self._translated("preparing"):
            return CanvasFrames(
                self._api, canvas, self._stream, self._make_drawer, most=self.most_frames
            )

    def device_image(self, canvas: CanvasFrames, out: Any) -> DeviceImage:
        """A picture to draw into: a new one, or another library's array.

        Raises: InputError: not on this GPU, or of another shape or dtype.
        """
        return self._target(canvas.empty_image, "out", out, canvas.image_shape, canvas.image_dtype)

    def device_plane(self, canvas: CanvasFrames, name: str, out: Any) -> DeviceImage:
        """The same for alpha and depth."""
        return self._target(canvas.empty_plane, name, out, canvas.plane_shape, "float32")

    def render(
        self,
        canvas: CanvasFrames,
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
        start = time.perf_counter()
        job = FrameJob(window, eye, camera, viewmat, layer_weights, out, alpha, depth)
        self.render_many(canvas, [job])
        return {"gpu": (time.perf_counter() - start) * 1e3}

    def render_many(self, canvas: CanvasFrames, jobs: Sequence[FrameJob]) -> None:
        self._check_open()
        with self._turn, self._translated("this frame cannot be drawn"):
            canvas.draw(jobs)

    def deform(
        self, window: FloatArray, eye: float, camera: FloatArray, *, attention: bool = False
    ) -> Gaussians:
        raise NotImplementedError

    def splat(
        self,
        canvas: CanvasFrames,
        gaussians: Gaussians,
        viewmat: FloatArray,
        out: npt.NDArray[Any],
        *,
        layer_weights: Sequence[float] = (),
    ) -> None:
        self._check_open()
        with self._turn, self._translated("these Gaussians cannot be drawn"):
            given = GivenGaussians(self._api, self._stream, gaussians)
            frames = CanvasFrames(self._api, canvas.canvas, self._stream, given, like=canvas)
            no_camera = np.zeros(12, np.float32)
            frames.draw([FrameJob(None, 0.0, no_camera, viewmat, layer_weights, out)])

    def close(self) -> None:
        """Memory goes when the last picture, and the last call that is under way, let go of it."""
        self._is_closed = True

    def _make_drawer(self, batch: int, canvas: Canvas) -> Drawer:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this engine is closed")
        if os.getpid() != self._process:
            raise EngineError(
                f'engine = "{self.name}": this process was forked after the GPU was used, and CUDA '
                'does not work in the child. Start it with multiprocessing\'s "spawn", or open the '
                "Renderer in the child."
            )

    def _target(
        self, make: Any, name: str, out: Any, shape: tuple[int, ...], dtype: str
    ) -> DeviceImage:
        self._check_open()
        with self._turn:
            if out is None:
                with self._translated("making room for a picture"):
                    image: DeviceImage = make()
                return image
            with Translated(self._api, name):
                array = self._api.import_array(_unwrapped(out), self._stream)
        if array.shape != shape or array.dtype != dtype:
            raise InputError(
                f"{name}: expected {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}"
            )
        return DeviceImage(self._api, array)

    def _translated(self, doing: str) -> Translated:
        return Translated(self._api, f'engine = "{self.name}": {doing}')


class CudaEngine(GpuEngine):
    """An avatar on an NVIDIA GPU, in native kernels throughout.

    `precision`: "fast", half-precision products; "fp32", products of factors in two halves each,
    which is nearly float32. Sums are float32 in both.
    """

    name = "cuda"

    def __init__(self, avatar: Avatar, config: EngineConfig, api: CudaApi | None = None) -> None:
        super().__init__(avatar, config, api)
        gaussians, network = at_degree_3(avatar.gaussians, avatar.network)
        try:
            with self._translated("opening"):
                self._model: Model = self._api.Model(
                    config.device, gaussians, network, is_split=config.precision == "fp32"
                )
        except InputError as err:  # widths that the kernels do not serve: another engine may
            raise EngineError(str(err)) from err
        self._deformer: Core | None = None

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "model_bytes": self._model.memory_bytes}

    def deform(
        self, window: FloatArray, eye: float, camera: FloatArray, *, attention: bool = False
    ) -> Gaussians:
        self._check_open()
        network = self._avatar.network
        with self._turn, self._translated("deforming"):
            if self._deformer is None:
                # The smallest picture: nothing is drawn with it.
                self._deformer = self._api.Engine(self._model, batch=1, width=16, height=16)
            stage = self._api.InputStage(self._device, 1, channels=network.audio_channels)
            stage.set(
                0,
                window=window,
                eye=eye,
                camera=camera,
                viewmat=np.eye(4, dtype=np.float32),
                focal=1.0,
                width=16,
                height=16,
            )
            n = self._model.n_gaussians
            room = {name: self._array((1, n, *tail)) for name, tail in _ATTRIBUTES.items()}
            weights = self._array((1, self._model.n_layers, n, 4)) if attention else None
            stage.upload(self._stream)
            self._deformer.deform(1, stage, **room, attention=weights, stream=self._stream)
            self._stream.synchronize()
            found = {name: array.to_host()[0] for name, array in room.items()}
            found["sh"] = np.ascontiguousarray(found["sh"][:, : self._avatar.gaussians.sh.shape[1]])
            return Gaussians(**found, attention=None if weights is None else weights.to_host()[0])

    def _array(self, shape: tuple[int, ...]) -> Array:
        return self._api.DeviceArray(shape, "float32", self._stream)

    def _make_drawer(self, batch: int, canvas: Canvas) -> Drawer:
        return _NativeDrawer(
            self._api, self._model, batch, canvas, self._avatar.network.audio_channels
        )


class _NativeDrawer:
    """Everything from the audio window on in csrc/cuda."""

    def __init__(
        self, api: CudaApi, model: Model, batch: int, canvas: Canvas, channels: int
    ) -> None:
        camera = canvas.camera
        self._core = api.Engine(model, batch=batch, width=camera.width, height=camera.height)
        self.stage: InputStage = api.InputStage(
            model.device, batch, channels=channels, layers=len(canvas.layers)
        )

    @property
    def splatter(self) -> Splatter:
        return self._core.splatter

    @property
    def memory_bytes(self) -> int:
        return self._core.memory_bytes

    def prepare(self, batch: int, stream: Stream) -> None:
        pass

    def enqueue(self, batch: int, outputs: Outputs, stream: Stream) -> None:
        self._core.frames(batch, self.stage, outputs, stream)


class GivenGaussians:
    """Draws Gaussians that are there already, one frame of them: makes its own drawer."""

    def __init__(self, api: CudaApi, stream: Stream, gaussians: Gaussians) -> None:
        self._api = api
        self._device = stream.device
        self._attributes: dict[str, Array] = {}
        for name, tail in _ATTRIBUTES.items():
            values = np.ascontiguousarray(getattr(gaussians, name)[np.newaxis], np.float32)
            if values.shape[2:] != tail:
                raise InputError(f"{name}: expected [N, {', '.join(map(str, tail))}]")
            self._attributes[name] = api.DeviceArray(values.shape, "float32", stream)
            self._attributes[name].from_host(values)
        self._count = len(gaussians.means)
        self.stage: InputStage
        self.splatter: Splatter

    def __call__(self, batch: int, canvas: Canvas) -> Drawer:
        camera = canvas.camera
        self.splatter = self._api.Splatter(
            self._device,
            batch=batch,
            n_gaussians=self._count,
            width=camera.width,
            height=camera.height,
        )
        self.stage = self._api.InputStage(self._device, batch, layers=len(canvas.layers))
        return self

    @property
    def memory_bytes(self) -> int:
        return self.splatter.memory_bytes + sum(a.nbytes for a in self._attributes.values())

    def prepare(self, batch: int, stream: Stream) -> None:
        pass

    def enqueue(self, batch: int, outputs: Outputs, stream: Stream) -> None:
        self.splatter.rasterize(
            batch,
            self._count,
            **self._attributes,
            stage=self.stage,
            outputs=outputs,
            stream=stream,
        )


def _unwrapped(out: Any) -> Any:
    return out._array if isinstance(out, DeviceImage) else out
