"""From an ONNX graph to a serialized TensorRT engine; gt-export and the runtime's cache build here.

Called directly, not through Polygraphy: that chooses the flavour once per process, by an
environment variable, and the runtime must not depend on it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..avatar_file import atomic_write
from ..errors import EngineError, InputError
from .deform_io import BATCHES, TensorSpec
from .tensorrt_api import Flavour

__all__ = [
    "PORTABLE",
    "BuildOptions",
    "Profile",
    "batch_profiles",
    "build_engine",
    "check_sm",
    "supported_sms",
]

_LOG = logging.getLogger(__name__)
PORTABLE = "portable"
Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]  # input -> smallest, usual, largest shape


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        sm: "portable" or a compute capability such as "89". With TensorRT-RTX what to build for;
            with TensorRT the GPU at hand, "portable" for all from Ampere on (hardware-compatible).
        is_float32: real float32 products, no TF32.
        refittable: weights can be replaced without a rebuild.
        stripped: leaves out the weights; they are refitted from the ONNX graph at load.
        version_compatible: TensorRT only: a later minor version can load it.
        timing_cache: TensorRT only: a file that makes the next build faster.
    """

    sm: str = PORTABLE
    is_float32: bool = True
    refittable: bool = False
    stripped: bool = False
    version_compatible: bool = False
    timing_cache: Path | None = None

    def flags(self) -> list[str]:
        """Those that are on, for the sidecar."""
        names = ("refittable", "stripped", "version_compatible")
        return [name for name in names if getattr(self, name)]


def batch_profiles(specs: Sequence[TensorSpec]) -> list[Profile]:
    """One profile per engine batch: 1, up to 4, up to 32, each tuned for its largest."""
    inputs = [spec for spec in specs if spec.role != "output"]
    profiles: list[Profile] = []
    smallest = 1
    for largest in BATCHES:
        profiles.append({spec.name: _shapes(spec, smallest, largest) for spec in inputs})
        smallest = largest + 1
    return profiles


def _shapes(spec: TensorSpec, smallest: int, largest: int) -> tuple[Shape, Shape, Shape]:
    def at(batch: int) -> Shape:
        return tuple(batch if size == -1 else size for size in spec.shape)

    return at(smallest), at(largest), at(largest)


def supported_sms(flavour: Flavour) -> list[str]:
    """Compute capabilities that an RTX engine can be built for by name."""
    members = getattr(flavour.api, "ComputeCapability", None)
    names = members.__members__ if members is not None else {}
    return [name.removeprefix("SM") for name in names if re.fullmatch(r"SM\d+", name)]


def check_sm(flavour: Flavour, sm: str) -> None:
    """Raises: InputError: not a compute capability that this flavour builds for."""
    if flavour.is_rtx and sm != PORTABLE and sm not in supported_sms(flavour):
        raise InputError(
            f"sm = {sm!r}: {flavour.name} {flavour.version} builds for {PORTABLE} (8.0, 8.6, 8.9, "
            f"12.0 and later) or {', '.join(supported_sms(flavour))}. Data-centre GPUs such as sm "
            "90 need the target tensorrt."
        )


def build_engine(
    flavour: Flavour, onnx: bytes, profiles: Sequence[Profile], options: BuildOptions
) -> bytes:
    """Parse a graph and build its engine. TensorRT-RTX needs no GPU for this, but for refittable
    ones; TensorRT always does.

    Raises:
        InputError: no such sm.
        EngineError: an operator or shape is not supported, or the build failed; says which.
    """
    check_sm(flavour, options.sm)
    trt = flavour.api
    logger, errors = flavour.logger()
    builder = _made(trt.Builder(logger), flavour, errors)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise EngineError(
            f"{flavour.name} {flavour.version} does not support this graph: {_parser_error(parser)}"
        )
    config = builder.create_builder_config()
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    _configure(flavour, config, options)
    timing_cache = _load_timing_cache(flavour, config, options)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(_build_failure(flavour, options, errors))
    if timing_cache is not None:
        _save_timing_cache(config, timing_cache)
    return bytes(plan)


def _made(builder: Any, flavour: Flavour, errors: Sequence[str]) -> Any:
    # A Builder whose constructor failed is a null object, not an exception.
    if builder is None:
        raise EngineError(f"{flavour.name} {flavour.version} does not start: {_last(errors)}")
    return builder


def _network_flags(trt: Any) -> int:
    """Strongly typed: precision is what the graph's types say. TensorRT 11 knows nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(flavour: Flavour, config: Any, options: BuildOptions) -> None:
    flags = flavour.api.BuilderFlag
    if options.is_float32:
        config.clear_flag(flags.TF32)
    if options.refittable or options.stripped:
        config.set_flag(flags.REFIT)
    if options.stripped:
        config.set_flag(flags.STRIP_PLAN)
    if flavour.is_rtx:
        if options.sm != PORTABLE:
            config.num_compute_capabilities = 1
            capability = getattr(flavour.api.ComputeCapability, f"SM{options.sm}")
            config.set_compute_capability(capability, 0)
        return
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.sm == PORTABLE:
        levels = flavour.api.HardwareCompatibilityLevel
        config.hardware_compatibility_level = levels.AMPERE_PLUS


def _load_timing_cache(flavour: Flavour, config: Any, options: BuildOptions) -> Path | None:
    """Uses the timings of former builds; gives where to keep the new ones, None for nowhere."""
    path = options.timing_cache
    if flavour.is_rtx or path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    # Damaged ones, and those of another GPU or version, are refused by TensorRT: then a fresh one.
    for blob in (data, b""):
        cache = config.create_timing_cache(blob)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return path
    return None


def _save_timing_cache(config: Any, path: Path) -> None:
    """It saves time alone: where it cannot be kept, the engine is as good."""
    try:
        with atomic_write(path) as file:
            file.write(bytes(config.get_timing_cache().serialize()))
    except OSError as err:
        _LOG.warning("%s: cannot be kept (%s)", path, err.strerror or err)


def _parser_error(parser: Any) -> str:
    if parser.num_errors == 0:
        return "its parser gives no reason"
    error = parser.get_error(0)
    node = f" at {error.node_operator()} {error.node_name()!r}" if error.node_operator() else ""
    return f"{' '.join(error.desc().split())}{node}"


def _build_failure(flavour: Flavour, options: BuildOptions, errors: Sequence[str]) -> str:
    what = f"{flavour.name} {flavour.version} could not build the engine for sm {options.sm}"
    if flavour.is_rtx and (options.refittable or options.stripped):
        what += (
            ". Engines whose weights can be refitted or are left out need the GPU they are for; "
            "without one, build plain engines"
        )
    return f"{what}: {_last(errors)}"


def _last(errors: Sequence[str]) -> str:
    return errors[-1][:300] if errors else "it gives no reason"
