"""Idle head motion, drawn from the avatar's own recording, as a function of (seed, frame)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..avatar_parts import TrainingPoses
from ..config import TIMING
from ..pose import Pose
from ..types import FloatArray
from .chance import Chance

__all__ = ["IdleMotion"]

Float64Array = npt.NDArray[np.float64]

# A piece of the recording lasts 18 s: 6 s in which it takes over from the piece before, 6 s alone,
# 6 s in which it gives way. Of a short recording pieces take half, so that there are many of them.
_PIECE = 18 * TIMING.fps
# With less, pieces would be too short, or too few different ones, to be anyone's own motion.
_FEWEST_POSES = 10 * TIMING.fps
_FEWEST_STARTS = 4 * TIMING.fps

# Trackers jitter from frame to frame more than heads do: a Gaussian over this many frames.
_SMOOTH_SIGMA = 2.0
_SMOOTH_RADIUS = 6

# From one frame to the next no idle head turns by more than this (75 degrees per second), nor moves
# by more than this part of its distance. Where a recording does, it was cut or lost its track.
_JUMP_ANGLE = math.radians(3.0)
_JUMP_SHIFT = 0.005

_PIECES = 10  # stream of `Chance`; `Blinks` has others

_STEEPEST = 1.875  # slope of `_ease`, at its middle

# Without a usable recording the head sways: slow waves of (degrees, seconds), no period a multiple
# of another, for pitch, yaw and roll.
_SWAY_FRAMES = 80 * TIMING.fps
_SWAY = (
    ((1.4, 7.9), (0.7, 3.7)),
    ((2.6, 11.3), (1.0, 5.3)),
    ((0.9, 9.7), (0.5, 6.1)),
)


class IdleMotion:
    """What the head does when nobody says what it should do.

    Pieces of the recording, picked by the seed, follow one another and cross-fade. So turns and
    shifts go together as they did in the person, and averages of recorded poses stay inside what
    was trained. All is scaled towards the mean pose, by one factor, so that even the widest
    cross-fade is no faster than the recording's own fastest motion.

    Memory is 24 bytes per training frame; any frame costs the same.

    Args:
        poses: the avatar's. With fewer than 250, or hardly any without jumps between them, the head
            sways slowly about their mean instead.
        seed: another seed, another motion.

    Raises:
        InputError: the seed is not an integer.
    """

    def __init__(self, poses: TrainingPoses, seed: int = 0) -> None:
        self._chance = Chance(seed, _PIECES)
        self._mean_euler = poses.mean_euler
        self._mean_trans = poses.mean_trans
        mean = np.array([*poses.mean_euler, *poses.mean_trans])
        recorded = np.concatenate([poses.euler, poses.trans], axis=1).astype(np.float64) - mean
        piece = min(_PIECE, len(recorded) // 2)
        starts = _starts(recorded, piece, distance=abs(mean[5]))
        if len(recorded) < _FEWEST_POSES or len(starts) < _FEWEST_STARTS:
            recorded, piece = _sway(), _PIECE
            starts = _starts(recorded, piece, distance=1.0)
        self._fade = piece // 3
        self._period = piece - self._fade
        self._starts = starts
        offsets = _smooth(recorded)
        self._offsets: FloatArray = (_amount(offsets, starts, piece) * offsets).astype(np.float32)

    def pose(self, frame: int) -> Pose:
        """The head's absolute pose at a frame, for any integer frame, 25 a second."""
        piece, age = divmod(frame, self._period)
        offset = self._offsets[self._start(piece) + age]
        if age < self._fade:
            before = self._offsets[self._start(piece - 1) + age + self._period]
            offset = before + _ease(age / self._fade) * (offset - before)
        pitch, yaw, roll, x, y, z = offset.tolist()
        euler, trans = self._mean_euler, self._mean_trans
        return Pose(
            (euler[0] + pitch, euler[1] + yaw, euler[2] + roll),
            (trans[0] + x, trans[1] + y, trans[2] + z),
        )

    def _start(self, piece: int) -> int:
        return int(self._starts[self._chance.bits(piece) % len(self._starts)])


def _ease(x: float) -> float:
    """Smootherstep: 0 to 1 without a jump of speed or acceleration at either end."""
    return x * x * x * (x * (6.0 * x - 15.0) + 10.0)


def _starts(recorded: Float64Array, piece: int, distance: float) -> npt.NDArray[np.int64]:
    """Where pieces of the smoothed recording may start so that no jump is in them or near."""
    largest = np.repeat((_JUMP_ANGLE, _JUMP_SHIFT * distance), 3)
    jumps = (np.abs(np.diff(recorded, axis=0)) > largest).any(axis=1)
    before = np.concatenate([[0], np.cumsum(jumps)])
    steps = piece + 2 * _SMOOTH_RADIUS - 1  # that a piece of the smoothed recording depends on
    return np.flatnonzero(before[steps:] == before[:-steps])


def _smooth(recorded: Float64Array) -> Float64Array:
    """[M, 6] -> [M - 12, 6]; row i is about row i + 6."""
    at = np.arange(-_SMOOTH_RADIUS, _SMOOTH_RADIUS + 1)
    kernel = np.exp(-0.5 * (at / _SMOOTH_SIGMA) ** 2)
    kernel /= kernel.sum()
    return np.stack([np.convolve(column, kernel, "valid") for column in recorded.T], axis=1)


def _amount(offsets: Float64Array, starts: npt.NDArray[np.int64], piece: int) -> float:
    """How much of the recording's motion leaves every cross-fade as slow as the recording.

    A fade between curves that are at most `width` apart and at most `speed` fast is at most
    speed + width _STEEPEST / fade fast; the factor brings that to `speed` on the worst axis.
    """
    used = np.zeros(len(offsets) + 1, np.int64)
    np.add.at(used, starts, 1)
    np.add.at(used, starts + piece, -1)
    inside = np.cumsum(used)[:-1] > 0
    width = np.ptp(offsets[inside], axis=0)
    speed = np.abs(np.diff(offsets, axis=0)[inside[:-1] & inside[1:]]).max(axis=0)
    moves = width > 0
    fade = piece // 3
    return float(np.min(speed[moves] / (speed[moves] + width[moves] * _STEEPEST / fade), initial=1))


def _sway() -> Float64Array:
    t = np.arange(_SWAY_FRAMES) / TIMING.fps
    angles = [
        sum(math.radians(size) * np.sin(2 * math.pi * t / period) for size, period in waves)
        for waves in _SWAY
    ]
    return np.stack([*angles, *np.zeros((3, len(t)))], axis=1)
