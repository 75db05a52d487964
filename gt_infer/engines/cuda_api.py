"""The one importer of `_cuda`, the compiled CUDA core: its types, its errors, why it cannot be had.

Importing this module imports nothing else. The protocols are `_cuda`'s types; a test compares them
with the built module and with the stand-in that plays it where there is no GPU.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ..config import RasterConfig
from ..errors import DeviceMemoryError, EngineError, GtError, InputError
from ..types import FloatArray

__all__ = [
    "Array",
    "Core",
    "CudaApi",
    "Event",
    "Graph",
    "InputStage",
    "LogMel",
    "Model",
    "Outputs",
    "Pool",
    "Report",
    "Splatter",
    "Stream",
    "Translated",
    "load_cuda",
    "stream_handle",
    "unavailable_reason",
]

_BUILD_IT = "build it with GT_CMAKE_ARGS=-DGT_BUILD_CUDA=ON, see docs/gpu.md"


class Stream(Protocol):
    """A stream of ours, or a caller's, borrowed."""

    @property
    def device(self) -> int: ...
    @property
    def handle(self) -> int: ...
    def synchronize(self) -> None: ...


class Event(Protocol):
    """A point in a stream's work."""

    @property
    def handle(self) -> int: ...
    def record(self, stream: Any) -> None: ...
    def wait(self, stream: Any) -> None:
        """Makes the stream's later work wait; returns at once."""

    def synchronize(self) -> None: ...
    def is_done(self) -> bool: ...
    def since(self, start: Any) -> float:
        """Milliseconds."""


class Graph(Protocol):
    """Work that was captured."""

    @property
    def nodes(self) -> int: ...
    def launch(self, stream: Any) -> None: ...


class Pool(Protocol):
    """Device memory for pictures of one size."""


class Array(Protocol):
    """A C-contiguous array on a GPU."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> int: ...
    @property
    def ptr(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def ready(self) -> Event: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Array: ...
    def written_on(self, stream: Any) -> None: ...
    def read_on(self, stream: Any) -> None: ...
    def copy_to(self, destination: Any, stream: Any) -> None: ...
    def copy_to_pinned(self, destination: npt.NDArray[Any], stream: Any) -> None: ...
    def to_host(self, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]: ...
    def from_host(self, array: npt.NDArray[Any]) -> None: ...
    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


class Model(Protocol):
    """An avatar on a device."""

    @property
    def device(self) -> int: ...
    @property
    def n_gaussians(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...


class LogMel(Protocol):
    """The log-mel front-end on a device: frames can start from sound."""

    @property
    def samples(self) -> int: ...


class Report(Protocol):
    """What the device says of a frame: the (splat, tile) pairs that it had, and the room for them.
    A frame that needed more was not drawn."""

    @property
    def needed(self) -> int: ...
    @property
    def capacity(self) -> int: ...


class Outputs(Protocol):
    """Where a batch's pictures go."""


class InputStage(Protocol):
    """A batch's inputs on their way from the host."""

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
    ) -> None: ...
    def upload(self, stream: Any) -> None: ...
    def addresses(self) -> Mapping[str, int]: ...


class Splatter(Protocol):
    """Gaussians to pictures."""

    @property
    def generation(self) -> int: ...
    @property
    def pairs(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
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
    ) -> None: ...
    def report(self, report: Any, stream: Any) -> None: ...
    def grow(self, pairs: int) -> None: ...


class Core(Protocol):
    """One avatar on one GPU: inputs to pictures, or to attributes."""

    @property
    def memory_bytes(self) -> int: ...
    @property
    def splatter(self) -> Splatter: ...
    def frames(self, batch: int, stage: Any, outputs: Any, stream: Any) -> None: ...
    def features(self, batch: int, stage: Any, windows: Any, stream: Any) -> None: ...
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
    ) -> None: ...


class CudaApi(Protocol):
    """The module. Calls that can wait release the GIL; all raise its errors."""

    @property
    def MAX_BATCH(self) -> int: ...  # noqa: N802
    @property
    def CudaError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def OutOfMemoryError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def UnavailableError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def DeviceLostError(self) -> type[Exception]: ...  # noqa: N802

    def build_info(self) -> dict[str, Any]: ...
    def device_count(self) -> int: ...
    def device_info(self, index: int) -> dict[str, Any]: ...
    def require_kernels(self, index: int) -> None: ...
    def memory_info(self, index: int) -> tuple[int, int]: ...
    def begin_capture(self, stream: Any) -> None: ...
    def pinned_empty(
        self, device: int, shape: tuple[int, ...], dtype: str
    ) -> npt.NDArray[np.uint8] | FloatArray: ...
    def import_array(self, object: Any, stream: Any) -> Array: ...
    def Stream(self, device: int, handle: int | None = None) -> Stream: ...  # noqa: N802
    def Event(self, device: int, has_time: bool = False) -> Event: ...  # noqa: N802
    def Graph(self, stream: Any) -> Graph: ...  # noqa: N802
    def PicturePool(self, device: int, bytes: int) -> Pool: ...  # noqa: N802
    def DeviceArray(  # noqa: N802
        self, shape: tuple[int, ...], dtype: str, stream: Any, pool: Any = None
    ) -> Array: ...
    def Model(  # noqa: N802
        self, device: int, gaussians: Any, network: Any, *, is_split: bool
    ) -> Model: ...
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
    ) -> LogMel: ...
    def Report(self, device: int) -> Report: ...  # noqa: N802
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
    ) -> Outputs: ...
    def InputStage(  # noqa: N802
        self, device: int, batch: int, *, channels: int = 0, samples: int = 0, layers: int = 0
    ) -> InputStage: ...
    def Splatter(  # noqa: N802
        self, device: int, *, batch: int, n_gaussians: int, width: int, height: int, pairs: int = 0
    ) -> Splatter: ...
    def Engine(  # noqa: N802
        self, model: Any, logmel: Any = None, *, batch: int, width: int, height: int, pairs: int = 0
    ) -> Core: ...


class Translated:
    """Turns `_cuda`'s errors into gt_infer's.

    Args:
        doing: what is tried, as the message begins.
    """

    __slots__ = ("_api", "_doing")

    def __init__(self, api: CudaApi, doing: str) -> None:
        self._api = api
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, GtError):
            return
        if isinstance(error, self._api.OutOfMemoryError):
            raise DeviceMemoryError(f"{self._doing}: {error}") from error
        if isinstance(error, self._api.CudaError):
            raise EngineError(f"{self._doing}: {error}") from error
        if isinstance(error, ValueError):
            raise InputError(f"{self._doing}: {error}") from error


def load_cuda() -> CudaApi:
    """The CUDA core.

    Raises: EngineError: this build has none, or it does not load.
    """
    try:
        module = importlib.import_module("gt_infer._cuda")
    except ModuleNotFoundError as err:
        raise EngineError(f"this build has no CUDA part ({_BUILD_IT})") from err
    except ImportError as err:
        raise EngineError(f"the CUDA part does not load ({err}): {_BUILD_IT}") from err
    return cast(CudaApi, module)


def unavailable_reason(index: int = 0, api: CudaApi | None = None) -> str | None:
    """Why no engine can run on the GPU of that index; None when one can. Makes no context."""
    try:
        api = load_cuda() if api is None else api
    except EngineError as err:
        return str(err)
    try:
        info = api.device_info(index)
    except api.CudaError as err:
        return _without_driver(api) or str(err)
    build = api.build_info()
    if not _runs_on(str(build["architectures"]), str(info["compute_capability"])):
        made_for = str(build["architectures"]).replace(";", ", ")
        return (
            f"{info['name']} has compute capability {info['compute_capability']}, this build has "
            f"code for {made_for}: build with GT_CUDA_ARCHITECTURES, see docs/gpu.md"
        )
    return None


def stream_handle(stream: Any) -> int:
    """The handle of a stream: an int, or an object of cuda.core, cupy, torch, numba or pycuda.

    Raises: InputError: none of these.
    """
    value = stream
    if hasattr(stream, "__cuda_stream__"):  # cuda.core's protocol: (version, handle)
        value = stream.__cuda_stream__
        value = (value() if callable(value) else value)[1]
    else:
        for name in ("ptr", "cuda_stream", "handle"):  # cupy; torch; pycuda and numba
            if hasattr(stream, name):
                value = getattr(stream, name)
                break
    value = getattr(value, "value", value)  # numba's is a ctypes pointer, None for the default one
    if value is None and stream is not None:
        value = 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(
            f"stream = {stream!r}: expected a CUDA stream's handle, or a stream of cupy, torch, "
            "numba, pycuda or cuda.core"
        )
    return value


def _without_driver(api: CudaApi) -> str | None:
    if api.build_info()["driver"] == 0:
        return "no NVIDIA driver"
    return None


def _runs_on(architectures: str, capability: str) -> bool:
    """Machine code runs on later GPUs of the same major; the newest comes as PTX too, which every
    later GPU compiles."""
    major, minor = (int(part) for part in capability.split("."))
    built = [int(digits) for digits in re.findall(r"\d+", architectures)]
    here = 10 * major + minor
    return any(code <= here and (code // 10 == major or code == built[-1]) for code in built)
