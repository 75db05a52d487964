"""The only importer of the compiled extension."""

from __future__ import annotations

from typing import Any

from .errors import EngineError

try:
    from . import _cpu
except ImportError as err:
    raise EngineError(
        f"gt_infer's native extension cannot be loaded ({err}). If this is a source folder, build "
        "it in place with `pip install -e .`; otherwise reinstall gt-infer for this Python."
    ) from err

from ._cpu import Background, Engine, LogMel, Model, PixelFormat, RasterParams, rasterize

__all__ = [
    "Background",
    "Engine",
    "LogMel",
    "Model",
    "PixelFormat",
    "RasterParams",
    "available_isas",
    "build_info",
    "rasterize",
    "usable_cores",
]


def build_info() -> dict[str, Any]:
    """How the extension was built: `version`, `compiler`, `cuda` (what became of that part)."""
    return _cpu.build_info()


def available_isas() -> list[str]:
    """Instruction sets that this build has and this machine can run, the default first."""
    return _cpu.available_isas()


def usable_cores() -> int:
    """Cores this process may run on, by affinity and cgroup quota; hardware threads of one core
    count once."""
    return _cpu.usable_cores()
