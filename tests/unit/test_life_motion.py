"""Idle motion: pure, inside what was recorded, and never faster than the person was."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer import Avatar, InputError
from gt_infer.life import IdleMotion
from gt_infer.life.chance import Chance
from gt_infer.pose import Pose
from tests.recordings import make_poses

LONG = 100_000


def rows(poses: list[Pose]) -> np.ndarray:
    return np.array([(*pose.euler, *pose.trans) for pose in poses])


def recorded(motion_of: Any) -> np.ndarray:
    return np.concatenate([motion_of.euler, motion_of.trans], axis=1).astype(np.float64)


@cache
def hour() -> np.ndarray:
    """[100000, 6], 67 minutes of seed 3."""
    motion = IdleMotion(make_poses(), 3)
    return rows([motion.pose(frame) for frame in range(-6, LONG - 6)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-6, 10**9), min_size=1, max_size=8), st.integers(-(2**70), 2**70))
def test_any_frame_at_any_time_in_any_order(frames: list[int], seed: int) -> None:
    poses = make_poses(600)
    motion = IdleMotion(poses, seed)
    forwards = [motion.pose(frame) for frame in frames]
    backwards = [motion.pose(frame) for frame in reversed(frames)]
    assert forwards == backwards[::-1]
    assert all(IdleMotion(poses, seed).pose(f) == p for f, p in zip(frames, forwards, strict=True))
    assert not any(pose.relative for pose in forwards)


def test_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert [Chance(7, 1).bits(i) for i in (-1, 0, 10**9)] == [
        18440120020409734693,
        5828685719119071543,
        12136769935509599031,
    ]


def test_no_jump_in_an_hour() -> None:
    """Speed at most the recording's own; acceleration at most its own and what the fastest
    cross-fade of 6 s adds: 2 w' 2v + w'' width, which the scaling bounds by 7.5 v / 150."""
    was = recorded(make_poses())
    speed = np.abs(np.diff(was, axis=0)).max(axis=0)
    acceleration = np.abs(np.diff(was, 2, axis=0)).max(axis=0)
    assert (np.abs(np.diff(hour(), axis=0)) <= speed).all()
    assert (np.abs(np.diff(hour(), 2, axis=0)) <= acceleration + 0.05 * speed).all()


def test_stays_inside_the_recording_and_uses_it() -> None:
    was = recorded(make_poses())
    assert (hour() >= was.min(axis=0)).all()
    assert (hour() <= was.max(axis=0)).all()
    used = np.ptp(hour(), axis=0) / np.ptp(was, axis=0)
    assert (used > 0.25).all(), used


def test_shifts_go_with_turns_as_in_the_recording() -> None:
    was = np.corrcoef(recorded(make_poses()), rowvar=False)
    now = np.corrcoef(hour(), rowvar=False)
    assert was[1, 3] > 0.7  # yaw and x
    assert abs(was[1, 3] - now[1, 3]) < 0.2


def test_does_not_repeat() -> None:
    yaw = hour()[:, 1] - hour()[:, 1].mean()
    spectrum = np.abs(np.fft.rfft(yaw, 2 * LONG)) ** 2
    alike = np.fft.irfft(spectrum)[: LONG // 2] / (yaw**2).sum()
    assert np.abs(alike[60 * 25 :]).max() < 0.25, "lags from a minute to half an hour"


def test_is_alive() -> None:
    """In any ten seconds something moves."""
    yaw = hour()[:, 1]
    spans = [np.ptp(yaw[i : i + 250]) for i in range(0, LONG - 250, 250)]
    assert min(spans) > np.radians(0.3)


def test_seeds_differ() -> None:
    poses = make_poses()
    curves = [rows(list(map(IdleMotion(poses, s).pose, range(0, 9000, 90)))) for s in (0, 1, 2)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(curves[a][:, 1], curves[b][:, 1])[0, 1]) < 0.6


def test_jitter_of_the_tracker_is_not_played() -> None:
    quiet, noisy = make_poses(), make_poses(jitter=np.radians(0.15))
    acceleration = [
        np.diff(rows(list(map(IdleMotion(p, 1).pose, range(2000)))), 2, axis=0)[:, 1].std()
        for p in (quiet, noisy)
    ]
    raw = np.diff(noisy.euler[:, 1].astype(np.float64), 2).std()
    assert acceleration[1] < 0.2 * raw
    assert acceleration[1] < 20 * acceleration[0]


def test_cuts_in_the_recording_are_not_played() -> None:
    poses = make_poses()
    poses.euler[700:, 1] += np.float32(0.4)  # 23 degrees from one frame to the next
    poses.euler[1200, 0] -= np.float32(0.3)  # lost for a frame
    motion = IdleMotion(poses, 0)
    curve = rows([motion.pose(frame) for frame in range(20_000)])
    clean = recorded(make_poses())
    assert np.abs(np.diff(curve, axis=0)).max() <= np.abs(np.diff(clean, axis=0)).max()
    assert curve[:, 0].min() > poses.euler[:, 0].min() + 0.1


@pytest.mark.parametrize("count", [1, 2, 13, 100, 249])
def test_short_recordings_sway_about_their_mean(count: int) -> None:
    poses = make_poses(count)
    motion = IdleMotion(poses, 5)
    curve = rows([motion.pose(frame) for frame in range(10_000)])
    degrees = np.degrees(curve[:, :3] - poses.mean_euler)
    assert (np.ptp(degrees, axis=0) > 0.5).all()
    assert np.abs(degrees).max() < 4.0
    assert np.abs(np.diff(degrees, axis=0)).max() < 0.1
    assert (curve[:, 3:] == np.array(poses.mean_trans)).all()


@pytest.mark.parametrize("count", [250, 400, 901])
def test_recordings_of_ten_seconds_and_more_are_played(count: int) -> None:
    poses = make_poses(count)
    motion = IdleMotion(poses, 5)
    curve = rows([motion.pose(frame) for frame in range(5000)])
    was = recorded(poses)
    assert (np.abs(np.diff(curve, axis=0)) <= np.abs(np.diff(was, axis=0)).max(axis=0)).all()
    assert (np.ptp(curve, axis=0) > 0.05 * np.ptp(was, axis=0)).all()
    assert np.ptp(curve[:, 3]) > 0


def test_a_still_recording_stays_still() -> None:
    poses = make_poses()
    poses.euler[:] = poses.euler[0]
    poses.trans[:] = poses.trans[0]
    curve = rows(list(map(IdleMotion(poses, 1).pose, range(0, 3000, 100))))
    np.testing.assert_allclose(curve, recorded(poses)[:30], atol=1e-6)


def test_seed_must_be_an_integer() -> None:
    with pytest.raises(InputError, match=r"seed = 1\.5: must be an integer"):
        IdleMotion(make_poses(), 1.5)  # type: ignore[arg-type]
    assert IdleMotion(make_poses(), np.int64(4)).pose(9) == IdleMotion(make_poses(), 4).pose(9)  # type: ignore[arg-type]


def test_on_a_tracked_person(avatar_a: Avatar) -> None:
    poses = avatar_a.poses
    assert poses is not None
    was = recorded(poses)
    motion = IdleMotion(poses, 0)
    curve = rows([motion.pose(frame) for frame in range(-6, 15_000)])
    assert (np.abs(np.diff(curve, axis=0)) <= np.abs(np.diff(was, axis=0)).max(axis=0)).all()
    assert (np.abs(np.diff(curve, 2, axis=0)) <= np.abs(np.diff(was, 2, axis=0)).max(axis=0)).all()
    assert (curve >= was.min(axis=0)).all()
    assert (curve <= was.max(axis=0)).all()
    assert 2.0 < np.degrees(curve[:, 1].std()) < 9.0
