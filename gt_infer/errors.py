"""The exceptions of gt_infer. Every error a user can cause derives from `GtError`.

Each class also derives from the built-in that a careful caller would expect, so
`except ValueError` works where it reads naturally.
"""

from __future__ import annotations

__all__ = [
    "AudioError",
    "AvatarError",
    "BacklogError",
    "CheckpointError",
    "ClosedError",
    "DeviceMemoryError",
    "EngineError",
    "GtError",
    "InputError",
    "MediaError",
]


class GtError(Exception):
    """Base of every error that gt_infer raises on purpose."""


class InputError(GtError, ValueError):
    """An argument has the wrong shape, dtype, range or combination."""


class AvatarError(GtError, ValueError):
    """An avatar file is missing, damaged, or not what its manifest says."""


class CheckpointError(GtError, ValueError):
    """A trained checkpoint or its dataset cannot be read or is not supported."""


class AudioError(GtError, ValueError):
    """Sound or precomputed features cannot be read or used."""


class MediaError(GtError, OSError):
    """A picture or video file cannot be read or written."""


class EngineError(GtError, RuntimeError):
    """An engine cannot be had on this machine, or failed while running."""


class DeviceMemoryError(EngineError, MemoryError):
    """A GPU has no room for what was asked. What was there before goes on working."""


class BacklogError(GtError, RuntimeError):
    """More sound was pushed than frames were read, past the session's limit."""


class ClosedError(GtError, RuntimeError):
    """A renderer or writer was used after `close()`."""
