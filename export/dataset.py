"""What an avatar takes from its training data: camera, backdrop, torso, the range of poses.

Reads the authors' processed layout (MODEL section 6). Pictures are decoded with Pillow: FFmpeg's
JPEG colours differ from it by up to 2/255, and training saw Pillow's.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gt_infer.avatar import TrainingPoses
from gt_infer.avatar_file import Section, short
from gt_infer.errors import AvatarError, CheckpointError, InputError
from gt_infer.pose import Pose
from gt_infer.tracking import read_blink, read_poses
from gt_infer.types import Camera, FloatArray

from .regular import check_is_file

__all__ = ["Dataset", "read_dataset"]

_MAX_JSON_BYTES = 256 << 20  # a frame takes about 330 bytes
_MAX_PIXELS = 8192 * 8192
_CENTRE_TOLERANCE = 0.01  # pixels


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The parts of a processed recording that an avatar keeps.

    Attributes:
        camera: intrinsics and picture size.
        backdrop: [H, W, 3] uint8.
        torso: [K, H, W, 4] uint8, straight alpha: of the most frontal training frame first, then
            of those most different from it and each other; K may be 0.
        torso_poses: [K, 3] float32, those frames' euler.
        poses: of all training frames.
        summary: where the poses and the torso come from, for provenance.
        warnings: what was missing.
    """

    camera: Camera
    backdrop: npt.NDArray[np.uint8]
    torso: npt.NDArray[np.uint8]
    torso_poses: FloatArray
    poses: TrainingPoses
    summary: dict[str, Any]
    warnings: tuple[str, ...]


def read_dataset(directory: str | os.PathLike[str], *, torso_bank: int = 1) -> Dataset:
    """Read DIR with transforms_train.json, bc.jpg, torso_imgs/, track_params.pt, au.csv.

    Args:
        torso_bank: how many torsos to take, at most; poses that recur count once.

    The last three may be missing: then there is no torso, poses come from the transform matrices,
    and blinks are taken as none; each with a warning.

    Raises: CheckpointError or InputError naming the file: missing, damaged, a principal point that
        is not the picture's centre, frames that the other files do not have.
    """
    root = Path(directory)
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such directory; expected a processed dataset")
    warnings: list[str] = []
    path = root / "transforms_train.json"
    transforms = _read_json(path)
    frames = _Frames(path, transforms)
    backdrop = _read_picture(root / "bc.jpg", "RGB")
    camera = _read_camera(path, transforms, backdrop.shape[1], backdrop.shape[0])
    poses, pose_source = _read_poses(root, frames, warnings)
    blink = _read_blink(root, frames, warnings)
    euler = np.array([pose.euler for pose in poses], np.float32)
    trans = np.array([pose.trans for pose in poses], np.float32)
    summary: dict[str, Any] = {"poses": pose_source, "training_frames": len(frames.image_ids)}
    torso = np.zeros((0, camera.height, camera.width, 4), np.uint8)
    torso_poses = np.zeros((0, 3), np.float32)
    if (root / "torso_imgs").is_dir():
        chosen = _most_different(euler, torso_bank)
        image_ids = [frames.image_ids[k] for k in chosen]
        pictures = [
            _read_picture(root / "torso_imgs" / f"{image_id}.png", "RGBA") for image_id in image_ids
        ]
        for image_id, picture in zip(image_ids, pictures, strict=True):
            if picture.shape[:2] != backdrop.shape[:2]:
                raise CheckpointError(
                    f"{root}: torso_imgs/{image_id}.png is {picture.shape[1]}x{picture.shape[0]}, "
                    f"but bc.jpg is {camera.width}x{camera.height}"
                )
        torso, torso_poses = np.stack(pictures), euler[chosen]
        if len(chosen) == 1:
            summary["torso_frame"] = image_ids[0]
        else:
            summary["torso_frames"] = image_ids
    else:
        warnings.append(f"{root / 'torso_imgs'} is missing: the head will float without a torso")
    return Dataset(
        camera=camera,
        backdrop=backdrop,
        torso=torso,
        torso_poses=torso_poses,
        poses=TrainingPoses(euler, trans, blink),
        summary=summary,
        warnings=tuple(warnings),
    )


def _most_different(euler: FloatArray, count: int) -> list[int]:
    """The most frontal frame, then again and again the one farthest from all chosen so far."""
    chosen = [int(np.linalg.norm(euler, axis=1).argmin())]
    distance = np.linalg.norm(euler - euler[chosen[0]], axis=1)
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(euler - euler[chosen[-1]], axis=1))
    return chosen


class _Frames:
    """The frame list of transforms_train.json: image numbers and matrices.

    Raises: CheckpointError: it is none.
    """

    def __init__(self, path: Path, transforms: dict[str, Any]) -> None:
        frames = transforms.get("frames")
        if not isinstance(frames, list) or not frames:
            raise CheckpointError(f"{path}: 'frames' is {short(frames)}, expected a list of frames")
        self.path = path
        self.image_ids: list[int] = []
        self.matrices: list[object] = []
        for index, frame in enumerate(frames):
            try:
                section = Section(frame, f"frames[{index}]")
                image_id = section.integer("img_id")
                matrix = section.take("transform_matrix")
            except AvatarError as err:
                raise CheckpointError(f"{path}: {err}") from err
            if not 0 <= image_id < 1 << 31:
                raise CheckpointError(f"{path}: frames[{index}].img_id = {image_id}: must be >= 0")
            self.image_ids.append(image_id)
            self.matrices.append(matrix)

    def check_within(self, count: int, path: Path) -> None:
        """Refuse image numbers past `count` rows of another file."""
        largest = max(self.image_ids)
        if largest >= count:
            raise CheckpointError(
                f"{path}: has {count} frames, but {self.path.name} names frame {largest}. The two "
                "belong to different recordings."
            )


def _read_json(path: Path) -> dict[str, Any]:
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
        content = json.loads(data)
    except CheckpointError:
        raise
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path}: not valid JSON ({err})") from err
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def _read_camera(path: Path, transforms: dict[str, Any], width: int, height: int) -> Camera:
    try:
        section = Section(transforms, "transforms")
        focal = section.number("focal_len")
        centre = section.number("cx"), section.number("cy")
    except AvatarError as err:
        raise CheckpointError(f"{path}: {err}") from err
    middle = (width / 2, height / 2)
    if max(abs(a - b) for a, b in zip(centre, middle, strict=True)) > _CENTRE_TOLERANCE:
        raise CheckpointError(
            f"{path}: cx, cy = {centre}, but the picture's centre is {middle} (bc.jpg is "
            f"{width}x{height}). A principal point off the centre is not supported."
        )
    try:
        return Camera(width, height, focal)
    except ValueError as err:
        raise CheckpointError(f"{path}: {err}") from err


def _read_poses(root: Path, frames: _Frames, warnings: list[str]) -> tuple[list[Pose], str]:
    tracked = root / "track_params.pt"
    if tracked.exists():
        poses = read_poses(tracked)
        frames.check_within(len(poses), tracked)
        return [poses[image_id] for image_id in frames.image_ids], tracked.name
    warnings.append(f"{tracked} is missing: poses are taken from {frames.path.name}")
    poses = []
    for index, matrix in enumerate(frames.matrices):
        try:
            poses.append(Pose.from_transform_matrix(matrix))  # type: ignore[arg-type]
        except InputError as err:
            raise CheckpointError(
                f"{frames.path}: frames[{index}].transform_matrix: {err}"
            ) from err
    return poses, frames.path.name


def _read_blink(root: Path, frames: _Frames, warnings: list[str]) -> FloatArray:
    path = root / "au.csv"
    if not path.exists():
        warnings.append(f"{path} is missing: the avatar will not know how its person blinks")
        return np.zeros(len(frames.image_ids), np.float32)
    blink = read_blink(path)
    frames.check_within(len(blink), path)
    return blink[frames.image_ids]


def _read_picture(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    """A picture as uint8 [H, W, C], mode "RGB" or "RGBA"."""
    from PIL import Image

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise CheckpointError(f"{path}: {picture.width}x{picture.height} pixels: too large")
            if mode == "RGBA" and "A" not in picture.getbands():
                raise CheckpointError(f"{path}: has no alpha channel, expected an RGBA picture")
            return np.array(picture.convert(mode), np.uint8)
    except CheckpointError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise CheckpointError(f"{path}: cannot be read as a picture ({err})") from err
