"""The still picture behind the head: the avatar's torso over its backdrop, at any size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .avatar import Avatar
from .errors import InputError
from .types import Camera, FloatArray

__all__ = ["Background", "compose", "fit_camera", "resize"]

# What a caller may put behind the torso: None (the avatar's backdrop), an RGB colour, or a picture.
Background = tuple[int, int, int] | npt.NDArray[np.uint8] | None

SIZE_RANGE = range(64, 2049)  # pixels a side


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
    if isinstance(size, int):
        width, height = round(size * camera.width / camera.height), size
    else:
        try:
            width, height = size
        except (TypeError, ValueError) as err:
            raise InputError(f"size = {size!r}: expected a height or (width, height)") from err
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, int | np.integer) or side not in SIZE_RANGE:
            raise InputError(
                f"size = {size!r}: the {name} must be a whole number from {SIZE_RANGE[0]} to "
                f"{SIZE_RANGE[-1]} pixels"
            )
    scale = max(width / camera.width, height / camera.height)
    return Camera(int(width), int(height), camera.focal * scale)


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


def compose(avatar: Avatar, camera: Camera, background: Background) -> FloatArray:
    """The picture that the head is drawn over: the torso over `background`.

    Args:
        camera: gives the size.
        background: None for the avatar's backdrop, (red, green, blue) 0 to 255, or a picture
            uint8 [H, W, 3] of any size, scaled to cover.

    Returns:
        [height, width, 3] float32 in [0, 1], not rounded in between.

    Raises:
        InputError: not such a background.
    """
    shape = (camera.height, camera.width)
    if background is None:
        behind = _resized(avatar.backdrop, camera)
    elif isinstance(background, np.ndarray):
        if background.dtype != np.uint8 or background.ndim != 3 or background.shape[2] != 3:
            raise InputError(
                f"background: expected uint8 [H, W, 3], got {background.dtype} "
                f"{list(background.shape)}"
            )
        if 0 in background.shape:
            raise InputError(f"background: empty, {list(background.shape)}")
        behind = _resized(background, camera)
    else:
        color = np.asarray(background)
        if (
            color.shape != (3,)
            or color.dtype.kind not in "iu"
            or (color < 0).any()
            or (color > 255).any()
        ):
            raise InputError(
                f"background = {background!r}: expected (red, green, blue), whole numbers 0 to "
                "255, or a picture uint8 [H, W, 3]"
            )
        behind = np.broadcast_to(color.astype(np.float32) / np.float32(255), (*shape, 3))
    if len(avatar.torso) == 0:
        return np.ascontiguousarray(behind)
    torso = avatar.torso[0].astype(np.float32) / np.float32(255)
    alpha = torso[..., 3:]
    # Scaled with alpha multiplied in: colours of transparent pixels mean nothing.
    premultiplied = np.concatenate([torso[..., :3] * alpha, alpha], axis=-1)
    if premultiplied.shape[:2] != shape:
        premultiplied = resize(premultiplied, camera.width, camera.height)
    over = premultiplied[..., :3] + behind * (1 - premultiplied[..., 3:])
    return np.ascontiguousarray(over, np.float32)


def _resized(image: npt.NDArray[np.uint8], camera: Camera) -> FloatArray:
    floats = image.astype(np.float32) / np.float32(255)
    if image.shape[:2] == (camera.height, camera.width):
        return floats
    return resize(floats, camera.width, camera.height)
