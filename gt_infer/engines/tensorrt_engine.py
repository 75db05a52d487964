"""The TensorRT engine: networks by TensorRT, on buffers that are the rasterizer's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..avatar import Avatar
from ..config import EngineConfig
from ..errors import EngineError
from ..types import FloatArray, Gaussians
from . import Canvas
from .cache import kernels_path
from .cuda import GpuEngine
from .cuda_api import Array, CudaApi, InputStage, Outputs, Splatter, Stream
from .cuda_frames import Drawer
from .deform_io import BATCHES, TensorSpec, avatar_inputs, deform_tensors, padded_count
from .tensorrt import DeformNetwork
from .tensorrt_api import Flavour, installed_flavours, load_flavour
from .tensorrt_files import Device, Found, open_deform_engine

__all__ = ["TensorRtEngine"]

_PICTURE = 16  # pixels a side; where the networks run alone


class TensorRtEngine(GpuEngine):
    """An avatar on an NVIDIA GPU: networks in TensorRT or TensorRT-RTX, the rest in csrc/cuda.

    `precision`: "fast", the fp16 engine; "fp32", the fp32 one. Attention weights, which the engines
    do not give, are computed by the CPU engine.

    Args:
        folder: where the avatar's file lies, with what gt-export made of it.
        network: opens a plan, in tests.

    Raises: as `GpuEngine`, and EngineError: no engine fits and none can be built.
    """

    name = "tensorrt"
    most_frames = BATCHES[-1]

    def __init__(
        self,
        avatar: Avatar,
        config: EngineConfig,
        folder: Path | None,
        api: CudaApi | None = None,
        *,
        find: Callable[..., tuple[Flavour, Found]] | None = None,
        network: Callable[..., Any] = DeformNetwork,
    ) -> None:
        super().__init__(avatar, config, api)
        if folder is None:
            raise EngineError(
                'engine = "tensorrt": its engines lie beside the avatar\'s file; open the avatar '
                "by its path"
            )
        self._flavour, found = (find or _find)(avatar, config, folder, self._describe_device())
        self._found = found
        self._network = network
        self._allow_host_code = config.allow_host_code
        self._specs = deform_tensors(avatar, "fp32" if config.precision == "fp32" else "fp16")
        with self._translated("opening"):
            self._avatar_arrays = self._upload_avatar()
        self._alone: Any = None

    def describe(self) -> dict[str, Any]:
        version = f"{self._flavour.name} {self._flavour.version}"
        return {**super().describe(), "networks": version, "plan": self._found.origin}

    def deform(
        self, window: FloatArray, eye: float, camera: FloatArray, *, attention: bool = False
    ) -> Gaussians:
        self._check_open()
        if attention:
            from .cpu import CpuEngine

            engine = CpuEngine(self._avatar, EngineConfig())
            try:
                return engine.deform(window, eye, camera, attention=True)
            finally:
                engine.close()
        with self._turn, self._translated("deforming"):
            if self._alone is None:
                self._alone = self._drawer(1, _PICTURE, _PICTURE, 0)
            drawer = self._alone
            drawer.stage.set(
                0,
                window=window,
                eye=eye,
                camera=camera,
                viewmat=np.eye(4, dtype=np.float32),
                focal=1.0,
                width=_PICTURE,
                height=_PICTURE,
            )
            drawer.prepare(1, self._stream)
            drawer.stage.upload(self._stream)
            drawer.enqueue_networks(1, self._stream)
            self._stream.synchronize()
            count, given = len(self._avatar), self._avatar.gaussians
            found = {name: a.to_host()[0, :count].copy() for name, a in drawer.attributes.items()}
            found["sh"] = np.ascontiguousarray(found["sh"][:, : given.sh.shape[1]])
            return Gaussians(**found)

    def _make_drawer(self, batch: int, canvas: Canvas) -> Drawer:
        return self._drawer(batch, canvas.camera.width, canvas.camera.height, len(canvas.layers))

    def _drawer(self, batch: int, width: int, height: int, layers: int) -> _NetworkDrawer:
        network = self._network(
            self._flavour,
            self._found.plan,
            self._specs,
            runtime_cache=kernels_path(self._avatar.sha256),
            onnx=self._found.onnx,
            allow_host_code=self._allow_host_code,
        )
        return _NetworkDrawer(
            self._api,
            self._stream,
            network,
            self._specs,
            self._avatar_arrays,
            batch,
            self._avatar.network.audio_channels,
            (width, height, layers, padded_count(len(self._avatar))),
        )

    def _upload_avatar(self) -> dict[str, Array]:
        values = avatar_inputs(self._avatar)
        arrays = {}
        for spec in self._specs:
            if spec.role == "avatar":
                kind = np.float16 if spec.dtype == "float16" else np.float32
                data = np.ascontiguousarray(values[spec.name], kind)
                arrays[spec.name] = self._api.DeviceArray((data.nbytes,), "uint8", self._stream)
                arrays[spec.name].from_host(data.reshape(-1).view(np.uint8))
        return arrays

    def _describe_device(self) -> Device:
        info = self._api.device_info(self._device)
        driver = self._api.build_info()["driver"]
        return Device(
            str(info["name"]),
            str(info["compute_capability"]).replace(".", ""),
            f"{driver // 1000}.{driver % 1000 // 10}",
        )


class _NetworkDrawer:
    """One batch's buffers, with a network bound to them for good."""

    def __init__(
        self,
        api: CudaApi,
        stream: Stream,
        network: Any,
        specs: tuple[TensorSpec, ...],
        avatar_arrays: Mapping[str, Array],
        batch: int,
        channels: int,
        canvas: tuple[int, int, int, int],
    ) -> None:
        width, height, layers, self._n_gaussians = canvas
        self._network = network
        self.stage: InputStage = api.InputStage(
            stream.device, batch, channels=channels, layers=layers
        )
        self.splatter: Splatter = api.Splatter(
            stream.device, batch=batch, n_gaussians=self._n_gaussians, width=width, height=height
        )
        self.attributes = {
            spec.name: api.DeviceArray((batch, *spec.shape[1:]), "float32", stream)
            for spec in specs
            if spec.role == "output"
        }
        arrays = {**avatar_arrays, **self.attributes}
        frame = self.stage.addresses()
        network.bind(
            {s.name: frame[s.name] if s.role == "frame" else arrays[s.name].ptr for s in specs}
        )

    @property
    def memory_bytes(self) -> int:
        return self.splatter.memory_bytes + sum(a.nbytes for a in self.attributes.values())

    def prepare(self, batch: int, stream: Stream) -> None:
        self._network.prepare(batch, stream.handle)

    def enqueue_networks(self, batch: int, stream: Stream) -> None:
        self._network.enqueue(batch, stream.handle)

    def enqueue(self, batch: int, outputs: Outputs, stream: Stream) -> None:
        self.enqueue_networks(batch, stream)
        self.splatter.rasterize(
            batch,
            self._n_gaussians,
            **self.attributes,
            stage=self.stage,
            outputs=outputs,
            stream=stream,
        )


def _find(
    avatar: Avatar, config: EngineConfig, folder: Path, device: Device
) -> tuple[Flavour, Found]:
    """The first flavour of TensorRT that is installed and has, or makes, an engine."""
    precision = "fp32" if config.precision == "fp32" else "fp16"
    problems = []
    for name in installed_flavours():
        try:
            flavour = load_flavour(name)
            return flavour, open_deform_engine(
                avatar,
                folder,
                flavour,
                precision,  # type: ignore[arg-type]
                device,
                allow_host_code=config.allow_host_code,
            )
        except EngineError as err:
            problems.append(str(err))
    raise EngineError("; ".join(problems) or "TensorRT is not installed")
