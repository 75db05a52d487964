"""Engines that the runtime built, kept for the next start. A cache: losing it costs time alone.

An entry is an engine file and its sidecar, under a name made of what it depends on: flavour,
version, compute capability, precision, and the avatar. What does not fit, is damaged, or was made
by another version or for another driver, is thrown away with a warning and built again; a folder
that cannot be written, or a full disk, is a warning. Beside them lie the kernels that TensorRT-RTX
compiled at first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from .sidecar import Sidecar, read_sidecar, sidecar_path, write_engine

__all__ = ["CacheEntry", "EngineCache", "EngineKey", "default_folder", "kernels_path"]

_LOG = logging.getLogger(__name__)
_SUFFIX = ".engine"
_KERNELS_SUFFIX = ".jit"
_ENVIRONMENT = "GT_INFER_CACHE"


def default_folder() -> Path:
    """Where a user's engines lie: $GT_INFER_CACHE, else the system's place for caches."""
    named = os.environ.get(_ENVIRONMENT)
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gt_infer" / "engines"


def kernels_path(avatar: str, folder: Path | None = None) -> Path:
    """Where TensorRT-RTX keeps what it compiled for an avatar (its sha256)."""
    return (default_folder() if folder is None else folder) / f"{avatar[:24]}{_KERNELS_SUFFIX}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKey:
    """All that an engine depends on: it is used only where every part is the same.

    The attributes are those of `Sidecar`.
    """

    graph: str
    avatar: str
    widths: Mapping[str, Any]
    flavour: str
    version: str
    sm: str
    precision: str
    device: str = ""
    attention: bool = False

    @property
    def file_name(self) -> str:
        """Readable in front, a fingerprint of everything behind."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        return f"{self.flavour}-{self.sm}-{self.precision}-{digest}{_SUFFIX}"

    def difference(self, facts: Sidecar) -> str | None:
        """What an engine with these facts was made for instead; None when it fits."""
        for item in dataclasses.fields(self):
            ours, theirs = getattr(self, item.name), getattr(facts, item.name)
            if ours != theirs:
                return f"made for {item.name} {theirs!r}, this is {ours!r}"
        return None

    def outdates(self, facts: Sidecar) -> bool:
        """Whether an engine with these facts was for the same, of another version or driver."""
        same = ("graph", "avatar", "widths", "flavour", "sm", "precision", "attention")
        return (
            all(getattr(self, name) == getattr(facts, name) for name in same)
            and _gpu(self.device) == _gpu(facts.device)
            and (self.version, self.device) != (facts.version, facts.device)
        )

    def facts(self, **more: Any) -> Sidecar:
        """The sidecar of an engine that was built for this key."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Sidecar(**values, sha256="", **more)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """For `gt-export --list-cache`. `facts` is None, and `problem` set, for a damaged one."""

    path: Path
    size: int
    facts: Sidecar | None
    problem: str = ""


class EngineCache:
    """A folder of engines.

    Args:
        folder: None for the user's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def get_or_build(
        self,
        key: EngineKey,
        build: Callable[[], bytes],
        *,
        why_invalid: Callable[[bytes], str | None] = lambda plan: None,
    ) -> bytes:
        """The engine for a key, from the folder if it is there and good, else built and kept.

        Args:
            why_invalid: what the runtime itself has against a plan (`get_engine_validity`).

        Raises: what `build` raises; trouble with the folder is a warning.
        """
        path = self.folder / key.file_name
        plan = self._read(path, key, why_invalid)
        if plan is not None:
            return plan
        self._discard_outdated(key)
        plan = build()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_engine(path, plan, key.facts())
        except OSError as err:
            _LOG.warning(
                "the engine cannot be kept (%s: %s); it will be built again at the next start. "
                "Set %s to a folder that can be written.",
                path,
                err.strerror or err,
                _ENVIRONMENT,
            )
        return plan

    def entries(self) -> list[CacheEntry]:
        """What is in the folder, damaged entries included."""
        found = []
        for path in sorted(self._files()):
            try:
                size = path.stat().st_size
            except OSError:
                continue  # another process removed it meanwhile
            try:
                found.append(CacheEntry(path, size, read_sidecar(path)))
            except EngineError as err:
                found.append(CacheEntry(path, size, None, str(err)))
        return found

    def clear(self) -> int:
        """Removes all entries and compiled kernels, and nothing else in the folder; gives how many
        entries there were.

        Raises: OSError.
        """
        files = self._files()
        for path in files:
            _remove(path)
        for path in self._files(_KERNELS_SUFFIX):
            path.unlink(missing_ok=True)
        return len(files)

    def _files(self, suffix: str = _SUFFIX) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if path.suffix == suffix]
        except OSError:
            return []

    def _discard_outdated(self, key: EngineKey) -> None:
        for entry in self.entries():
            if entry.facts is not None and key.outdates(entry.facts):
                _LOG.warning(
                    "%s: discarded, building it again: %s", entry.path, key.difference(entry.facts)
                )
                with contextlib.suppress(OSError):
                    _remove(entry.path)

    def _read(
        self, path: Path, key: EngineKey, why_invalid: Callable[[bytes], str | None]
    ) -> bytes | None:
        try:
            plan = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            _LOG.warning("%s: cannot be read (%s); building it again", path, err.strerror or err)
            return None
        problem = self._problem(path, plan, key) or why_invalid(plan)
        if problem is None:
            return plan
        _LOG.warning("%s: discarded, building it again: %s", path, problem)
        # In a read-only folder it stays; that the new one is not kept either is a warning.
        with contextlib.suppress(OSError):
            _remove(path)
        return None

    def _problem(self, path: Path, plan: bytes, key: EngineKey) -> str | None:
        try:
            facts = read_sidecar(path)
        except EngineError as err:
            return str(err)
        if hashlib.sha256(plan).hexdigest() != facts.sha256:
            return "truncated or damaged"
        return key.difference(facts)


def _gpu(device: str) -> str:
    """`Device.__str__` without the driver."""
    return device.partition(", CUDA ")[0]


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    sidecar_path(path).unlink(missing_ok=True)
