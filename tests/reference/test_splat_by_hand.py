"""The reference splatter on scenes small enough to compute on paper.

The golden pictures reach most of it, but for instance no Gaussian of theirs is opaque enough to
meet the clamp of alpha.
"""

from __future__ import annotations

from math import ceil, exp, sqrt
from types import SimpleNamespace

import numpy as np
import pytest

from . import splat

Y00 = 0.28209479177387814


def scene(depths, opacities, colours, scale=0.02) -> SimpleNamespace:
    """Round Gaussians on the optical axis."""
    n = len(depths)
    sh = (np.reshape(colours, (n, 1, 3)) - 0.5) / Y00
    return SimpleNamespace(
        means=np.stack([np.zeros(n), np.zeros(n), depths], axis=1),
        quats=np.tile([2.0, 0.0, 0.0, 0.0], (n, 1)),
        scales=np.full((n, 3), scale),
        opacities=np.array(opacities),
        sh=sh,
    )


def test_projection_of_a_round_gaussian():
    projected = splat.project(scene([4.0], [0.5], [[0.2, 0.4, 0.9]]), np.eye(4), 65, 33, 100.0)
    variance = (100.0 * 0.02 / 4.0) ** 2 + 0.3
    np.testing.assert_allclose(projected.conics, [[1 / variance, 0.0, 1 / variance]])
    np.testing.assert_allclose(projected.means2d, [[32.5, 16.5]])
    np.testing.assert_allclose(projected.colours, [[0.2, 0.4, 0.9]])
    radius = ceil(3 * sqrt(variance + sqrt(0.1)))  # the floor under the root is at work
    assert projected.radii == [radius] == [3]
    # Columns 29 to 35 of 5 tiles, rows 13 to 19 of 3.
    np.testing.assert_array_equal(projected.rects, [[1, 0, 3, 2]])


def test_turned_gaussian():
    """A needle along x, turned a quarter about z, is a needle along y; its mean stays."""
    needle = SimpleNamespace(
        means=[[0.1, 0.0, 5.0]],
        quats=[[sqrt(0.5), 0.0, 0.0, sqrt(0.5)]],
        scales=[[0.3, 0.01, 0.02]],
        opacities=[1.0],
        sh=np.zeros((1, 1, 3)),
    )
    projected = splat.project(needle, np.eye(4), 64, 64, 100.0)
    xx, xy, yy = projected.conics[0]
    # J's last row adds (f x / z^2)^2 of the variance along z to x.
    assert 1 / xx == pytest.approx((100 / 5 * 0.01) ** 2 + (100 * 0.1 / 25 * 0.02) ** 2 + 0.3)
    assert 1 / yy == pytest.approx((100 / 5 * 0.3) ** 2 + 0.3)
    assert xy == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(projected.means2d, [[100 * 0.1 / 5 + 32, 32.0]])


def test_one_pixel():
    """Clamp of alpha, the threshold below it, and the stop: not drawn, nor anything after."""
    red, green, blue = np.eye(3)
    gaussians = scene(
        depths=[1.0, 2.0, 3.0, 4.0, 5.0],
        opacities=[1.0, 0.5, 0.0039, 0.995, 0.3],
        colours=[red, green, blue, blue, blue],
    )
    ours = splat.render(gaussians, np.eye(4), 1, 1, 1.0, [1.0, 1.0, 1.0])
    # 1.0 is clamped to 0.99, leaving 0.01; green leaves 0.005; 0.0039 < 1/255 is skipped; 0.995
    # (clamped) would leave 5e-5, so it is the end, and 0.3 behind it is not drawn either.
    expected = 0.99 * red + 0.01 * 0.5 * green + 0.005
    np.testing.assert_allclose(ours.image[0, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(ours.alpha, [[0.995]], rtol=1e-12)
    np.testing.assert_allclose(ours.depth, [[0.99 * 1.0 + 0.005 * 2.0]], rtol=1e-12)


def test_falloff_and_reach():
    """alpha falls as a Gaussian, and ends with the tiles of the 3-sigma square, not with a disc."""
    gaussians = scene([4.0], [1.0], [[1.0, 1.0, 1.0]], scale=0.1)
    ours = splat.render(gaussians, np.eye(4), 48, 48, 200.0, [0.0, 0.0, 0.0])
    variance = 5.0**2 + 0.3  # radius 16: index columns 7.5 to 39.5, so all three tiles
    assert ours.alpha[23, 30] == pytest.approx(exp(-(0.5 * 0.5 + 6.5 * 6.5) / 2 / variance))
    moved = splat.project(gaussians, np.eye(4), 48, 48, 200.0)
    np.testing.assert_array_equal(moved.rects, [[0, 0, 3, 3]])
    assert ours.alpha[23, 7] == pytest.approx(exp(-(0.5 * 0.5 + 16.5 * 16.5) / 2 / variance))
    assert ours.alpha[0, 0] == 0.0  # fainter than 1/255


def test_equal_float32_depths_keep_their_order():
    red, green, _ = np.eye(3)
    gaussians = scene([3.0 + 1e-9, 3.0], [0.5, 0.5], [red, green])
    ours = splat.render(gaussians, np.eye(4), 1, 1, 1.0, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(ours.image[0, 0], 0.5 * red + 0.25 * green, rtol=1e-12)


def test_culling():
    gaussians = scene([0.2, -1.0, 0.21], [0.5] * 3, np.ones((3, 3)))
    projected = splat.project(gaussians, np.eye(4), 16, 16, 10.0)
    np.testing.assert_array_equal(projected.radii > 0, [False, False, True])
    nothing = scene([], [], np.zeros((0, 3)))
    background = np.random.default_rng(0).random((16, 16, 3))
    ours = splat.render(nothing, np.eye(4), 16, 16, 10.0, background)
    np.testing.assert_array_equal(ours.image, background)


def test_spherical_harmonics_are_orthonormal():
    """Over an equal-area grid of the sphere; the constants cannot be wrong in size."""
    z = np.linspace(-1, 1, 401)[:-1] + 1 / 400
    angle = np.arange(64) * 2 * np.pi / 64
    z, angle = (a.ravel() for a in np.meshgrid(z, angle))
    r = np.sqrt(1 - z * z)
    basis = splat.sh_basis(np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1))
    gram = 4 * np.pi * basis.T @ basis / len(z)
    np.testing.assert_allclose(gram, np.eye(16), rtol=0, atol=1e-4)


def test_eight_bits():
    values = np.array([-0.5, 0.0, 0.49 / 255, 0.51 / 255, 254.4 / 255, 1.0, 1.7])
    np.testing.assert_array_equal(splat.to_uint8(values), [0, 0, 0, 1, 254, 255, 255])
