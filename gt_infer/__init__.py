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
    BacklogError,
    CheckpointError,
    ClosedError,
    DeviceMemoryError,
    EngineError,
    GtError,
    InputError,
    MediaError,
)

if TYPE_CHECKING:
    from .avatar import Avatar
    from .config import EngineConfig, LifeConfig, RasterConfig
    from .device_image import DeviceImage
    from .pacing import Pacer
    from .pose import Pose
    from .renderer import Renderer
    from .session import Session
    from .types import Camera, Frame, Gaussians

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "Avatar",
    "AvatarError",
    "BacklogError",
    "Camera",
    "CheckpointError",
    "ClosedError",
    "DeviceImage",
    "DeviceMemoryError",
    "EngineConfig",
    "EngineError",
    "Frame",
    "Gaussians",
    "GtError",
    "InputError",
    "LifeConfig",
    "MediaError",
    "Pacer",
    "Pose",
    "RasterConfig",
    "Renderer",
    "Session",
]

_HOMES = {
    "Avatar": "avatar",
    "Camera": "types",
    "DeviceImage": "device_image",
    "EngineConfig": "config",
    "Frame": "types",
    "LifeConfig": "config",
    "Gaussians": "types",
    "Pacer": "pacing",
    "Pose": "pose",
    "RasterConfig": "config",
    "Renderer": "renderer",
    "Session": "session",
}


if not TYPE_CHECKING:  # a checker that saw it would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
