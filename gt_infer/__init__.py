"""gt_infer: trained GaussianTalker heads that speak, in any app.

    import gt_infer
    with gt_infer.Renderer("demo") as renderer:
        for chunk in chunks_of_640_samples:        # 40 ms of 16 kHz mono
            frame = renderer.render(chunk)         # uint8 [H, W, 3]

Names are resolved on first use, so that importing costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    AudioError,
    AvatarError,
    CheckpointError,
    ClosedError,
    EngineError,
    GtError,
    InputError,
    MediaError,
)

if TYPE_CHECKING:
    from .avatar import Avatar
    from .config import EngineConfig, RasterConfig
    from .pose import Pose
    from .renderer import Renderer
    from .types import Camera, Gaussians

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "Avatar",
    "AvatarError",
    "Camera",
    "CheckpointError",
    "ClosedError",
    "EngineConfig",
    "EngineError",
    "Gaussians",
    "GtError",
    "InputError",
    "MediaError",
    "Pose",
    "RasterConfig",
    "Renderer",
]

_HOMES = {
    "Avatar": "avatar",
    "Camera": "types",
    "EngineConfig": "config",
    "Gaussians": "types",
    "Pose": "pose",
    "RasterConfig": "config",
    "Renderer": "renderer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
