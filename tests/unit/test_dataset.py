"""What gt-export takes from a processed recording."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer.errors import CheckpointError, GtError, InputError
from gt_infer.types import Camera
from tests.official_layout import write_dataset

pytest.importorskip("torch", reason="gt-export needs torch")
Image = pytest.importorskip("PIL.Image", reason="reading datasets needs Pillow")

from gt_export.dataset import read_dataset  # noqa: E402

FRAMES = 6
TRAINING = FRAMES - 1


@pytest.fixture
def recording(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    return tmp_path / "anna", write_dataset(tmp_path / "anna", frames=FRAMES)


def edit_transforms(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "transforms_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_everything_is_taken_from_the_training_frames(
    recording: tuple[Path, dict[str, np.ndarray]],
) -> None:
    folder, truth = recording
    dataset = read_dataset(folder)
    assert dataset.camera == Camera(64, 64, 150.0)
    np.testing.assert_array_equal(dataset.backdrop, truth["backdrop"])
    np.testing.assert_array_equal(dataset.poses.euler, truth["euler"][:TRAINING])
    np.testing.assert_array_equal(dataset.poses.trans, truth["trans"][:TRAINING])
    np.testing.assert_array_equal(dataset.poses.blink, truth["blink"][:TRAINING])
    frontal = int(np.square(truth["euler"][:TRAINING]).sum(axis=1).argmin())
    np.testing.assert_array_equal(dataset.torso, truth["torsos"][frontal][None])
    np.testing.assert_array_equal(dataset.torso_poses, truth["euler"][frontal][None])
    assert dataset.summary == {
        "poses": "track_params.pt",
        "training_frames": TRAINING,
        "torso_frame": frontal,
    }
    assert dataset.warnings == ()


def test_a_torso_bank_holds_the_most_different_poses(
    recording: tuple[Path, dict[str, np.ndarray]],
) -> None:
    folder, truth = recording
    euler = truth["euler"][:TRAINING]
    dataset = read_dataset(folder, torso_bank=3)
    chosen = dataset.summary["torso_frames"]
    assert chosen[0] == int(np.square(euler).sum(axis=1).argmin())
    assert len(set(chosen)) == 3
    np.testing.assert_array_equal(dataset.torso, truth["torsos"][chosen])
    np.testing.assert_array_equal(dataset.torso_poses, euler[chosen])
    # Every frame is closer to a chosen one than the last two chosen were to those before them.
    distance = np.linalg.norm(euler[:, None] - euler[chosen], axis=2)
    assert distance.min(axis=1).max() <= distance[chosen[2], :2].min() + 1e-6
    everything = read_dataset(folder, torso_bank=10_000)
    assert len(everything.torso) <= TRAINING


def test_frames_are_found_by_image_number(recording: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, truth = recording
    edit_transforms(folder, lambda t: t["frames"].reverse())
    np.testing.assert_array_equal(read_dataset(folder).poses.euler, truth["euler"][:TRAINING][::-1])


def test_what_is_missing_is_made_up_for_with_a_warning(
    recording: tuple[Path, dict[str, np.ndarray]],
) -> None:
    folder, truth = recording
    (folder / "track_params.pt").unlink()
    (folder / "au.csv").unlink()
    (folder / "torso_imgs").rename(folder / "elsewhere")
    dataset = read_dataset(folder)
    np.testing.assert_allclose(dataset.poses.euler, truth["euler"][:TRAINING], atol=1e-6)
    np.testing.assert_allclose(dataset.poses.trans, truth["trans"][:TRAINING], atol=1e-5)
    assert not dataset.poses.blink.any()
    assert dataset.torso.shape == (0, 64, 64, 4)
    assert len(dataset.torso_poses) == 0
    assert dataset.summary["poses"] == "transforms_train.json"
    assert len(dataset.warnings) == 3


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no transforms": (
        lambda d: (d / "transforms_train.json").unlink(),
        "transforms_train.json: ca",
    ),
    "no json": (
        lambda d: (d / "transforms_train.json").write_text("{"),
        r"transforms_train\.json: not valid JSON",
    ),
    "json of another kind": (
        lambda d: (d / "transforms_train.json").write_text("[]"),
        "expected a JSON object",
    ),
    "nested deeply": (
        lambda d: (d / "transforms_train.json").write_text("[" * 100_000),
        "not valid JSON",
    ),
    "no frames": (lambda d: edit_transforms(d, lambda t: t["frames"].clear()), "'frames' is"),
    "frames are numbers": (
        lambda d: edit_transforms(d, lambda t: t.update(frames=[1])),
        r"frames\[0\]: expected a JSON object, got 1",
    ),
    "no img_id": (
        lambda d: edit_transforms(d, lambda t: t["frames"][2].pop("img_id")),
        r"frames\[2\]\.img_id is missing",
    ),
    "img_id is a path": (
        lambda d: edit_transforms(d, lambda t: t["frames"][1].update(img_id="../../etc/passwd")),
        r"frames\[1\]\.img_id = '../../etc/passwd': expected an integer",
    ),
    "img_id is negative": (
        lambda d: edit_transforms(d, lambda t: t["frames"][1].update(img_id=-1)),
        r"frames\[1\]\.img_id = -1",
    ),
    "img_id is beyond": (
        lambda d: edit_transforms(d, lambda t: t["frames"][1].update(img_id=700)),
        r"track_params\.pt: has 6 frames, but transforms_train\.json names frame 700",
    ),
    "no focal length": (
        lambda d: edit_transforms(d, lambda t: t.pop("focal_len")),
        "transforms.focal_len is missing",
    ),
    "focal length 0": (
        lambda d: edit_transforms(d, lambda t: t.update(focal_len=0)),
        "focal = 0",
    ),
    "off centre": (
        lambda d: edit_transforms(d, lambda t: t.update(cx=30.0)),
        r"cx, cy = \(30.0, 32.0\), but the picture's centre is \(32.0, 32.0\)",
    ),
    "no backdrop": (lambda d: (d / "bc.jpg").unlink(), r"bc\.jpg: no such file"),
    "backdrop is text": (
        lambda d: (d / "bc.jpg").write_text("hello"),
        r"bc\.jpg: cannot be read as a picture",
    ),
    "backdrop is cut": (
        lambda d: (d / "bc.jpg").write_bytes((d / "bc.jpg").read_bytes()[:2000]),
        r"bc\.jpg: cannot be read as a picture",
    ),
    "torso without alpha": (
        lambda d: [Image.open(p).convert("RGB").save(p) for p in (d / "torso_imgs").glob("*.png")],
        r"torso_imgs/\d\.png: has no alpha channel",
    ),
    "torso of another size": (
        lambda d: [
            Image.open(p).resize((32, 64)).save(p) for p in (d / "torso_imgs").glob("*.png")
        ],
        r"torso_imgs/\d\.png is 32x64, but bc\.jpg is 64x64",
    ),
    "torso missing": (
        lambda d: [p.unlink() for p in (d / "torso_imgs").glob("*.png")],
        r"torso_imgs/\d\.png: no such file",
    ),
    "poses are text": (
        lambda d: (d / "track_params.pt").write_text("hello"),
        r"track_params\.pt",
    ),
    "au.csv of another recording": (
        lambda d: (d / "au.csv").write_text("frame, AU45_r\n1, 0.5\n"),
        r"au\.csv: has 1 frames, but transforms_train\.json names frame 4",
    ),
    "au.csv without the column": (lambda d: (d / "au.csv").write_text("a,b\n1,2\n"), "AU45_r"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_recordings_are_refused(
    change: Callable[[Path], Any], message: str, recording: tuple[Path, dict[str, np.ndarray]]
) -> None:
    folder, _ = recording
    change(folder)
    with pytest.raises((CheckpointError, InputError), match=message) as caught:
        read_dataset(folder)
    assert str(folder) in str(caught.value)


def test_a_matrix_that_is_no_pose_is_named(recording: tuple[Path, Any]) -> None:
    folder, _ = recording
    (folder / "track_params.pt").unlink()
    edit_transforms(folder, lambda t: t["frames"][3].update(transform_matrix=[[1, 2], [3, 4]]))
    with pytest.raises(CheckpointError, match=r"frames\[3\]\.transform_matrix: "):
        read_dataset(folder)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(GtError, match="no such directory"):
        read_dataset(tmp_path / "nowhere")


def test_the_real_recording(shared: Path) -> None:
    dataset = read_dataset(shared / "dataset" / "anna")
    assert dataset.camera == Camera(512, 512, 1200.0)
    assert len(dataset.poses.euler) == 1545
    assert dataset.warnings == ()
    degrees = np.degrees(dataset.poses.euler)
    assert np.abs(degrees).max(axis=0).round().tolist() == pytest.approx([7, 17, 5], abs=1)
    assert 0.9 < dataset.poses.blink.max() <= 1.0
    # The golden pictures were made over exactly this backdrop and torso, away from the head.
    golden = np.load(shared / "checkpoints" / "A" / "golden_float.npz")
    alpha = dataset.torso[0, :, :, 3:] / 255
    background = dataset.torso[0, :, :, :3] / 255 * alpha + dataset.backdrop / 255 * (1 - alpha)
    free = golden["alpha"][0] == 0
    assert free.mean() > 0.5
    np.testing.assert_allclose(golden["image"][0][free], background[free], atol=1e-6)
