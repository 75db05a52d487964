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

__all__ = ["Device", "Found", "deform_key", "open_deform_engine", "why_invalid"]

_LOG = logging.getLogger(__name__)


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
    """An engine's plan, its facts, and where it came from, for logs."""

    plan: bytes
    facts: Sidecar
    origin: str


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
) -> Found:
    """The deform engine of an avatar.

    Args:
        folder: where the avatar file lies, and what gt-export made of it.

    Raises:
        EngineError: nothing fits and nothing can be built; says what to run.
    """
    key = deform_key(avatar, flavour, precision, device)
    refused: list[str] = []
    for path, facts in _candidates(folder, key, device, refused):
        try:
            plan = path.read_bytes()
        except OSError as err:
            refused.append(f"{path.name}: {err.strerror or err}")
            continue
        damaged = hashlib.sha256(plan).hexdigest() != facts.sha256
        problem = "truncated or damaged" if damaged else why_invalid(flavour, plan)
        if problem is None:
            return Found(plan, facts, str(path))
        refused.append(f"{path.name}: {problem}")
    for reason in refused:
        _LOG.warning("%s: not used", reason)
    onnx = _graph(folder, avatar, precision)
    if onnx is None:
        looked = f" ({'; '.join(refused)})" if refused else ""
        raise EngineError(
            f"no {flavour.name} {flavour.version} engine or {precision} graph of avatar "
            f"{avatar.name!r} in {folder}{looked}. Make them: gt-export NAME.safetensors --target "
            f"{flavour.name} --precision {precision}"
        )
    data = onnx.read_bytes()
    options = BuildOptions(sm=key.sm, is_float32=precision == "fp32")
    plan = (cache or EngineCache()).get_or_build(
        key,
        lambda: build_engine(
            flavour, data, batch_profiles(deform_tensors(avatar, precision)), options
        ),
        why_invalid=lambda cached: why_invalid(flavour, cached),
    )
    return Found(plan, key.facts(), f"built from {onnx}")


def why_invalid(flavour: Flavour, plan: bytes) -> str | None:
    """What this TensorRT, GPU and driver have against a plan; None when nothing, or when this
    version cannot tell before loading."""
    api = flavour.api
    logger, _ = flavour.logger()
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
    return f"{flavour.name} {flavour.version} refuses it: {', '.join(names) or 'no reason given'}"


def _candidates(
    folder: Path, key: EngineKey, device: Device, refused: list[str]
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
        problem = _mismatch(facts, key, device)
        if problem is None:
            fits.append((path, facts))
        else:
            refused.append(f"{path.name}: {problem}")
    yield from sorted(fits, key=lambda item: item[1].sm == PORTABLE)


def _mismatch(facts: Sidecar, key: EngineKey, device: Device) -> str | None:
    if facts.version != key.version:
        return f"made by {facts.flavour} {facts.version}, installed is {key.version}"
    if facts.sm not in (PORTABLE, device.sm):
        return f"made for sm {facts.sm}, {device.name} is {device.sm}"
    if facts.device not in ("", str(device)):
        return f"made on {facts.device}, this is {device}"
    if facts.widths != key.widths:
        return "made for other widths"
    if not facts.is_accurate:
        return "it failed its accuracy gate"
    return None


def _graph(folder: Path, avatar: Avatar, precision: EnginePrecision) -> Path | None:
    """The avatar's ONNX graph: its metadata hold the avatar's hash."""
    for path in sorted(folder.glob(f"*.deform-{precision}.onnx")):
        if avatar.sha256 and avatar.sha256.encode() in path.read_bytes():
            return path
    return None
