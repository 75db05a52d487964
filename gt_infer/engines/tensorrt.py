"""The networks of a frame as a TensorRT engine, on buffers that belong to the splatter.

Nothing is copied and nothing allocated in a frame: every tensor has a fixed address, so that a CUDA
graph can be captured over it, and the outputs' addresses are the rasterizer's input buffers. This
module imports without TensorRT and without a driver; `unavailable_reason` says what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..avatar_file import atomic_write
from ..cli.machine import find_gpus
from ..errors import ClosedError, EngineError, InputError
from .deform_io import BATCHES, TensorSpec
from .tensorrt_api import FLAVOURS, Flavour, installed_flavours
from .tensorrt_files import Device

__all__ = [
    "BufferPlan",
    "DeformNetwork",
    "find_device",
    "plan_buffers",
    "profile_of",
    "unavailable_reason",
]

_LOG = logging.getLogger(__name__)
_ALIGNMENT = 256  # bytes: what cudaMalloc gives, and every kernel's vector loads want


def find_device(index: int = 0) -> Device:
    """The GPU of an index.

    Raises:
        EngineError: no driver, or no such device.
    """
    found = find_gpus()
    devices = found["devices"]
    if not devices:
        raise EngineError(f"no GPU: {found['reason']}")
    if not 0 <= index < len(devices):
        raise EngineError(f"device {index}: this machine has {len(devices)} GPU(s), from 0")
    device = devices[index]
    sm = str(device["compute_capability"]).replace(".", "")
    return Device(str(device["name"]), sm, str(found["driver_cuda"]))


def unavailable_reason() -> str | None:
    """Why `engine="tensorrt"` cannot be had on this machine; None when networks can run.

    Imports no TensorRT.
    """
    problems = []
    if not installed_flavours():
        commands = " or ".join(f"pip install 'gt-infer[{name}]'" for name in reversed(FLAVOURS))
        problems.append(f"neither tensorrt nor tensorrt_rtx is installed ({commands})")
    try:
        find_device()
    except EngineError as err:
        problems.append(str(err))
    return "; ".join(problems) or None


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """Where tensors lie in one block of device memory.

    Attributes:
        offsets: bytes from the block's start, each aligned to 256.
        size: of the block, bytes.
    """

    offsets: Mapping[str, int]
    size: int

    def addresses(self, base: int) -> dict[str, int]:
        """The tensors' addresses in a block that starts at `base`."""
        if base % _ALIGNMENT:
            raise InputError(f"base = {base:#x}: must be a multiple of {_ALIGNMENT}")
        return {name: base + offset for name, offset in self.offsets.items()}


def plan_buffers(specs: Sequence[TensorSpec], batch: int) -> BufferPlan:
    """Room for tensors at the largest batch they will see, one after another.

    Raises:
        InputError: a batch that no profile serves.
    """
    largest = BATCHES[profile_of(batch)]
    offsets = {}
    size = 0
    for spec in specs:
        offsets[spec.name] = size
        size += -(-spec.bytes_at(largest) // _ALIGNMENT) * _ALIGNMENT
    return BufferPlan(offsets, size)


def profile_of(batch: int) -> int:
    """The optimisation profile that serves a batch.

    Raises:
        InputError: less than 1 or more than the largest.
    """
    for index, largest in enumerate(BATCHES):
        if 1 <= batch <= largest:
            return index
    raise InputError(f"batch = {batch}: engines serve 1 to {BATCHES[-1]} frames at once")


class DeformNetwork:
    """A loaded deform engine, ready to enqueue.

        network = DeformNetwork(flavour, plan, specs)
        network.bind(addresses)                # of every tensor, once
        network.enqueue(batch, stream)         # any number of times, also while capturing

    Args:
        plan: of an engine that this machine's GPU runs.
        specs: the tensors it must have.
        runtime_cache: TensorRT-RTX only: a file for the kernels that it compiles at first use.
        onnx: weights of an engine that was built without them.
        allow_host_code: TensorRT only: load a version-compatible engine. Such a plan holds a
            library that is run, so it must come from a hand that you trust.

    Raises:
        EngineError: it cannot be loaded, or is not what `specs` says.

    One stream at a time; not thread-safe.
    """

    def __init__(
        self,
        flavour: Flavour,
        plan: bytes,
        specs: Sequence[TensorSpec],
        *,
        runtime_cache: Path | None = None,
        onnx: bytes | None = None,
        allow_host_code: bool = False,
    ) -> None:
        self._flavour = flavour
        self._specs = {spec.name: spec for spec in specs}
        self._cache_path = runtime_cache if flavour.is_rtx else None
        self._runtime_config: Any = None
        self._jit_cache: Any = None
        self._contexts: dict[int, Any] = {}
        self._addresses: dict[str, int] = {}
        logger, self._errors = flavour.logger()
        self._logger = logger
        self._runtime = flavour.api.Runtime(logger)
        if allow_host_code and not flavour.is_rtx:
            self._runtime.engine_host_code_allowed = True
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(self._failure("cannot load the engine"))
        self._check_tensors()
        if onnx is not None:
            self._refit(onnx)
        if flavour.is_rtx:
            self._configure_runtime()

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Give every tensor its device address, for good: graphs that were captured hold them.

        Raises:
            InputError: a tensor is missing, unknown or not aligned, or all are bound already.
        """
        self._open()
        if self._addresses:
            raise InputError("addresses are bound once: captured graphs hold them")
        if set(addresses) != set(self._specs):
            wrong = sorted(set(addresses) ^ set(self._specs))
            raise InputError(f"addresses: {', '.join(wrong)} missing or not known")
        for name, address in addresses.items():
            if address == 0 or address % _ALIGNMENT:
                raise InputError(
                    f"addresses[{name!r}] = {address:#x}: must be a multiple of {_ALIGNMENT}"
                )
        self._addresses = dict(addresses)

    def prepare(self, batch: int, stream: int) -> None:
        """Make the context of a batch, outside of any capture: it allocates and, with TensorRT-RTX,
        compiles at first use.

        Raises:
            InputError: a batch that no profile serves; nothing bound.
            EngineError: TensorRT refuses.
        """
        self._context(batch, stream)

    def enqueue(self, batch: int, stream: int) -> None:
        """The networks of `batch` frames on the caller's stream; returns at once.

        Args:
            stream: a CUDA stream's handle; not the default one, on which TensorRT synchronises.

        Raises: as `prepare`.
        """
        context = self._context(batch, stream)
        if not context.execute_async_v3(stream):
            raise EngineError(self._failure("cannot enqueue"))

    def is_capturable(self, batch: int, stream: int) -> bool:
        """Whether `enqueue` may be captured into a CUDA graph."""
        ask = getattr(self._context(batch, stream), "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream))

    def close(self) -> None:
        """Frees engine and contexts; keeps what TensorRT-RTX compiled for the next start."""
        if self._engine is None:
            return
        self._save_jit_cache()
        # Contexts before their engine, the engine before its runtime.
        self._contexts = {}
        self._jit_cache = self._runtime_config = self._engine = self._runtime = None

    def _open(self) -> Any:
        if self._engine is None:
            raise ClosedError("this engine is closed")
        return self._engine

    def _context(self, batch: int, stream: int) -> Any:
        self._open()
        profile = profile_of(batch)
        if not self._addresses:
            raise InputError("bind the tensors' addresses first")
        context = self._contexts.get(profile)
        if context is None:
            context = self._made_context(profile, stream)
            self._contexts[profile] = context
        for spec in self._specs.values():
            if spec.role == "frame":
                shape = tuple(batch if size == -1 else size for size in spec.shape)
                if not context.set_input_shape(spec.name, shape):
                    raise EngineError(self._failure(f"refuses {spec.name} of shape {list(shape)}"))
        return context

    def _made_context(self, profile: int, stream: int) -> Any:
        """One context per profile: switching inside a capture is not allowed."""
        arguments = [] if self._runtime_config is None else [self._runtime_config]
        context = self._engine.create_execution_context(*arguments)
        if context is None:
            raise EngineError(self._failure("has no memory for a context"))
        if not context.set_optimization_profile_async(profile, stream):
            raise EngineError(self._failure(f"has no profile {profile}"))
        for name, address in self._addresses.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(self._failure(f"refuses the address of {name}"))
        return context

    def _check_tensors(self) -> None:
        """The engine's tensors against `specs`: a wrong buffer would be a wrong picture."""
        engine, api = self._engine, self._flavour.api
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_output = engine.get_tensor_mode(name) == api.TensorIOMode.OUTPUT
            kind = engine.get_tensor_dtype(name)
            found[name] = (is_output, kind, tuple(engine.get_tensor_shape(name)))
        types = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
        for name, spec in self._specs.items():
            kind = getattr(api.DataType, types[spec.dtype])
            wanted = (spec.role == "output", kind, spec.shape)
            if found.pop(name, None) != wanted:
                raise EngineError(
                    f"the engine has no {spec.role} {name!r} of {spec.dtype} {list(spec.shape)}: "
                    "it was made for another avatar or by another gt_infer. Export it again."
                )
        if found:
            raise EngineError(
                f"the engine has tensors that nobody fills: {', '.join(sorted(found))}. Export it "
                "again, without --attention."
            )

    def _refit(self, onnx: bytes) -> None:
        """Fill in the weights of a stripped engine."""
        api = self._flavour.api
        refitter = api.Refitter(self._engine, self._logger)
        filled = api.OnnxParserRefitter(refitter, self._logger).refit_from_bytes(onnx)
        if not (filled and refitter.refit_cuda_engine()):
            raise EngineError(self._failure("cannot be refitted from its graph"))

    def _configure_runtime(self) -> None:
        """We capture whole frames ourselves; kernels compiled before need not be again."""
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._flavour.api.CudaGraphStrategy.DISABLED
        if self._cache_path is not None:
            cache = config.create_runtime_cache()
            try:
                stored = self._cache_path.read_bytes()
            except OSError:
                stored = b""
            # TensorRT itself refuses what was compiled for another GPU, driver or version.
            if stored and not cache.deserialize(stored):
                _LOG.warning("%s: does not fit this machine; compiling again", self._cache_path)
            config.set_runtime_cache(cache)
            self._jit_cache = cache
        self._runtime_config = config

    def _save_jit_cache(self) -> None:
        if self._jit_cache is None or self._cache_path is None:
            return
        try:
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._cache_path) as file:
                file.write(bytes(self._jit_cache.serialize()))
        except OSError as err:
            _LOG.warning("%s: cannot be kept (%s)", self._cache_path, err.strerror or err)

    def _failure(self, what: str) -> str:
        reason = self._errors[-1][:300] if self._errors else "it gives no reason"
        return f"{self._flavour.name} {self._flavour.version} {what}: {reason}"
