"""What an engine file says about itself, in JSON beside it: what it is for, how exact it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..avatar_file import atomic_write, short
from ..errors import EngineError

__all__ = ["Sidecar", "read_sidecar", "sidecar_path", "write_engine"]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """One engine's facts.

    Attributes:
        graph: "deform" or "canonical".
        avatar: sha256 of the avatar file whose weights it holds.
        widths: `Network.describe()` of that avatar, and `padded`, its Gaussians rounded up.
        flavour, version: of the TensorRT that built it; no other loads it.
        sm: "portable", or the compute capability.
        device: name of the GPU and version of its driver, of engines built on one; else empty.
        precision: of the products.
        attention: whether attention is an output.
        profiles: batches that it is tuned for.
        flags: options of the build.
        accuracy: what the accuracy gate found; empty when it was switched off.
        sha256: of the engine file.
    """

    graph: str
    avatar: str
    widths: Mapping[str, Any]
    flavour: str
    version: str
    sm: str
    precision: str
    sha256: str
    device: str = ""
    attention: bool = False
    profiles: Sequence[int] = ()
    flags: Sequence[str] = ()
    accuracy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_accurate(self) -> bool:
        """False only for an engine whose gate failed."""
        return bool(self.accuracy.get("passed", True))


def sidecar_path(engine: Path) -> Path:
    """Where the facts of an engine file lie."""
    return engine.with_name(f"{engine.name}.json")


def write_engine(engine: Path, plan: bytes, facts: Sidecar) -> None:
    """Writes engine and sidecar, both whole or neither; the engine first, so that no sidecar ever
    names what is not there.

    Raises: OSError.
    """
    facts = dataclasses.replace(facts, sha256=hashlib.sha256(plan).hexdigest())
    text = json.dumps({"format": _FORMAT, **dataclasses.asdict(facts)}, indent=2, sort_keys=True)
    with atomic_write(engine) as file:
        file.write(plan)
    try:
        with atomic_write(sidecar_path(engine)) as file:
            file.write(f"{text}\n".encode())
    except OSError:
        engine.unlink(missing_ok=True)  # nobody would use it
        raise


def read_sidecar(engine: Path) -> Sidecar:
    """The facts of an engine file.

    Raises:
        EngineError: missing, damaged, or of another format.
    """
    path = sidecar_path(engine)
    try:
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
            raise ValueError(f"format is not {_FORMAT}")
        facts = Sidecar(**data)
        for item in dataclasses.fields(Sidecar):
            default = item.default if item.default is not dataclasses.MISSING else ""
            value, kind = getattr(facts, item.name), type(default)
            if item.name in ("widths", "accuracy"):
                kind = dict
            elif item.name in ("profiles", "flags"):
                kind = list
            if not isinstance(value, kind):
                raise ValueError(f"{item.name} = {short(value)}")
    except FileNotFoundError as err:
        raise EngineError(f"{path}: no such file; an engine is used only with its facts") from err
    except (OSError, ValueError, TypeError, RecursionError) as err:
        raise EngineError(f"{path}: damaged, or of another gt_infer ({err})") from err
    return facts
