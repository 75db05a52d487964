"""The one importer of TensorRT, in either flavour: the data-centre package and TensorRT-RTX.

Both have the same Python API. Importing this module imports neither.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import EngineError

__all__ = ["FLAVOURS", "Flavour", "FlavourName", "installed_flavours", "load_flavour"]

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[FlavourName, ...] = get_args(FlavourName)
_MODULES: Mapping[FlavourName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True, slots=True)
class Flavour:
    """A TensorRT that could be imported.

    Attributes:
        api: the module.
        version: as it says; engines belong to exactly one.
    """

    name: FlavourName
    api: Any
    version: str

    @property
    def is_rtx(self) -> bool:
        """RTX builds for GPUs that are not there; the other for the one at hand."""
        return self.name == "tensorrt-rtx"

    def logger(self) -> tuple[Any, list[str]]:
        """A fresh logger, and the list in which it collects errors."""
        errors: list[str] = []
        severities = (self.api.ILogger.Severity.INTERNAL_ERROR, self.api.ILogger.Severity.ERROR)

        class Collector(self.api.ILogger):  # type: ignore[misc, name-defined]
            def log(self, severity: Any, message: str) -> None:
                if severity in severities:
                    errors.append(" ".join(message.split()))

        return Collector(), errors


def installed_flavours() -> list[FlavourName]:
    """Which are installed; nothing is imported."""
    return [name for name in FLAVOURS if _is_installed(_MODULES[name])]


def load_flavour(name: FlavourName) -> Flavour:
    """Import one.

    Raises:
        EngineError: it is not installed or does not load; the message has the pip command.
    """
    module = _MODULES[name]
    try:
        api = importlib.import_module(module)
    except Exception as err:  # a broken installation fails in its own ways: ImportError, OSError...
        raise EngineError(
            f"cannot import {module} ({type(err).__name__}: {err}). Install it with: "
            f"pip install 'gt-infer[{name}]'"
        ) from err
    return Flavour(name, api, str(api.__version__))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
