"""Keeps poses where the avatar was trained, and so looks right."""

from __future__ import annotations

import math

import numpy as np

from ..avatar_parts import TrainingPoses
from ..errors import InputError
from ..pose import Pose

__all__ = ["PoseRange"]

# Poses pass unchanged up to a margin outside the recording: this part of its width, so that frames
# of the same recording that were kept for validation pass too, and at least so many degrees, or
# this part of the distance to the camera. From there the clamp bends, and no pose gets further out
# than twice the margin, where the demo avatar begins to show faults (docs/life.md).
_FREE = 0.08
_FREE_ANGLE = math.radians(2.0)
_FREE_SHIFT = 0.003

_NAMES = ("pitch", "yaw", "roll", "x", "y", "z")
_RARE = 1.0  # percentile at either end that does not count for the width: a tracker's slips


class PoseRange:
    """The box of poses that an avatar can show, and the way back into it.

    Every pose of the recording itself is inside.

    Args:
        poses: the avatar's.
    """

    def __init__(self, poses: TrainingPoses) -> None:
        recorded = np.concatenate([poses.euler, poses.trans], axis=1).astype(np.float64)
        low, high = recorded.min(axis=0), recorded.max(axis=0)
        usual_low, usual_high = np.percentile(recorded, (_RARE, 100.0 - _RARE), axis=0)
        distance = abs(poses.mean_trans[2])
        least = np.repeat((_FREE_ANGLE, _FREE_SHIFT * distance), 3)
        margin = np.maximum(_FREE * (usual_high - usual_low), least)
        # Plain floats: this runs for every frame.
        self._low: list[float] = (low - margin).tolist()
        self._high: list[float] = (high + margin).tolist()
        self._bend: list[float] = margin.tolist()

    def clamp(self, pose: Pose) -> Pose:
        """The pose itself when inside; else one near the edge of the range.

        Each angle and each axis of the translation for itself, monotone and without a kink, so that
        motion across the edge slows down and stops but never jumps.

        Raises:
            InputError: the pose is relative.
        """
        values = _values(pose)
        low, high = self._low, self._high
        if all(lo <= v <= hi for v, lo, hi in zip(values, low, high, strict=True)):
            return pose
        soft = [
            _soften(v, lo, hi, bend)
            for v, lo, hi, bend in zip(values, low, high, self._bend, strict=True)
        ]
        return Pose((soft[0], soft[1], soft[2]), (soft[3], soft[4], soft[5]))

    def check(self, pose: Pose) -> None:
        """Refuses what `clamp` would change.

        Raises:
            InputError: names the first angle or axis outside, its value and its range; or the pose
                is relative.
        """
        for axis, value in enumerate(_values(pose)):
            if not self._low[axis] <= value <= self._high[axis]:
                raise InputError(
                    f"pose: {_NAMES[axis]} = {_shown(axis, value)} is outside {self._span(axis)}, "
                    "the range this avatar was trained on. Stay inside it, or let poses be clamped."
                )

    def describe(self) -> str:
        """The range in words: "pitch -7.5 to 8.7 degrees, yaw ... z -11.00 to -10.80"."""
        return ", ".join(f"{name} {self._span(axis)}" for axis, name in enumerate(_NAMES))

    def _span(self, axis: int) -> str:
        low = _shown(axis, self._low[axis]).removesuffix(" degrees")
        return f"{low} to {_shown(axis, self._high[axis])}"


def _values(pose: Pose) -> tuple[float, ...]:
    if pose.relative:
        raise InputError(
            "pose: relative to an avatar's mean pose; call resolve(mean_euler, mean_trans) first."
        )
    return (*pose.euler, *pose.trans)


def _soften(value: float, low: float, high: float, bend: float) -> float:
    """Identity on [low, high]; beyond, slope 1 falling to 0, towards `bend` further out."""
    if value > high:
        return high + bend * (value - high) / (bend + value - high)
    if value < low:
        return low - bend * (low - value) / (bend + low - value)
    return value


def _shown(axis: int, value: float) -> str:
    return f"{math.degrees(value):.1f} degrees" if axis < 3 else f"{value:.2f}"
