"""Natural blinking, as a function of (seed, frame)."""

from __future__ import annotations

import math

from ..avatar_parts import TrainingPoses
from ..config import TIMING
from .chance import check_seed, uniform

__all__ = ["Blinks"]

# Time is cut into slots of 3.1 s and a blink starts somewhere in the middle 70 % of each, but 40 %
# of the odd slots stay empty. So blinks come 2.0 to 7.3 s apart, short intervals more often than
# long ones, 3.9 s in the mean: 15.5 a minute, what people at rest do. No slot asks its neighbour,
# which is what makes any frame's blink known at once.
_SLOT_FRAMES = 3.1 * TIMING.fps
_SPREAD = 0.35
_EMPTY = 0.4

# Some blinks come twice: the second starts this many frames after the first.
_DOUBLE = 0.08
_AGAIN_EARLIEST, _AGAIN_LATEST = 9.5, 12.0

# Lids fall fast, stay shut for a moment and rise slowly. Shut for 1.6 frames, so that at least one
# frame shows full closure wherever the blink falls between frames. 7 or 8 frames in all.
_FALL, _SHUT, _RISE = 2.2, 1.6, 4.0
_BLINK_FRAMES = _FALL + _SHUT + _RISE

# Streams of `chance`.
_START, _SKIP, _TWICE, _AGAIN = range(4)

# A recording whose largest blink is below this has none to learn from.
_LEAST_PEAK = 0.1


class Blinks:
    """When the eyes shut, and how far.

    Args:
        seed: another seed, other moments.
        poses: the avatar's, if known: lids then shut as far as they did in its recording, which
            is as far as its networks know them. Without, or when it never blinked, 1.

    Raises:
        InputError: the seed is not an integer.
    """

    def __init__(self, seed: int = 0, poses: TrainingPoses | None = None) -> None:
        self._seed = check_seed(seed)
        recorded = float(poses.blink.max()) if poses is not None else 1.0
        self._peak = recorded if recorded >= _LEAST_PEAK else 1.0

    def blink(self, frame: int) -> float:
        """How far the eyes are shut at a frame, 0 open to 1 shut, for any integer frame."""
        slot = math.floor(frame / _SLOT_FRAMES)
        # One that started in the slot before may still be going on.
        return self._peak * max(self._in_slot(slot, frame), self._in_slot(slot - 1, frame))

    def _in_slot(self, slot: int, frame: int) -> float:
        seed = self._seed
        if slot % 2 and uniform(seed, _SKIP, slot) < _EMPTY:
            return 0.0
        within = 0.5 + _SPREAD * (2.0 * uniform(seed, _START, slot) - 1.0)
        since = frame - (slot + within) * _SLOT_FRAMES
        if since <= 0.0:
            return 0.0
        if since >= _BLINK_FRAMES and uniform(seed, _TWICE, slot) < _DOUBLE:
            pause = _AGAIN_LATEST - _AGAIN_EARLIEST
            since -= _AGAIN_EARLIEST + pause * uniform(seed, _AGAIN, slot)
        return _lid(since)


def _lid(since: float) -> float:
    """How far the lid has come `since` frames after it started to fall."""
    if since < _FALL:
        return _ease(since / _FALL)
    return _ease((_BLINK_FRAMES - since) / _RISE)


def _ease(x: float) -> float:
    x = min(1.0, max(0.0, x))
    return x * x * (3.0 - 2.0 * x)
