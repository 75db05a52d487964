"""A stand-in for gt_infer._cuda where there is no GPU. It draws with the CPU engine, but only when
somebody waits: what a stream is given is kept, and done at a synchronisation, as on a device.

It refuses what CUDA refuses: allocating in a capture, replaying over memory that was freed, reading
pinned memory by a wrong size. A test plants faults through its attributes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import numpy.typing as npt

from gt_infer import _native
from gt_infer.config import RasterConfig
from gt_infer.engines.cuda_api import CudaApi
from gt_infer.types import FloatArray

Work = Callable[[], None]


class CudaError(RuntimeError):
    pass


class OutOfMemoryError(CudaError):
    pass


class UnavailableError(CudaError):
    pass


class DeviceLostError(CudaError):
    pass


class Stream:
    def __init__(self, api: FakeCuda, device: int, handle: int | None = None) -> None:
        self.api = api
        self.device = device
        self.handle = next(api.addresses) if handle is None else max(handle, 1)
        self.is_ours = handle is None
        self.work: list[Work] = []
        self.captured: list[Work] | None = None

    def add(self, work: Work) -> None:
        self.api.check_alive()
        (self.work if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        self.api.check_alive()
        assert self.captured is None, "waiting is not allowed in a capture"
        work, self.work = self.work, []
        for item in work:
            item()


class Event:
    def __init__(self, api: FakeCuda, device: int, has_time: bool = False) -> None:
        self.api = api
        self.handle = next(api.addresses)
        self.stream: Stream | None = None

    def record(self, stream: Any) -> None:
        self.api.check_alive()
        self.stream = stream

    def wait(self, stream: Any) -> None:
        if self.stream is not None and self.stream is not stream:
            stream.add(self.stream.synchronize)

    def synchronize(self) -> None:
        self.api.check_alive()
        if self.stream is not None:
            self.stream.synchronize()

    def is_done(self) -> bool:
        return self.stream is None or not self.stream.work

    def since(self, start: Any) -> float:
        return 0.0


class Graph:
    def __init__(self, api: FakeCuda, stream: Stream) -> None:
        assert stream.captured is not None, "the stream is not in a capture"
        self.work, stream.captured = stream.captured, None
        api.capturing = None
        api.fail("Graph")
        self.api = api
        self.generations = [(s, s.generation) for s in api.splatters]
        self.launches = 0
        api.graphs.append(self)

    @property
    def nodes(self) -> int:
        return len(self.work)

    def launch(self, stream: Any) -> None:
        self.api.fail("launch")
        for splatter, generation in self.generations:
            assert splatter.generation == generation, "replayed over memory that was freed"
        self.launches += 1
        for work in self.work:
            stream.add(work)


class PicturePool:
    def __init__(self, api: FakeCuda, device: int, bytes: int) -> None:
        self.bytes = bytes


class DeviceArray:
    def __init__(
        self,
        api: FakeCuda,
        shape: tuple[int, ...],
        dtype: str,
        stream: Any,
        pool: Any = None,
        values: npt.NDArray[Any] | None = None,
    ) -> None:
        self.api = api
        self.values = np.empty(shape, dtype) if values is None else values
        if values is None:
            api.allocate(self.values.nbytes)
            self.values.view(np.uint8).fill(0xEE)
        assert pool is None or self.values.nbytes == pool.bytes
        self.stream = stream
        self.device: int = stream.device
        self.ptr = 256 * next(api.addresses)
        self.ready = Event(api, self.device)
        self.readers: list[Any] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> str:
        return str(self.values.dtype)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.values.dtype.str,
            "data": (self.ptr, False),
            "version": 3,
            "strides": None,
            "stream": self.stream.handle,
        }

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> DeviceArray:
        view = DeviceArray(
            self.api, (), self.dtype, self.stream, values=self.values[index : index + 1][0]
        )
        view.ready = self.ready
        return view

    def written_on(self, stream: Any) -> None:
        self.stream = stream
        self.ready.record(stream)

    def read_on(self, stream: Any) -> None:
        self.readers.append(stream.handle)

    def copy_to(self, destination: Any, stream: Any) -> None:
        assert destination.nbytes == self.nbytes
        stream.add(lambda: np.copyto(destination.values, self.values))

    def copy_to_pinned(self, destination: npt.NDArray[Any], stream: Any) -> None:
        assert destination.nbytes == self.nbytes
        assert destination.flags.c_contiguous
        stream.add(lambda: np.copyto(destination, self.values))

    def to_host(self, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        self.ready.synchronize()
        if out is None:
            return self.values.copy()
        if out.shape != self.shape or out.dtype != self.values.dtype:
            raise ValueError("not a writeable C-contiguous array of this shape and dtype")
        np.copyto(out, self.values)
        return out

    def from_host(self, array: npt.NDArray[Any]) -> None:
        np.copyto(self.values, array.reshape(self.shape))

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        raise BufferError("a stand-in has no device memory")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device


class Model:
    def __init__(
        self, api: FakeCuda, device: int, gaussians: Any, network: Any, *, is_split: bool
    ) -> None:
        api.fail("Model")
        api.allocate(1_000_000)
        self.device = device
        self.is_split = is_split
        self.n_gaussians = len(gaussians.means)
        self.n_layers = len(network.layers)
        self.memory_bytes = 1_000_000
        # "fp32" in either case: what the CPU's "fast" gives depends on more than it is told here.
        native = _native.Model(gaussians, network)
        self.native = _native.Engine(native, isa="", precision="fp32", threads=1)


class Report:
    def __init__(self, api: FakeCuda, device: int) -> None:
        self.needed = self.capacity = 0


class Outputs:
    def __init__(self, api: FakeCuda, **fields: Any) -> None:
        self.width: int = fields["width"]
        self.height: int = fields["height"]
        raster: RasterConfig = fields["raster"]
        self.raster = _native.RasterParams(
            **{name: getattr(raster, name) for name in raster.__slots__}
        )
        self.format = getattr(_native.PixelFormat, fields["format"])
        self.is_transparent: bool = fields["is_transparent"]
        self.background = fields["background"]
        self.images: DeviceArray = fields["images"]
        self.alphas: DeviceArray | None = fields["alphas"]
        self.depths: DeviceArray | None = fields["depths"]


class InputStage:
    """Slots as the host set them, and as they were when last uploaded."""

    def __init__(
        self,
        api: FakeCuda,
        device: int,
        batch: int,
        *,
        channels: int = 0,
        samples: int = 0,
        layers: int = 0,
    ) -> None:
        api.allocate(1000 * batch)
        self.batch, self.channels, self.layers = batch, channels, layers
        self.host: list[dict[str, Any]] = [{} for _ in range(batch)]
        self.device: list[dict[str, Any]] = []
        self._addresses = {name: 256 * next(api.addresses) for name in ("window", "eye", "camera")}

    def set(
        self,
        slot: int,
        *,
        window: FloatArray | None = None,
        sound: FloatArray | None = None,
        span: Sequence[int] = (),
        eye: float,
        camera: FloatArray,
        viewmat: FloatArray,
        focal: float,
        width: int,
        height: int,
        layer_weights: Sequence[float] = (),
    ) -> None:
        assert window is None or window.shape == (8, self.channels, 16)
        assert not layer_weights or len(layer_weights) == self.layers
        self.host[slot] = {
            "window": None if window is None else window.copy(),
            "eye": eye,
            "camera": camera.copy(),
            "viewmat": viewmat.copy(),
            "focal": focal,
            "layer_weights": list(layer_weights),
        }

    def upload(self, stream: Any) -> None:
        def copy() -> None:
            self.device = [dict(slot) for slot in self.host]

        stream.add(copy)

    def addresses(self) -> Mapping[str, int]:
        return self._addresses


class Splatter:
    def __init__(
        self,
        api: FakeCuda,
        device: int,
        *,
        batch: int,
        n_gaussians: int,
        width: int,
        height: int,
        pairs: int = 0,
    ) -> None:
        api.allocate(10_000 * batch)
        self.api = api
        self.batch, self.n_gaussians = batch, n_gaussians
        self.generation = 0
        self.pairs = pairs or 1000
        self.memory_bytes = 10_000 * batch
        self.last_needed = 0
        self.draws = 0
        api.splatters.append(self)

    def draw(
        self, batch: int, stage: InputStage, outputs: Outputs, one: Callable[..., None]
    ) -> None:
        """`one` draws a slot, unless the lists overflow."""
        self.api.check_work()
        self.last_needed = self.api.pairs_needed
        self.draws += 1
        if self.last_needed > self.pairs:
            return
        background = None
        if outputs.background is not None:
            background = _native.Background(outputs.background.values)
        for slot in range(batch):
            inputs = stage.device[slot]
            one(
                slot,
                inputs,
                viewmat=inputs["viewmat"],
                focal=inputs["focal"],
                raster=outputs.raster,
                image=outputs.images.values[slot],
                format=outputs.format,
                is_transparent=outputs.is_transparent,
                background=background,
                layer_weights=inputs["layer_weights"],
                alpha=None if outputs.alphas is None else outputs.alphas.values[slot],
                depth=None if outputs.depths is None else outputs.depths.values[slot],
            )

    def rasterize(
        self,
        batch: int,
        n_gaussians: int,
        *,
        means: Any,
        quats: Any,
        scales: Any,
        opacities: Any,
        sh: Any,
        stage: Any,
        outputs: Any,
        stream: Any,
    ) -> None:
        def one(slot: int, inputs: dict[str, Any], **options: Any) -> None:
            _native.rasterize(
                means=means.values[slot],
                quats=quats.values[slot],
                scales=scales.values[slot],
                opacities=opacities.values[slot],
                sh=sh.values[slot],
                **options,
            )

        assert batch <= self.batch
        assert n_gaussians <= self.n_gaussians
        stream.add(lambda: self.draw(batch, stage, outputs, one))

    def report(self, report: Any, stream: Any) -> None:
        def tell() -> None:
            report.needed, report.capacity = self.last_needed, self.pairs

        stream.add(tell)

    def grow(self, pairs: int) -> None:
        self.api.fail("grow")
        self.pairs = pairs * 3 // 2
        self.generation += 1


class Engine:
    def __init__(
        self,
        api: FakeCuda,
        model: Model,
        logmel: Any = None,
        *,
        batch: int,
        width: int,
        height: int,
        pairs: int = 0,
    ) -> None:
        api.fail("Engine")
        self.model = model
        self.splatter = Splatter(
            api,
            model.device,
            batch=batch,
            n_gaussians=model.n_gaussians,
            width=width,
            height=height,
            pairs=pairs,
        )
        self.memory_bytes = self.splatter.memory_bytes

    def frames(self, batch: int, stage: Any, outputs: Any, stream: Any) -> None:
        def one(slot: int, inputs: dict[str, Any], **options: Any) -> None:
            self.model.native.render(inputs["window"], inputs["eye"], inputs["camera"], **options)

        assert batch <= self.splatter.batch
        if self.splatter.api.capturing is not None:
            self.splatter.api.fail("frames in a capture")
        stream.add(lambda: self.splatter.draw(batch, stage, outputs, one))

    def features(self, batch: int, stage: Any, windows: Any, stream: Any) -> None:
        raise NotImplementedError("a stand-in takes windows")

    def deform(
        self,
        batch: int,
        stage: Any,
        *,
        means: Any,
        quats: Any,
        scales: Any,
        opacities: Any,
        sh: Any,
        attention: Any,
        stream: Any,
    ) -> None:
        def run() -> None:
            inputs = stage.device[0]
            found = self.model.native.deform(
                inputs["window"],
                inputs["eye"],
                inputs["camera"],
                attention=attention is not None,
            )
            targets = {
                "means": means,
                "quats": quats,
                "scales": scales,
                "opacities": opacities,
                "sh": sh,
                "attention": attention,
            }
            for name, target in targets.items():
                if target is not None:
                    target.values[0] = found[name]

        stream.add(run)


class FakeCuda:
    """The module. Attributes are for tests.

    Attributes:
        devices: what `device_info` knows.
        driver: 0 stands for no driver.
        free_bytes: an allocation beyond it fails.
        pairs_needed: of every frame; lists start with room for 1,000.
        failures: an error to raise once, by the name of the call.
        is_lost: every call fails from now on.
    """

    __spec__ = ModuleSpec("gt_infer._cuda", None)  # it may stand in sys.modules
    MAX_BATCH = 64
    CudaError = CudaError
    OutOfMemoryError = OutOfMemoryError
    UnavailableError = UnavailableError
    DeviceLostError = DeviceLostError

    def __init__(self) -> None:
        self.devices = [("Fake GPU", "8.9")]
        self.driver = 13000
        self.architectures = "80;86"
        self.free_bytes = 10**9
        self.pairs_needed = 100
        self.failures: dict[str, Exception] = {}
        self.is_lost = False
        self.loses_context_in_work = False
        self.addresses = itertools.count(1000)
        self.capturing: Stream | None = None
        self.graphs: list[Graph] = []
        self.splatters: list[Splatter] = []
        self.streams: list[Stream] = []

    # What tests use.

    def fail(self, name: str) -> None:
        self.check_alive()
        if name in self.failures:
            raise self.failures.pop(name)

    def check_alive(self) -> None:
        if self.is_lost:
            raise DeviceLostError("CUDA cannot go on: the context is lost")

    def check_work(self) -> None:
        if self.loses_context_in_work:
            self.is_lost = True
            self.check_alive()

    def allocate(self, count: int) -> None:
        self.check_alive()
        if self.capturing is not None:
            raise CudaError(
                "CUDA cannot allocate device memory: operation not permitted in a capture"
            )
        if count > self.free_bytes:
            raise OutOfMemoryError(f"CUDA cannot allocate {count} bytes: out of memory")
        self.free_bytes -= count

    # The module's surface.

    def build_info(self) -> dict[str, Any]:
        return {
            "version": "0",
            "runtime": 13000,
            "driver": self.driver,
            "architectures": self.architectures,
        }

    def device_count(self) -> int:
        if self.driver == 0:
            raise UnavailableError("CUDA cannot count the devices: no driver")
        return len(self.devices)

    def device_info(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.device_count():
            raise UnavailableError(
                f"device {index}: this machine has {len(self.devices)} GPU(s), counted from 0"
            )
        name, capability = self.devices[index]
        return {
            "index": index,
            "name": name,
            "compute_capability": capability,
            "multiprocessors": 1,
            "memory_bytes": 10**9,
        }

    def require_kernels(self, index: int) -> None:
        self.fail("require_kernels")

    def memory_info(self, index: int) -> tuple[int, int]:
        return self.free_bytes, 10**9

    def begin_capture(self, stream: Any) -> None:
        self.fail("begin_capture")
        if not stream.is_ours:
            raise CudaError("a default stream cannot be captured")
        assert stream.captured is None
        stream.captured = []
        self.capturing = stream

    def pinned_empty(
        self, device: int, shape: tuple[int, ...], dtype: str
    ) -> npt.NDArray[np.uint8] | FloatArray:
        self.allocate(0)
        return np.empty(shape, dtype)

    def import_array(self, object: Any, stream: Any) -> DeviceArray:
        if isinstance(object, DeviceArray):
            return object
        if not hasattr(object, "__cuda_array_interface__"):
            raise ValueError("has neither __dlpack__ nor __cuda_array_interface__")
        return DeviceArray(self, (), "uint8", stream, values=object.values)

    def Stream(self, device: int, handle: int | None = None) -> Stream:  # noqa: N802
        if handle == 0xBAD:
            raise ValueError("the stream belongs to device 1, not to device 0")
        self.streams.append(Stream(self, device, handle))
        return self.streams[-1]

    def Event(self, device: int, has_time: bool = False) -> Event:  # noqa: N802
        return Event(self, device, has_time)

    def Graph(self, stream: Any) -> Graph:  # noqa: N802
        return Graph(self, stream)

    def PicturePool(self, device: int, bytes: int) -> PicturePool:  # noqa: N802
        return PicturePool(self, device, bytes)

    def DeviceArray(  # noqa: N802
        self, shape: tuple[int, ...], dtype: str, stream: Any, pool: Any = None
    ) -> DeviceArray:
        return DeviceArray(self, shape, dtype, stream, pool)

    def Model(  # noqa: N802
        self, device: int, gaussians: Any, network: Any, *, is_split: bool
    ) -> Model:
        return Model(self, device, gaussians, network, is_split=is_split)

    def LogMel(  # noqa: N802
        self,
        device: int,
        mean: npt.NDArray[np.float64],
        std: npt.NDArray[np.float64],
        *,
        sample_rate: int,
        hop: int,
        window: int,
        n_fft: int,
        f_min: float,
        f_max: float,
        eps: float,
    ) -> Any:
        raise NotImplementedError("a stand-in takes windows")

    def Report(self, device: int) -> Report:  # noqa: N802
        return Report(self, device)

    def Outputs(  # noqa: N802
        self,
        *,
        width: int,
        height: int,
        raster: RasterConfig,
        format: str,
        is_transparent: bool,
        background: Any,
        images: Any,
        alphas: Any = None,
        depths: Any = None,
    ) -> Outputs:
        return Outputs(
            self,
            width=width,
            height=height,
            raster=raster,
            format=format,
            is_transparent=is_transparent,
            background=background,
            images=images,
            alphas=alphas,
            depths=depths,
        )

    def InputStage(  # noqa: N802
        self, device: int, batch: int, *, channels: int = 0, samples: int = 0, layers: int = 0
    ) -> InputStage:
        return InputStage(self, device, batch, channels=channels, samples=samples, layers=layers)

    def Splatter(  # noqa: N802
        self, device: int, *, batch: int, n_gaussians: int, width: int, height: int, pairs: int = 0
    ) -> Splatter:
        return Splatter(
            self,
            device,
            batch=batch,
            n_gaussians=n_gaussians,
            width=width,
            height=height,
            pairs=pairs,
        )

    def Engine(  # noqa: N802
        self, model: Any, logmel: Any = None, *, batch: int, width: int, height: int, pairs: int = 0
    ) -> Engine:
        return Engine(self, model, logmel, batch=batch, width=width, height=height, pairs=pairs)


_: CudaApi = FakeCuda()  # held to the protocol by mypy
