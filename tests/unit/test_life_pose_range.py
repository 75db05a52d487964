"""The trained range: nothing changes inside, nothing gets far outside, nothing jumps."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_infer import Avatar, InputError, Pose
from gt_infer.life import IdleMotion, PoseRange
from gt_infer.tracking import read_poses
from tests.recordings import make_poses

NAMES = ("pitch", "yaw", "roll", "x", "y", "z")
axes = st.integers(0, 5)
values = st.floats(-1e6, 1e6)


MEAN = (*make_poses().mean_euler, *make_poses().mean_trans)


@cache
def keeper() -> PoseRange:
    return PoseRange(make_poses())


def moved(axis: int, value: float) -> Pose:
    """The mean pose with one of its six numbers replaced."""
    six = [value if i == axis else mean for i, mean in enumerate(MEAN)]
    return Pose((six[0], six[1], six[2]), (six[3], six[4], six[5]))


def six(pose: Pose) -> np.ndarray:
    return np.array([*pose.euler, *pose.trans])


@cache
def limits(axis: int) -> tuple[float, float]:
    """The recording's least and largest value."""
    poses = make_poses()
    column = np.concatenate([poses.euler, poses.trans], axis=1)[:, axis]
    return float(column.min()), float(column.max())


def margin(axis: int) -> float:
    low, high = limits(axis)
    return float(max(0.08 * (high - low), np.radians(2.0) if axis < 3 else 0.003 * 10.9))


def test_the_recording_passes_untouched() -> None:
    poses = make_poses()
    for euler, trans in zip(poses.euler, poses.trans, strict=True):
        pose = Pose.from_tracking(euler, trans)
        assert keeper().clamp(pose) is pose
        keeper().check(pose)
    mean = Pose(poses.mean_euler, poses.mean_trans)
    assert keeper().clamp(mean) is mean


def test_idle_motion_passes_untouched() -> None:
    motion = IdleMotion(make_poses(), 1)
    for frame in range(0, 50_000, 7):
        pose = motion.pose(frame)
        assert keeper().clamp(pose) is pose


@given(axes, values)
def test_never_further_out_than_twice_the_margin(axis: int, value: float) -> None:
    low, high = limits(axis)
    kept = six(keeper().clamp(moved(axis, value)))
    assert low - 2.01 * margin(axis) <= kept[axis] <= high + 2.01 * margin(axis)
    others = np.arange(6) != axis
    np.testing.assert_array_equal(kept[others], six(moved(axis, 0.0))[others])


@given(axes, values, values)
def test_monotone(axis: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert (
        six(keeper().clamp(moved(axis, low)))[axis] <= six(keeper().clamp(moved(axis, high)))[axis]
    )


@pytest.mark.parametrize("axis", range(6))
def test_without_a_kink(axis: int) -> None:
    """Slope from 1 inside to 0 outside, never more, and never changing at once."""
    low, high = limits(axis)
    at = np.linspace(low - 10 * margin(axis), high + 10 * margin(axis), 1001)
    kept = np.array([six(keeper().clamp(moved(axis, float(v))))[axis] for v in at])
    slope = np.diff(kept) / np.diff(at)
    assert slope.min() >= 0.0
    assert slope.max() <= 1.0 + 1e-6
    assert slope[0] < 0.02
    assert slope[500] == pytest.approx(1.0)
    assert np.abs(np.diff(slope)).max() < 0.11


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("side", [-1, 1])
def test_strict_names_what_is_wrong(axis: int, side: int) -> None:
    low, high = limits(axis)
    value = high + (high - low) if side > 0 else low - (high - low)
    with pytest.raises(InputError) as caught:
        keeper().check(moved(axis, value))
    shown = f"{np.degrees(value):.1f} degrees" if axis < 3 else f"{value:.2f}"
    assert str(caught.value).startswith(f"pose: {NAMES[axis]} = {shown} is outside ")
    span = re.search(rf"{NAMES[axis]} (\S+) to (\S+)", keeper().describe())
    assert span is not None
    assert f"{span[1]} to {span[2].rstrip(',')}" in str(caught.value)


@given(axes, values)
def test_strict_refuses_just_what_the_clamp_changes(axis: int, value: float) -> None:
    pose = moved(axis, value)
    if keeper().clamp(pose) is pose:
        keeper().check(pose)
    else:
        with pytest.raises(InputError, match=f"pose: {NAMES[axis]} = "):
            keeper().check(pose)


def test_description_reads_well() -> None:
    numbers = r"-?\d+\.\d to -?\d+\.\d degrees, "
    lengths = r" -?\d+\.\d\d to -?\d+\.\d\d"
    pattern = f"pitch {numbers}yaw {numbers}roll {numbers}x{lengths}, y{lengths}, z{lengths}"
    assert re.fullmatch(pattern, keeper().describe())


def test_relative_poses_are_refused() -> None:
    for method in (keeper().clamp, keeper().check):
        with pytest.raises(InputError, match="relative"):
            method(Pose.from_degrees(yaw=3))


def test_one_slip_of_the_tracker_does_not_widen_the_margin() -> None:
    poses = make_poses()
    before = PoseRange(poses).clamp(moved(1, -9.0)).euler[1]
    poses.euler[40, 1] = 1.5
    after = PoseRange(poses)
    assert after.clamp(moved(1, -9.0)).euler[1] == pytest.approx(before, abs=0.01)
    slip = Pose.from_tracking(poses.euler[40], poses.trans[40])
    assert after.clamp(slip) is slip


def test_a_recording_of_one_frame_leaves_room() -> None:
    alone = PoseRange(make_poses(1))
    poses = make_poses(1)
    pose = Pose.from_tracking(poses.euler[0] + np.radians(1.9), poses.trans[0])
    assert alone.clamp(pose) is pose
    far = Pose.from_tracking(poses.euler[0] + 1.0, poses.trans[0])
    turned = np.degrees(np.array(alone.clamp(far).euler) - poses.euler[0])
    assert ((turned > 3.5) & (turned < 4.0)).all()


def test_frames_kept_for_validation_pass(avatar_a: Avatar, shared: Path) -> None:
    """Golden vectors come from them too."""
    assert avatar_a.poses is not None
    keeper = PoseRange(avatar_a.poses)
    tracked = list(read_poses(shared / "dataset" / "anna" / "track_params.pt"))
    assert len(tracked) > len(avatar_a.poses.euler)
    assert all(keeper.clamp(pose) is pose for pose in tracked)
