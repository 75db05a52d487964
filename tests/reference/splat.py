"""The splatter in float64 (MODEL section 3), one Gaussian after the other."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TILE = 16  # pixels


@dataclass(frozen=True)
class RasterParams:
    """MODEL section 3's numbers. Any object with these attributes will do."""

    near: float = 0.2
    eps2d: float = 0.3
    fov_margin: float = 1.3
    radius_sigmas: float = 3.0
    eigenvalue_floor: float = 0.1
    alpha_max: float = 0.99
    alpha_min: float = 1.0 / 255.0
    transmittance_min: float = 1e-4


@dataclass(frozen=True)
class Projected:
    """N splats in the order of the Gaussians. Culled ones have radius 0 and an empty rect."""

    width: int
    height: int
    means2d: Array  # [N, 2] pixels, continuous: the first pixel's centre is (0.5, 0.5)
    conics: Array  # [N, 3] xx, xy, yy of the inverse dilated covariance, px^-2
    depths: Array  # [N] camera z
    radii: npt.NDArray[np.int64]  # [N] pixels
    rects: npt.NDArray[np.int64]  # [N, 4] tiles: x0, y0, x1, y1, the last two exclusive
    colours: Array  # [N, 3] >= 0
    opacities: Array  # [N]


@dataclass(frozen=True)
class Blended:
    image: Array  # [H, W, 3], not clipped
    alpha: Array  # [H, W]: 1 - transmittance
    depth: Array  # [H, W]: sum of z alpha T, not normalised


def render(
    gaussians: Any,
    viewmat: npt.ArrayLike,
    width: int,
    height: int,
    focal: float,
    background: npt.ArrayLike,
    params: Any = None,
) -> Blended:
    """`project`, then `blend`."""
    params = params or RasterParams()
    projected = project(gaussians, viewmat, width, height, focal, params)
    return blend(projected, background, params)


def project(
    gaussians: Any,
    viewmat: npt.ArrayLike,
    width: int,
    height: int,
    focal: float,
    params: Any = None,
) -> Projected:
    """3D Gaussians to screen-space ellipses.

    Args:
        gaussians: with means [N, 3], quats [N, 4] wxyz, scales [N, 3], opacities [N],
            sh [N, K, 3].
        viewmat: world to camera [4, 4], z forward.
        focal: pixels; the principal point is the picture's centre.
    """
    params = params or RasterParams()
    view = np.asarray(viewmat, np.float64)
    turn, shift = view[:3, :3], view[:3, 3]
    means = np.asarray(gaussians.means, np.float64)
    n = len(means)
    x, y, depths = (means @ turn.T + shift).T
    visible = depths > params.near
    z = np.where(visible, depths, 1.0)  # the rest is culled; this keeps the divisions quiet

    # A Gaussian outside the picture is linearised at the clamped direction.
    limit_x = params.fov_margin * (width / 2) / focal
    limit_y = params.fov_margin * (height / 2) / focal
    jacobian = np.zeros((n, 2, 3))
    jacobian[:, 0, 0] = focal / z
    jacobian[:, 0, 2] = -focal * np.clip(x / z, -limit_x, limit_x) / z
    jacobian[:, 1, 1] = focal / z
    jacobian[:, 1, 2] = -focal * np.clip(y / z, -limit_y, limit_y) / z

    rotated = rotations(gaussians.quats) * np.asarray(gaussians.scales, np.float64)[:, None, :]
    half = jacobian @ turn @ rotated  # [N, 2, 3]: the covariance is half half^T
    covariance = half @ half.transpose(0, 2, 1) + params.eps2d * np.eye(2)
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    det = xx * yy - xy * xy
    visible &= det != 0
    det = np.where(visible, det, 1.0)
    conics = np.stack([yy / det, -xy / det, xx / det], axis=1)

    mid = (xx + yy) / 2
    largest = mid + np.sqrt(np.maximum(params.eigenvalue_floor, mid * mid - det))
    radii = np.ceil(params.radius_sigmas * np.sqrt(largest))
    means2d = np.stack([focal * x / z + width / 2, focal * y / z + height / 2], axis=1)

    column, row = means2d.T - 0.5  # index coordinates: the first pixel is at 0
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    rects = np.stack(
        [
            np.clip(np.trunc((column - radii) / TILE), 0, tiles_x),
            np.clip(np.trunc((row - radii) / TILE), 0, tiles_y),
            np.clip(np.trunc((column + radii + TILE - 1) / TILE), 0, tiles_x),
            np.clip(np.trunc((row + radii + TILE - 1) / TILE), 0, tiles_y),
        ],
        axis=1,
    ).astype(np.int64)
    visible &= (rects[:, 2] > rects[:, 0]) & (rects[:, 3] > rects[:, 1])

    return Projected(
        width=width,
        height=height,
        means2d=means2d,
        conics=conics,
        depths=depths,
        radii=np.where(visible, radii, 0).astype(np.int64),
        rects=np.where(visible[:, None], rects, 0),
        colours=sh_colours(gaussians.sh, means - (-turn.T @ shift)),
        opacities=np.asarray(gaussians.opacities, np.float64).reshape(n),
    )


def blend(projected: Projected, background: npt.ArrayLike, params: Any = None) -> Blended:
    """Front to back over a background [3] or [H, W, 3]."""
    params = params or RasterParams()
    p = projected
    image = np.zeros((p.height, p.width, 3))
    depth = np.zeros((p.height, p.width))
    transmittance = np.ones((p.height, p.width))
    finished = np.zeros((p.height, p.width), bool)
    # Equal float32 depths keep the order of the Gaussians.
    for i in np.argsort(p.depths.astype(np.float32), kind="stable"):
        if p.radii[i] == 0:
            continue
        x0, y0, x1, y1 = p.rects[i] * TILE
        box = slice(y0, min(y1, p.height)), slice(x0, min(x1, p.width))
        dx = np.arange(box[1].start, box[1].stop) + 0.5 - p.means2d[i, 0]
        dy = (np.arange(box[0].start, box[0].stop) + 0.5 - p.means2d[i, 1])[:, None]
        xx, xy, yy = p.conics[i]
        power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
        alpha = np.minimum(params.alpha_max, p.opacities[i] * np.exp(np.minimum(power, 0.0)))
        reached = (power <= 0) & (alpha >= params.alpha_min) & ~finished[box]
        left = transmittance[box] * (1 - alpha)
        last = reached & (left < params.transmittance_min)
        finished[box] |= last  # neither this Gaussian is drawn there nor any behind it
        drawn = reached & ~last
        weight = np.where(drawn, alpha * transmittance[box], 0.0)
        image[box] += weight[:, :, None] * p.colours[i]
        depth[box] += weight * p.depths[i]
        transmittance[box] = np.where(drawn, left, transmittance[box])
    image += transmittance[:, :, None] * np.asarray(background, np.float64)
    return Blended(image, 1.0 - transmittance, depth)


def to_uint8(image: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """8-bit values, to the nearest."""
    return np.rint(255.0 * np.clip(np.asarray(image, np.float64), 0.0, 1.0)).astype(np.uint8)


def over(torso: npt.ArrayLike, backdrop: npt.ArrayLike) -> Array:
    """The background [H, W, 3] in [0, 1]: a uint8 RGBA torso (straight alpha) over a backdrop."""
    rgba = np.asarray(torso, np.float64) / 255.0
    a = rgba[:, :, 3:]
    return rgba[:, :, :3] * a + np.asarray(backdrop, np.float64) / 255.0 * (1.0 - a)


def resized(focal: float, eps2d: float, trained: int, size: int) -> tuple[float, float]:
    """(focal, eps2d) of a picture `size` pixels high (or wide) instead of `trained`."""
    scale = size / trained
    return focal * scale, eps2d * max(1.0, scale) ** 2


def rotations(quats: npt.ArrayLike) -> Array:
    """[N, 3, 3] from quaternions wxyz of any length."""
    q = np.asarray(quats, np.float64)
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    r = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(r).transpose(2, 0, 1)


def sh_colours(sh: npt.ArrayLike, directions: npt.ArrayLike) -> Array:
    """[N, 3] colours seen along directions [N, 3] (camera to Gaussian, any length)."""
    coefficients = np.asarray(sh, np.float64)
    d = np.asarray(directions, np.float64)
    basis = sh_basis(d / np.linalg.norm(d, axis=1, keepdims=True))
    total = np.zeros_like(d)
    for k in range(coefficients.shape[1]):
        total += basis[:, k, None] * coefficients[:, k]
    return np.maximum(total + 0.5, 0.0)


def sh_basis(d: Array) -> Array:
    """[N, 16]: real spherical harmonics to degree 3, with 3DGS's signs (Condon-Shortley)."""
    x, y, z = d.T
    return np.stack(
        [
            np.full_like(x, sqrt(1 / (4 * pi))),
            -sqrt(3 / (4 * pi)) * y,
            sqrt(3 / (4 * pi)) * z,
            -sqrt(3 / (4 * pi)) * x,
            sqrt(15 / (4 * pi)) * x * y,
            -sqrt(15 / (4 * pi)) * y * z,
            sqrt(5 / (16 * pi)) * (2 * z * z - x * x - y * y),
            -sqrt(15 / (4 * pi)) * x * z,
            sqrt(15 / (16 * pi)) * (x * x - y * y),
            -sqrt(35 / (32 * pi)) * y * (3 * x * x - y * y),
            sqrt(105 / (4 * pi)) * x * y * z,
            -sqrt(21 / (32 * pi)) * y * (4 * z * z - x * x - y * y),
            sqrt(7 / (16 * pi)) * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -sqrt(21 / (32 * pi)) * x * (4 * z * z - x * x - y * y),
            sqrt(105 / (16 * pi)) * z * (x * x - y * y),
            -sqrt(35 / (32 * pi)) * x * (x * x - 3 * y * y),
        ],
        axis=1,
    )
