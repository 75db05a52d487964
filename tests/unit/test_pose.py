"""Pose: conventions against the authors' reader, conversions both ways, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gt_infer.errors import GtError, InputError
from gt_infer.pose import Pose

angles = st.floats(-math.pi, math.pi)
offsets = st.floats(-20.0, 20.0)
EYE = np.eye(4)


def transform_matrix(pose: Pose) -> np.ndarray:
    """[R^T | -R^T trans/10], as transforms_*.json stores it."""
    m = np.eye(4)
    m[:3, :3] = pose.rotation().T
    m[:3, 3] = -pose.rotation().T @ np.array(pose.trans) / 10.0
    return m


def test_rotation_of_the_worked_example():
    expected = [[0.6712, 0.5654, 0.4794], [-0.5071, 0.8220, -0.2593], [-0.5407, -0.0690, 0.8384]]
    rotation = Pose((0.3, 0.5, 0.7), (0.0, 0.0, -10.0)).rotation()
    np.testing.assert_allclose(rotation, expected, atol=5e-5)  # the example has four decimals


def test_matches_the_authors_reader(shared: Path):
    golden = np.load(shared / "checkpoints/A/golden_deform.npz")
    for i in range(len(golden["frames"])):
        pose = Pose.from_tracking(golden["euler"][i], golden["trans"][i])
        np.testing.assert_array_equal(pose.viewmat(), golden["world_view_transform"][i].T)
        np.testing.assert_array_equal(pose.camera_vector(), golden["cam"][i])
        np.testing.assert_array_equal(pose.camera_vector()[:9].reshape(3, 3), golden["R"][i])
        np.testing.assert_array_equal(pose.camera_vector()[9:], golden["T"][i])
        # The reader inverts its float32 matrix: two of its roundings at |center| = 11.
        np.testing.assert_allclose(
            pose.camera_center(), golden["camera_center"][i], rtol=0, atol=2e-6
        )


def test_transforms_json_agrees_with_tracking(shared: Path):
    golden = np.load(shared / "checkpoints/A/golden_deform.npz")
    frames = []
    for split in ("train", "val"):
        text = (shared / f"dataset/anna/transforms_{split}.json").read_text()
        frames += json.loads(text)["frames"]
    for i, frame in enumerate(golden["frames"]):
        pose = Pose.from_transform_matrix(frames[frame]["transform_matrix"])
        np.testing.assert_allclose(pose.euler, golden["euler"][i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(pose.trans, golden["trans"][i], rtol=0, atol=1e-12)


def pixel(pose: Pose, point: tuple[float, float, float]) -> tuple[float, float]:
    """x to the right and y down in the picture, focal length 1."""
    x, y, z, _ = pose.viewmat() @ np.array([*point, 1.0])
    assert z > 0, "the head is in front of the camera"
    return x / z, y / z


def test_directions_mean_what_the_docstring_says():
    mean = ((0.0, 0.0, 0.0), (0.0, 0.0, -10.0))
    nose, forehead = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
    assert pixel(Pose(*mean), forehead)[1] < 0, "up is up"
    down = Pose.from_degrees(pitch=10.0).resolve(*mean)
    left = Pose.from_degrees(yaw=10.0).resolve(*mean)
    clockwise = Pose.from_degrees(roll=10.0).resolve(*mean)
    assert pixel(down, nose)[1] > 0
    assert pixel(left, nose)[0] > 0  # the person's left is the picture's right
    assert pixel(clockwise, forehead)[0] > 0


def test_degrees_are_relative_to_the_mean_pose():
    mean_euler, mean_trans = (0.05, -0.02, 0.01), (0.03, -0.2, -10.8)
    pose = Pose.from_degrees(yaw=9.0, pitch=-3.0, roll=1.5)
    assert pose.relative
    absolute = pose.resolve(mean_euler, mean_trans)
    assert not absolute.relative
    turned = np.add(mean_euler, np.radians([-3.0, 9.0, 1.5]))
    np.testing.assert_allclose(absolute.euler, turned, rtol=0, atol=1e-15)
    assert absolute.trans == mean_trans
    assert absolute.resolve((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is absolute
    assert Pose.from_degrees().resolve(mean_euler, mean_trans) == Pose(mean_euler, mean_trans)


@pytest.mark.parametrize("method", ["rotation", "viewmat", "camera_vector", "camera_center"])
def test_relative_pose_has_no_camera(method: str):
    with pytest.raises(InputError, match="resolve"):
        getattr(Pose.from_degrees(yaw=3.0), method)()


@given(angles, angles, angles, offsets, offsets, offsets)
def test_matrix_round_trip(pitch, yaw, roll, x, y, z):
    pose = Pose((pitch, yaw, roll), (x, y, z))
    back = Pose.from_transform_matrix(transform_matrix(pose))
    # Angles are not unique (yaw beyond 90 degrees, gimbal lock); the rotation is. Next to the
    # lock pitch and roll carry the rounding of the matrix divided by cos(yaw) >= 1e-6.
    np.testing.assert_allclose(back.rotation(), pose.rotation(), rtol=0, atol=5e-6)
    np.testing.assert_allclose(back.trans, pose.trans, rtol=0, atol=1e-12)


@pytest.mark.parametrize("yaw", [math.pi / 2, -math.pi / 2])
def test_matrix_at_gimbal_lock(yaw: float):
    pose = Pose((0.4, yaw, -0.3), (0.0, 0.0, -10.0))
    as_printed = np.round(transform_matrix(pose), 6)  # what tells pitch from roll is lost
    back = Pose.from_transform_matrix(as_printed)
    np.testing.assert_allclose(back.rotation(), pose.rotation(), rtol=0, atol=2e-6)


@given(angles, angles, angles)
def test_view_is_rigid_and_center_maps_to_origin(pitch, yaw, roll):
    pose = Pose((pitch, yaw, roll), (0.1, -0.2, -10.5))
    v = pose.viewmat().astype(np.float64)
    np.testing.assert_allclose(v[:3, :3] @ v[:3, :3].T, np.eye(3), rtol=0, atol=1e-6)
    assert np.linalg.det(v[:3, :3]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(v @ [*pose.camera_center(), 1.0], [0, 0, 0, 1], rtol=0, atol=5e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
def test_values_that_are_not_finite_are_refused(bad: float):
    with pytest.raises(InputError, match=r"euler.*finite"):
        Pose.from_tracking([0.0, bad, 0.0], [0.0, 0.0, -10.0])
    with pytest.raises(InputError, match=r"trans.*finite"):
        Pose((0.0, 0.0, 0.0), (0.0, 0.0, bad))
    with pytest.raises(InputError, match=r"transform_matrix.*finite"):
        Pose.from_transform_matrix(np.where(EYE == 1, bad, EYE))
    with pytest.raises(InputError, match=r"yaw.*finite"):
        Pose.from_degrees(yaw=bad)
    with pytest.raises(InputError, match=r"mean_euler.*finite"):
        Pose.from_degrees().resolve([bad, 0.0, 0.0], [0.0, 0.0, 0.0])


@pytest.mark.parametrize("bad", [[0.0, 1.0], [[0.0, 0.0, 0.0]], 1.0, "abc", None, [1.0, [2.0]]])
def test_tracking_of_another_shape_is_refused(bad):
    with pytest.raises(InputError, match="euler"):
        Pose.from_tracking(bad, [0.0, 0.0, -10.0])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), r"shape \[4, 4\], got \[3, 3\]"),
        (np.diag([2.0, 2.0, 2.0, 1.0]), r"not rigid.* by 3 "),
        (EYE + 0.01 * np.eye(4, k=1) * [1, 1, 1, 0], "not rigid"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), "reflection"),
        (np.diag([1.0, 1.0, 1.0, 0.0]), "bottom row"),
        (transform_matrix(Pose((0.1, 0.2, 0.0), (0.0, 0.0, -10.0))).T, "transpose it"),
        ([*EYE.tolist()[:3], ["0", "0", "0", "1"]], "expected numbers"),
    ],
)
def test_matrices_that_are_not_poses_are_refused(matrix, message: str):
    with pytest.raises(InputError, match=message):
        Pose.from_transform_matrix(matrix)


@given(st.lists(st.floats(), min_size=16, max_size=16))
def test_any_matrix_gives_a_pose_or_an_error(values):
    try:
        pose = Pose.from_transform_matrix(np.reshape(values, (4, 4)))
    except GtError:
        return
    assert np.isfinite(pose.viewmat()).all()


def test_is_a_frozen_value():
    pose = Pose.from_tracking(np.zeros(3, np.float32), np.array([0, 0, -10]))
    assert pose == Pose((0.0, 0.0, 0.0), (0.0, 0.0, -10.0))
    assert hash(pose) == hash(Pose((0.0, 0.0, 0.0), (0.0, 0.0, -10.0)))
    with pytest.raises(AttributeError):
        pose.euler = (1.0, 0.0, 0.0)
