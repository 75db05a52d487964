"""What a head does in a frame: the caller's pose and blink, or its own."""

from __future__ import annotations

import sys
import warnings

from .audio import FeatureFrontend, FrameWindows, frontend_from_avatar
from .avatar import Avatar
from .config import LifeConfig
from .errors import InputError
from .life import Blinks, GatedFrontend, IdleMotion, PoseRange
from .pose import Pose

__all__ = ["Behaviour", "PoseKeeper", "check_blink", "open_windows"]


class PoseKeeper:
    """Makes any pose that a caller passes one that the avatar can show. Shared by all streams of a
    renderer, so that its warning comes once."""

    def __init__(self, avatar: Avatar, life: LifeConfig) -> None:
        poses = avatar.poses
        self._mean = None if poses is None else (poses.mean_euler, poses.mean_trans)
        self._policy = life.pose_range
        self._range = None if avatar.poses is None else PoseRange(avatar.poses)
        self._has_warned = False

    def mean(self) -> Pose:
        """The mean training pose.

        Raises:
            InputError: the avatar does not know its training poses.
        """
        return self.resolve(Pose.from_degrees())

    def resolve(self, pose: Pose) -> Pose:
        """An absolute pose within the trained range, as `LifeConfig.pose_range` says.

        Raises:
            InputError: not a pose; relative to a mean that the avatar does not know; outside the
                range and the policy is strict.
        """
        if not isinstance(pose, Pose):
            raise InputError(
                f"pose: expected a gt_infer.Pose or None, got {type(pose).__name__}. "
                "Pose.from_degrees, .from_tracking and .from_transform_matrix make one."
            )
        if pose.relative:
            if self._mean is None:
                raise InputError(
                    "pose: this avatar was exported without its dataset and has no mean pose. Pass "
                    "an absolute one (Pose.from_tracking), or export it again with --dataset."
                )
            pose = pose.resolve(*self._mean)
        if self._range is None or self._policy == "off":
            return pose
        if self._policy == "strict":
            self._range.check(pose)
            return pose
        kept = self._range.clamp(pose)
        if kept is not pose and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"a pose was outside the range this avatar was trained on "
                f"({self._range.describe()}) and was brought back; further ones will be without "
                "another warning. "
                'LifeConfig(pose_range="off") shows them as they are.',
                stacklevel=_levels_to_caller(),
            )
        return kept


def _levels_to_caller() -> int:
    """For `warnings.warn`: how far up the first frame outside this package is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level


class Behaviour:
    """One stream's pose and blink by frame index: the caller's, or, left out, functions of
    (seed, index) alone."""

    def __init__(self, avatar: Avatar, life: LifeConfig, keeper: PoseKeeper, seed: int) -> None:
        self._keeper = keeper
        moves = life.idle_motion and avatar.poses is not None
        self._motion = IdleMotion(avatar.poses, seed) if moves and avatar.poses else None
        self._blinks = Blinks(seed, avatar.poses) if life.blinking else None

    def pose(self, frame: int, pose: Pose | None) -> Pose:
        """Raises: InputError, see `PoseKeeper`."""
        if pose is not None:
            return self._keeper.resolve(pose)
        return self._keeper.mean() if self._motion is None else self._motion.pose(frame)

    def blink(self, frame: int, blink: float | None) -> float:
        """Raises: InputError: outside 0 to 1."""
        if blink is None:
            return 0.0 if self._blinks is None else self._blinks.blink(frame)
        return check_blink(blink)


def check_blink(blink: float) -> float:
    """Raises: InputError: outside 0 to 1."""
    try:
        value = float(blink)
    except (TypeError, ValueError) as err:
        raise InputError(f"blink = {blink!r}: must be a number from 0 (open) to 1 (shut)") from err
    if not 0.0 <= value <= 1.0:
        raise InputError(f"blink = {blink!r}: must be 0 (open) to 1 (shut)")
    return value


def open_windows(avatar: Avatar, life: LifeConfig, lookahead: int) -> FrameWindows:
    """A fresh stream of audio windows.

    Raises:
        AudioError: the avatar's features cannot be computed from sound.
    """
    frontend: FeatureFrontend = frontend_from_avatar(avatar.frontend)
    if life.silence_gate is not None:
        frontend = GatedFrontend(frontend, threshold_db=life.silence_gate)
    return FrameWindows(frontend, lookahead_frames=lookahead)
