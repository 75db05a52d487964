"""Natural blinking, as a function of (seed, frame)."""

from __future__ import annotations

from ..avatar_parts import TrainingPoses
from ..config import TIMING
from .chance import Chance

__all__ = ["Blinks"]

# Time is cut into slots of 3.3 s and a blink starts somewhere in the middle 40 % of each, but 40 %
# of the odd slots stay empty. So blinks come 2.0 to 7.9 s apart, short intervals more often than
# long ones, 4.1 s in the mean: about 15 a minute, as people at rest do. No slot asks its neighbour,
# which is what makes any frame's blink known at once.
_SLOT_FRAMES = 3.3 * TIMING.fps
_SPREAD = 0.4
_EMPTY = 0.4

# Some blinks come twice: the second starts this many frames after the first.
_DOUBLE = 0.08
_AGAIN_EARLIEST, _AGAIN_LATEST = 9.5, 12.0

# Lids fall fast, stay shut for a moment and rise slowly. Shut for 1.6 frames, so that at least one
# frame shows full closure wherever the blink falls between frames. 7 or 8 frames in all.
_FALL, _SHUT, _RISE = 2.2, 1.6, 4.0
_BLINK_FRAMES = _FALL + _SHUT + _RISE

# Streams of `Chance`; `IdleMotion` has another.
_START, _SKIP, _TWICE, _AGAIN, _PHASE = 0, 1, 2, 3, 4

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
        self._start = Chance(seed, _START)
        self._skip = Chance(seed, _SKIP)
        self._twice = Chance(seed, _TWICE)
        self._again = Chance(seed, _AGAIN)
        # Faces with different seeds, side by side, must not share their slots.
        self._phase = 2.0 * _SLOT_FRAMES * Chance(seed, _PHASE).uniform(0)
        recorded = float(poses.blink.max()) if poses is not None else 1.0
        self._peak = recorded if recorded >= _LEAST_PEAK else 1.0

    def blink(self, frame: int) -> float:
        """How far the eyes are shut at a frame, 0 open to 1 shut, for any integer frame."""
        time = frame + self._phase
        slot = int(time // _SLOT_FRAMES)
        # Even the last blink of a slot, a double one, is over before the slot is.
        within = 0.5 + _SPREAD * (self._start.uniform(slot) - 0.5)
        since = time - (slot + within) * _SLOT_FRAMES
        if not 0.0 < since < _AGAIN_LATEST + _BLINK_FRAMES:
            return 0.0
        if slot % 2 and self._skip.uniform(slot) < _EMPTY:
            return 0.0
        if since >= _AGAIN_EARLIEST and self._twice.uniform(slot) < _DOUBLE:
            spare = _AGAIN_LATEST - _AGAIN_EARLIEST
            since -= _AGAIN_EARLIEST + spare * self._again.uniform(slot)
        return self._peak * _lid(since)


def _lid(since: float) -> float:
    """How far the lid has come `since` frames after it started to fall."""
    if since < _FALL:
        return _ease(since / _FALL)
    return _ease((_BLINK_FRAMES - since) / _RISE)


def _ease(x: float) -> float:
    x = min(1.0, max(0.0, x))
    return x * x * (3.0 - 2.0 * x)
