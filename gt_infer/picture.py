"""What stands behind the head: the avatar's torsos over a backdrop, at any size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from .avatar import Avatar
from .errors import InputError
from .types import Camera, FloatArray

__all__ = ["Background", "compose", "fit_camera", "resize", "torso_weights"]

# What a caller may put behind the torso: None (the avatar's backdrop), an RGB colour, a picture, or
# "transparent".
Background = tuple[int, int, int] | npt.NDArray[np.uint8] | Literal["transparent"] | None

SIZE_RANGE = range(64, 2049)  # pixels a side
# Torsos whose pose is nearly as close as the nearest one's are blended with it, so that a turning
# head never makes the torso jump: within this many radians (3 degrees).
_FADE_BAND = 0.052


def fit_camera(camera: Camera, size: int | tuple[int, int] | None) -> Camera:
    """The camera of another picture size (MODEL section 3): the trained picture, scaled until it
    covers the new one, and cut evenly at the sides that stick out.

    Args:
        camera: as trained.
        size: (width, height) in pixels; an int keeps the trained aspect with that height; None
            keeps the trained size.

    Raises:
        InputError: a side outside 64 to 2048.
    """
    if size is None:
        return camera
    if isinstance(size, int | np.integer):
        if size not in SIZE_RANGE:
            raise _impossible(size, "height")
        width, height = round(int(size) * camera.width / camera.height), int(size)
    else:
        try:
            width, height = size
        except (TypeError, ValueError) as err:
            raise InputError(f"size = {size!r}: expected a height or (width, height)") from err
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, int | np.integer) or side not in SIZE_RANGE:
            raise _impossible(size, name)
    scale = max(width / camera.width, height / camera.height)
    return Camera(int(width), int(height), camera.focal * scale)


def _impossible(size: object, side: str) -> InputError:
    return InputError(
        f"size = {size!r}: the {side} must be a whole number from {SIZE_RANGE[0]} to "
        f"{SIZE_RANGE[-1]} pixels"
    )


def resize(image: FloatArray, width: int, height: int) -> FloatArray:
    """Linear interpolation when enlarging, a triangle filter of the same reach in the small picture
    when shrinking; covers the new shape like `fit_camera`.

    Args:
        image: [h, w, C] float32.

    Returns:
        [height, width, C] float32.
    """
    scale = max(width / image.shape[1], height / image.shape[0])
    rows = _resampling_matrix(image.shape[0], height, scale)
    columns = _resampling_matrix(image.shape[1], width, scale)
    return np.ascontiguousarray(
        np.einsum("yh,xw,hwc->yxc", rows, columns, image, optimize=True), np.float32
    )


def _resampling_matrix(old: int, new: int, scale: float) -> FloatArray:
    """[new, old] weights along one axis, rows summing to 1; the axes' centres coincide."""
    centers = (np.arange(new) + 0.5 - new / 2) / scale + old / 2 - 0.5
    reach = max(1.0, 1.0 / scale)
    distance = np.abs(np.arange(old)[np.newaxis, :] - centers[:, np.newaxis])
    weights = np.maximum(0.0, 1.0 - distance / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype(np.float32)


def compose(avatar: Avatar, camera: Camera, background: Background) -> tuple[FloatArray, bool]:
    """The pictures that the head is drawn over: each torso of the avatar over `background`.

    Args:
        camera: gives the size.
        background: None for the avatar's backdrop, (red, green, blue) 0 to 255, a picture
            uint8 [H, W, 3] of any size, scaled to cover, or "transparent" for the torsos alone.

    Returns:
        [K, height, width, 4] float32 in [0, 1], alpha multiplied in, not rounded in between; and
        whether they are transparent. K is the number of torsos, 1 when there is none.

    Raises:
        InputError: not such a background.
    """
    size = (camera.height, camera.width)
    is_transparent = isinstance(background, str) and background == "transparent"
    behind = np.zeros((*size, 4), np.float32)
    if not is_transparent:
        behind[..., :3] = _backdrop(avatar, camera, background)
        behind[..., 3] = 1
    if len(avatar.torso) == 0:
        return behind[np.newaxis], is_transparent
    layers = np.empty((len(avatar.torso), *size, 4), np.float32)
    for layer, torso in zip(layers, avatar.torso, strict=True):
        # Scaled with alpha multiplied in: colours of transparent pixels mean nothing.
        front = torso.astype(np.float32) / np.float32(255)
        front[..., :3] *= front[..., 3:]
        if front.shape[:2] != size:
            front = resize(front, camera.width, camera.height)
        layer[:] = front + behind * (1 - front[..., 3:])
    return layers, is_transparent


def torso_weights(torso_poses: FloatArray, euler: tuple[float, float, float]) -> list[float]:
    """How much each torso shows in a pose: the nearest alone or, halfway between several, a mix. A
    continuous function of the pose.

    Args:
        torso_poses: [K, 3] euler of the frames that the torsos were taken from, radians.
        euler: of the pose.

    Returns:
        K weights adding up to 1; empty when there is nothing to choose.
    """
    if len(torso_poses) < 2:
        return []
    distance = np.linalg.norm(torso_poses - np.asarray(euler, np.float32), axis=1)
    closeness = np.maximum(0.0, 1.0 - (distance - distance.min()) / _FADE_BAND)
    weights = closeness * closeness
    result: list[float] = (weights / weights.sum()).tolist()
    return result


def _backdrop(avatar: Avatar, camera: Camera, background: Background) -> FloatArray:
    if background is None:
        return _resized(avatar.backdrop, camera)
    if isinstance(background, np.ndarray):
        if background.dtype != np.uint8 or background.ndim != 3 or background.shape[2] != 3:
            raise InputError(
                f"background: expected uint8 [H, W, 3], got {background.dtype} "
                f"{list(background.shape)}"
            )
        if 0 in background.shape:
            raise InputError(f"background: empty, {list(background.shape)}")
        return _resized(background, camera)
    try:
        color = np.asarray(background)
        in_range = color.dtype.kind in "iu" and ((color >= 0) & (color <= 255)).all()
    except (TypeError, ValueError):
        in_range = False
    if not in_range or color.shape != (3,):
        raise InputError(
            f"background = {background!r}: expected (red, green, blue), whole numbers 0 to 255, a "
            'picture uint8 [H, W, 3], or "transparent"'
        )
    return color.astype(np.float32) / np.float32(255)


def _resized(image: npt.NDArray[np.uint8], camera: Camera) -> FloatArray:
    floats = image.astype(np.float32) / np.float32(255)
    if image.shape[:2] == (camera.height, camera.width):
        return floats
    return resize(floats, camera.width, camera.height)
