"""Which engine a renderer takes: one that lies beside the avatar file, one from the cache, or one
built now from the graph that lies beside the avatar file. None of it needs a GPU to decide."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..avatar import Avatar
from ..errors import EngineError
from .cache import EngineCache, EngineKey
from .deform_io import EnginePrecision, deform_tensors, padded_count
from .sidecar import Sidecar, read_sidecar
from .tensorrt_api import Flavour
from .tensorrt_build import PORTABLE, BuildOptions, batch_profiles, build_engine

__all__ = [
    "FAILED_GATE",
    "Device",
    "Found",
    "deform_key",
    "open_deform_engine",
    "why_invalid",
]

_LOG = logging.getLogger(__name__)
_LEAST_PORTABLE = 80  # compute capability, of both flavours
FAILED_GATE = "it failed its accuracy gate"  # also what gt-export writes into such a graph


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU at hand.

    Attributes:
        name: as its driver says.
        sm: compute capability without the dot.
        driver: version of CUDA that the driver supports.
    """

    name: str
    sm: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, CUDA {self.driver}"


@dataclass(frozen=True, slots=True)
class Found:
    """An engine's plan and its facts.

    Attributes:
        origin: where it came from, for logs.
        onnx: the graph with its weights, where the plan has none; for `DeformNetwork`.
    """

    plan: bytes
    facts: Sidecar
    origin: str
    onnx: bytes | None = None


def deform_key(
    avatar: Avatar,
    flavour: Flavour,
    precision: EnginePrecision,
    device: Device,
    *,
    attention: bool = False,
) -> EngineKey:
    """What an engine that is built on this machine depends on. RTX engines are portable between
    GPUs and know nothing of the driver; the others belong to both."""
    return EngineKey(
        graph="deform",
        avatar=avatar.sha256,
        widths={**avatar.network.describe(), "padded": padded_count(len(avatar))},
        flavour=flavour.name,
        version=flavour.version,
        sm=PORTABLE if flavour.is_rtx else device.sm,
        precision=precision,
        device="" if flavour.is_rtx else str(device),
        attention=attention,
    )


def open_deform_engine(
    avatar: Avatar,
    folder: Path,
    flavour: Flavour,
    precision: EnginePrecision,
    device: Device,
    *,
    cache: EngineCache | None = None,
    allow_host_code: bool = False,
) -> Found:
    """The deform engine of an avatar.

    Args:
        folder: where the avatar file lies, and what gt-export made of it.
        allow_host_code: also take version-compatible engines, as `DeformNetwork`.

    Raises:
        EngineError: nothing fits and nothing can be built; says what to run.
    """
    key = deform_key(avatar, flavour, precision, device)
    refused: list[str] = []
    graph = _graph(folder, avatar, precision, refused)
    for path, facts in _candidates(folder, key, device, refused, allow_host_code):
        try:
            plan = path.read_bytes()
        except OSError as err:
            refused.append(f"{path.name}: {err.strerror or err}")
            continue
        damaged = hashlib.sha256(plan).hexdigest() != facts.sha256
        problem = "truncated or damaged" if damaged else why_invalid(flavour, plan)
        stripped = "stripped" in facts.flags
        if problem is None and stripped and graph is None:
            problem = f"its weights are in the {precision} graph, which is not beside it"
        if problem is None:
            weights = graph[1] if stripped and graph is not None else None
            return Found(plan, facts, str(path), weights)
        refused.append(f"{path.name}: {problem}")
    for reason in refused:
        _LOG.warning("%s: not used", reason)
    if graph is None:
        looked = f" ({'; '.join(refused)})" if refused else ""
        raise EngineError(
            f"no {flavour.name} {flavour.version} engine or {precision} graph of avatar "
            f"{avatar.name!r} in {folder}{looked}. Make them: gt-export NAME.safetensors --target "
            f"{flavour.name} --precision {precision}"
        )
    graph_path, onnx = graph
    options = BuildOptions(sm=key.sm, is_float32=precision == "fp32")
    plan = (cache or EngineCache()).get_or_build(
        key,
        lambda: build_engine(
            flavour, onnx, batch_profiles(deform_tensors(avatar, precision)), options
        ),
        why_invalid=lambda cached: why_invalid(flavour, cached),
    )
    return Found(plan, key.facts(), f"built from {graph_path}")


def why_invalid(flavour: Flavour, plan: bytes) -> str | None:
    """What this TensorRT, GPU and driver have against a plan; None when nothing, or when this
    version cannot tell before loading."""
    api = flavour.api
    logger, errors = flavour.logger()
    runtime = api.Runtime(logger)
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return None
    validity, diagnostics = ask(plan)
    if validity != api.EngineValidity.INVALID:
        return None
    names = [
        name
        for name, bit in api.EngineInvalidityDiagnostics.__members__.items()
        if int(diagnostics) & int(bit)
    ]
    reason = ", ".join(names) or (errors[-1][:300] if errors else "no reason given")
    return f"{flavour.name} {flavour.version} refuses it: {reason}"


def _candidates(
    folder: Path, key: EngineKey, device: Device, refused: list[str], allow_host_code: bool
) -> Iterator[tuple[Path, Sidecar]]:
    """Engines beside the avatar that fit, those for exactly this GPU first."""
    fits = []
    for path in sorted(folder.glob("*.engine")):
        try:
            facts = read_sidecar(path)
        except EngineError as err:
            refused.append(str(err))
            continue
        if facts.avatar != key.avatar or facts.graph != key.graph:
            continue  # another avatar's, or the canonical graph: nothing to say
        if (facts.flavour, facts.precision) != (key.flavour, key.precision) or facts.attention:
            continue
        problem = _mismatch(facts, key, device, allow_host_code)
        if problem is None:
            fits.append((path, facts))
        else:
            refused.append(f"{path.name}: {problem}")
    yield from sorted(fits, key=lambda item: item[1].sm == PORTABLE)


def _mismatch(facts: Sidecar, key: EngineKey, device: Device, allow_host_code: bool) -> str | None:
    is_compatible = "version_compatible" in facts.flags
    if is_compatible and not allow_host_code:
        return (
            "is version-compatible: it holds code that would be run, which "
            "EngineConfig(allow_host_code=True) allows"
        )
    runs_here = _is_later(key.version, facts.version) if is_compatible else False
    if facts.version != key.version and not runs_here:
        return f"made by {facts.flavour} {facts.version}, installed is {key.version}"
    if facts.sm not in (PORTABLE, device.sm):
        return f"made for sm {facts.sm}, {device.name} is {device.sm}"
    if facts.sm == PORTABLE and int(device.sm) < _LEAST_PORTABLE:
        return f"made for sm {_LEAST_PORTABLE} and later, {device.name} is {device.sm}"
    if facts.device not in ("", str(device)):
        return f"made on {facts.device}, this is {device}"
    if facts.widths != key.widths:
        return "made for other widths"
    if not facts.is_accurate:
        return FAILED_GATE
    return None


def _is_later(version: str, than: str) -> bool:
    """Of the same major version, later or equal."""
    try:
        ours, theirs = ([int(part) for part in text.split(".")] for text in (version, than))
    except ValueError:
        return False
    return ours[0] == theirs[0] and ours >= theirs


def _graph(
    folder: Path, avatar: Avatar, precision: EnginePrecision, refused: list[str]
) -> tuple[Path, bytes] | None:
    """The avatar's ONNX graph: its metadata hold the avatar's hash, and the gate's verdict."""
    for path in sorted(folder.glob(f"*.deform-{precision}.onnx")):
        try:
            data = path.read_bytes()
        except OSError as err:
            refused.append(f"{path.name}: {err.strerror or err}")
            continue
        if not avatar.sha256 or avatar.sha256.encode() not in data:
            continue
        if FAILED_GATE.encode() in data:
            refused.append(f"{path.name}: {FAILED_GATE}")
            continue
        return path, data
    return None
