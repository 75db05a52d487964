"""A splatter of ours in plain torch, written as vectorised research code would be.

It stands in for a peer: of the packages that splat, none that pip installs works without a GPU
(docs/benchmarking.md names those that were tried). The semantics are docs/model.md section 3.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gt_infer.types import Gaussians

from ..stream import Inputs, Stream

__all__ = ["TorchSplatter"]

_TILE = 16
_TILES_AT_ONCE = 256
_SLAB = 32  # splats
_SH1, _SH2, _SH3 = (
    0.4886025119029199,
    (1.0925484305920792, 0.31539156525252005, 0.5462742152960396),
    (
        0.5900435899266435,
        2.890611442640554,
        0.4570457994644658,
        0.3731763325901154,
        1.445305721320277,
    ),
)
_SH0 = 0.28209479177387814


class TorchSplatter:
    """One camera and background; Gaussians in, picture out."""

    version = torch.__version__

    def __init__(self, stream: Stream, inputs: Inputs) -> None:
        case, avatar = stream.case, stream.avatar
        self._width, self._height = case.width, case.height
        scale = max(case.width / avatar.camera.width, case.height / avatar.camera.height)
        self._focal = avatar.camera.focal * scale
        self._raster = avatar.raster
        self._eps2d = avatar.raster.eps2d * max(1.0, scale) ** 2
        self._view = torch.from_numpy(inputs.pose.viewmat())
        self._background = torch.from_numpy(stream.background(inputs))

    def run_arrays(self, gaussians: Gaussians) -> npt.NDArray[np.uint8]:
        """From our engine's output. Returns uint8 [H, W, 3]."""
        arrays = (
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            gaussians.sh,
        )
        return self.run(*(torch.from_numpy(array) for array in arrays))

    @torch.inference_mode()
    def run(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor
    ) -> npt.NDArray[np.uint8]:
        """Activated Gaussians, [N, ...] each. Returns uint8 [H, W, 3]."""
        local = means @ self._view[:3, :3].T + self._view[:3, 3]
        colors = self._colors(means, sh)
        xy, conics, radii, is_visible = self._project(local, quats, scales)
        order = torch.argsort(local[:, 2], stable=True)
        order = order[is_visible[order]]
        packed = torch.cat([xy, conics, opacities.reshape(-1, 1), colors], dim=1)[order]
        owners, offsets = self._bin(xy[order], radii[order])
        return self._blend(packed, owners, offsets)

    def _project(
        self, local: Tensor, quats: Tensor, scales: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        raster, focal = self._raster, self._focal
        is_visible = local[:, 2] > raster.near
        z = torch.where(is_visible, local[:, 2], 1.0)
        limits = torch.tensor([self._width, self._height]) * (raster.fov_margin / (2 * focal))
        slope = (local[:, :2] / z[:, None]).clamp(-limits, limits)
        zero = torch.zeros_like(z)
        jacobian = torch.stack(
            [focal / z, zero, -focal * slope[:, 0] / z, zero, focal / z, -focal * slope[:, 1] / z],
            dim=1,
        ).reshape(-1, 2, 3)
        half = jacobian @ self._view[:3, :3] @ (_rotations(quats) * scales[:, None])
        covariance = half @ half.transpose(1, 2)
        xx = covariance[:, 0, 0] + self._eps2d
        yy = covariance[:, 1, 1] + self._eps2d
        xy = covariance[:, 0, 1]
        determinant = xx * yy - xy * xy
        is_visible = is_visible & (determinant > 0)
        conics = torch.stack([yy, -xy, xx], dim=1) / determinant[:, None]
        middle = 0.5 * (xx + yy)
        spread = (middle * middle - determinant).clamp(min=raster.eigenvalue_floor).sqrt()
        radii = torch.ceil(raster.radius_sigmas * (middle + spread).sqrt())
        size = torch.tensor([self._width, self._height])
        centers = focal * local[:, :2] / z[:, None] + (size - 1) / 2
        return centers, conics, radii, is_visible

    def _colors(self, means: Tensor, sh: Tensor) -> Tensor:
        rotation, translation = self._view[:3, :3], self._view[:3, 3]
        direction = torch.nn.functional.normalize(means + translation @ rotation, dim=1)
        basis = _sh_basis(direction, sh.shape[1])
        return (torch.einsum("nk,nkc->nc", basis, sh) + 0.5).clamp(min=0)

    def _bin(self, centers: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
        """For each tile, in a list of all, which splats reach it, front to back.

        Returns: splat of each entry; where each tile's entries begin [tiles + 1].
        """
        columns, rows = -(-self._width // _TILE), -(-self._height // _TILE)
        most = torch.tensor([columns, rows])
        reach = radii[:, None]
        low = ((centers - reach) / _TILE).trunc().long().clamp(min=torch.zeros(2).long(), max=most)
        high = ((centers + reach + (_TILE - 1)) / _TILE).trunc().long()
        high = high.clamp(min=torch.zeros(2).long(), max=most)
        spans = high - low
        counts = spans[:, 0] * spans[:, 1]
        owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
        first = counts.cumsum(0) - counts
        within = torch.arange(len(owners)) - first[owners]
        width = spans[owners, 0]
        column = low[owners, 0] + within % width
        tiles = (low[owners, 1] + within // width) * columns + column
        tiles, by_tile = torch.sort(tiles, stable=True)
        edges = torch.arange(columns * rows + 1)
        return owners[by_tile], torch.searchsorted(tiles, edges)

    def _blend(self, packed: Tensor, owners: Tensor, offsets: Tensor) -> npt.NDArray[np.uint8]:
        columns, rows = -(-self._width // _TILE), -(-self._height // _TILE)
        lengths = offsets[1:] - offsets[:-1]
        light = torch.zeros(columns * rows, _TILE * _TILE, 3)
        left = torch.ones(columns * rows, _TILE * _TILE)
        # Tiles with lists of like lengths together: little padding.
        for tiles in torch.split(torch.argsort(lengths), _TILES_AT_ONCE):
            light[tiles], left[tiles] = self._blend_tiles(packed, owners, offsets, tiles, columns)
        image = self._untiled(light, columns, rows)
        image += self._untiled(left[..., None], columns, rows) * self._background
        levels: npt.NDArray[np.uint8] = (
            (image.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().cpu().numpy()
        )
        return levels

    def _blend_tiles(
        self, packed: Tensor, owners: Tensor, offsets: Tensor, tiles: Tensor, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Colour [T, 256, 3] and transmittance [T, 256] of some tiles: a slab of every list after
        the other, and no more of a tile that has become opaque."""
        raster = self._raster
        pixel = torch.arange(_TILE * _TILE)
        px = ((tiles % columns)[:, None] * _TILE + pixel % _TILE).float()
        py = ((tiles // columns)[:, None] * _TILE + pixel // _TILE).float()
        light = torch.zeros(len(tiles), len(pixel), 3)
        drawn = torch.zeros(len(tiles), len(pixel))
        running = torch.ones(len(tiles), len(pixel))
        begin, end = offsets[tiles], offsets[tiles + 1]
        open_ones = torch.nonzero(end > begin)[:, 0]
        while len(open_ones):
            slots = begin[open_ones, None] + torch.arange(_SLAB)
            is_real = slots < end[open_ones, None]
            splats = packed[owners[slots.clamp(max=len(owners) - 1)]]
            dx = splats[..., 0, None] - px[open_ones, None]
            dy = splats[..., 1, None] - py[open_ones, None]
            a, b, c = (splats[..., i, None] for i in (2, 3, 4))
            power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
            alpha = (splats[..., 5, None] * power.exp()).clamp(max=raster.alpha_max)
            keep = (power <= 0) & (alpha >= raster.alpha_min) & is_real[..., None]
            alpha = torch.where(keep, alpha, 0.0)
            after = running[open_ones, None] * (1 - alpha).cumprod(dim=1)
            before = torch.cat([running[open_ones, None], after[:, :-1]], dim=1)
            weights = torch.where(after >= raster.transmittance_min, alpha * before, 0.0)
            light[open_ones] += weights.transpose(1, 2) @ splats[..., 6:9]
            drawn[open_ones] += weights.sum(dim=1)
            running[open_ones] = after[:, -1]
            begin[open_ones] += _SLAB
            is_clear = running[open_ones].amax(dim=1) >= raster.transmittance_min
            open_ones = open_ones[is_clear & (begin[open_ones] < end[open_ones])]
        return light, 1 - drawn

    def _untiled(self, values: Tensor, columns: int, rows: int) -> Tensor:
        """[tiles, 256, C] -> [H, W, C]."""
        grid = values.reshape(rows, columns, _TILE, _TILE, -1).transpose(1, 2)
        picture = grid.reshape(rows * _TILE, columns * _TILE, -1)
        return picture[: self._height, : self._width]


def _rotations(quats: Tensor) -> Tensor:
    """Unit quaternions w x y z [N, 4] -> [N, 3, 3]."""
    w, x, y, z = quats.unbind(dim=1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        dim=1,
    ).reshape(-1, 3, 3)


def _sh_basis(direction: Tensor, count: int) -> Tensor:
    """Real spherical harmonics of unit vectors [N, 3], the first `count` of 16, with the signs of
    3D Gaussian splatting."""
    x, y, z = direction.unbind(dim=1)
    xx, yy, zz = x * x, y * y, z * z
    a, b, c = _SH2
    d, e, f, g, h = _SH3
    terms = [
        torch.full_like(x, _SH0),
        *(-_SH1 * y, _SH1 * z, -_SH1 * x),
        *(a * x * y, -a * y * z, b * (2 * zz - xx - yy), -a * x * z, c * (xx - yy)),
        *(-d * y * (3 * xx - yy), e * x * y * z, -f * y * (4 * zz - xx - yy)),
        g * z * (2 * zz - 3 * xx - 3 * yy),
        *(-f * x * (4 * zz - xx - yy), h * z * (xx - yy), -d * x * (xx - 3 * yy)),
    ]
    return torch.stack(terms[: min(count, math.isqrt(count) ** 2)], dim=1)
