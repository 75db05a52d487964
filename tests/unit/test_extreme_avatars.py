"""Avatars and views at the limits of what is valid: finite pictures, and the right ones wherever
float32 can hold what the equations need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gt_infer import EngineConfig, LifeConfig, Pose, Renderer, _native
from gt_infer.avatar import Avatar, Linear
from tests.reference import splat
from tests.synthetic import make_avatar

COLOR = (10, 200, 30)
AS_IT_IS = LifeConfig(pose_range="off")
FACING = Pose((0.05, -0.1, 0.02), (0.1, 0.0, -10.0))
# Heads that move nothing: what the avatar holds is what is drawn.
STILL = make_avatar(n=200, heads=())


@pytest.fixture(params=("amx", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable"))
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in _native.available_isas():
        pytest.skip(f"this machine or build has no {request.param}")
    return str(request.param)


def changed(avatar: Avatar = STILL, **arrays: Any) -> Avatar:
    """The avatar with these arrays of its Gaussians, each made or given, cut to float32's range."""
    limit = float(np.finfo(np.float32).max)
    given = {name: np.clip(np.asarray(array), -limit, limit) for name, array in arrays.items()}
    shapes = {name: getattr(avatar.gaussians, name).shape for name in given}
    made = {
        name: np.ascontiguousarray(np.broadcast_to(array, shapes[name]), np.float32)
        for name, array in given.items()
    }
    return replace(avatar, gaussians=replace(avatar.gaussians, **made))


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


CANONICAL = STILL.gaussians
MEANS, QUATS = CANONICAL.means.astype(np.float64), unit(CANONICAL.quats.astype(np.float64))
HEADS: dict[str, Avatar] = {
    "one Gaussian": make_avatar(n=1, heads=()),
    "all transparent": changed(logit_opacities=-100.0),
    "all transparent, farther": changed(logit_opacities=-3e38),
    "all opaque": changed(logit_opacities=100.0),
    "all opaque, farther": changed(logit_opacities=3e38),
    "larger than the picture": changed(log_scales=5.0),
    "larger than anything": changed(log_scales=10.0),
    "smaller than a pixel": changed(log_scales=-10.0),
    "points": changed(log_scales=-80.0),
    "needles": changed(log_scales=(0.0, -80.0, -80.0)),
    "discs": changed(log_scales=(0.0, 0.0, -80.0)),
    "equal depths": changed(means=MEANS @ np.diag([0.0, 0.0, 0.0])),
    "means to 3e3": changed(means=1e3 * MEANS),
    "means to 3e6": changed(means=1e6 * MEANS),
    "means to 3e18": changed(means=1e18 * MEANS),
    "colours to 1e10": changed(sh=1e10 * CANONICAL.sh),
    "colours all below black": changed(sh=-100.0),
    "short quaternions": changed(quats=1e-7 * QUATS),
    "long quaternions": changed(quats=1e15 * QUATS),
}
VIEWS: dict[str, Pose] = {
    "in the middle of the head": Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "at the near plane": Pose((0.0, 0.0, 0.0), (0.0, 0.0, -0.2)),
    "nose to nose": Pose((0.1, 0.3, 0.0), (0.0, 0.0, -0.5)),
    "head behind the camera": Pose((0.0, 0.0, 0.0), (0.0, 0.0, 10.0)),
    "head far behind": Pose((0.0, 0.0, 0.0), (0.0, 0.0, 1e6)),
    "head far in front": Pose((0.0, 0.0, 0.0), (0.0, 0.0, -1e6)),
    "head far to the side": Pose((0.0, 0.0, 0.0), (1e6, -1e6, -10.0)),
    "head over heels": Pose((3.1, 3.1, 3.1), (0.0, 0.0, -10.0)),
}


def assert_as_reference(avatar: Avatar, pose: Pose, isa: str, **options: Any) -> np.ndarray:
    """Draws on a plain background, compares with float64; returns the picture."""
    config = EngineConfig(isa=isa, threads=2)
    avatar = replace(avatar, torso=avatar.torso[:0], torso_poses=avatar.torso_poses[:0])
    with Renderer(
        avatar, output="float32", background=COLOR, life=AS_IT_IS, config=config, **options
    ) as renderer:
        window = renderer.windows().rest_window()
        alpha = np.full((renderer.height, renderer.width), np.nan, np.float32)
        depth = alpha.copy()
        picture = renderer.render_window(window, pose, alpha=alpha, depth=depth)
        gaussians = renderer.deform(window, 0.0, pose.camera_vector())
    height, width = alpha.shape
    zoom = max(width / avatar.camera.width, height / avatar.camera.height)
    focal, eps2d = splat.resized(avatar.camera.focal, 0.3, 1, zoom)  # type: ignore[arg-type]
    want = splat.render(
        gaussians,
        pose.viewmat(),
        width,
        height,
        focal,
        np.array(COLOR) / 255,
        splat.RasterParams(eps2d=eps2d),
    )
    # A threshold that rounds to the other side shows in a pixel; values are as in float32 sums.
    for got, wanted in ((picture, want.image), (alpha, want.alpha), (depth, want.depth)):
        assert np.isfinite(got).all()
        wrong = np.abs(got - wanted) > 5e-5 * max(1.0, float(np.abs(wanted).max()))
        assert wrong.reshape(height, width, -1).any(axis=-1).sum() <= 4
    return picture


@pytest.mark.parametrize("name", HEADS, ids=lambda name: name.replace(" ", "-"))
def test_extreme_heads_match_the_reference(isa: str, name: str) -> None:
    assert_as_reference(HEADS[name], FACING, isa)


def test_equal_depths_draw_in_the_order_of_the_file(isa: str) -> None:
    """And not in the one that an engine keeps them in."""
    flat = changed(means=MEANS @ np.diag([0.4, 0.4, 0.0]))
    straight = Pose((0.0, 0.0, 0.0), (0.0, 0.0, -10.0))
    assert_as_reference(flat, straight, isa)


@pytest.mark.parametrize("name", VIEWS, ids=lambda name: name.replace(" ", "-"))
def test_extreme_views_match_the_reference(isa: str, name: str) -> None:
    picture = assert_as_reference(STILL, VIEWS[name], isa)
    if "behind" in name or "side" in name:
        np.testing.assert_array_equal(picture, np.broadcast_to(picture[0, 0], picture.shape))


@pytest.mark.parametrize("size", [(64, 64), (64, 2048), (2048, 64), (2048, 2048), (65, 127)])
def test_every_corner_of_the_size_range_matches_the_reference(size: tuple[int, int]) -> None:
    few = make_avatar(n=25, heads=(), seed=3)
    picture = assert_as_reference(few, FACING, _native.available_isas()[0], size=size)
    assert picture.shape == (size[1], size[0], 3)
    assert np.ptp(picture) > 0.3, "an empty picture would pass"


def weights_times(factor: float, head: str) -> Avatar:
    avatar = make_avatar(n=200)
    heads = dict(avatar.network.heads)
    hidden, out = heads[head]
    heads[head] = (hidden, Linear(np.clip(out.weight * np.float32(factor), -3e38, 3e38), out.bias))
    return replace(avatar, network=replace(avatar.network, heads=heads))


# Beyond float32: products overflow on the way. What cannot be computed is left out of the picture.
ABSURD: dict[str, Callable[[], Avatar]] = {
    "scales at the limit": lambda: changed(log_scales=80.0),
    "needles at both limits": lambda: changed(log_scales=(80.0, -80.0, -80.0)),
    "means at the limit": lambda: changed(means=3e38 * np.sign(MEANS)),
    "colours at the limit": lambda: changed(sh=3e38),
    "colours at both limits": lambda: changed(sh=3e38 * np.sign(CANONICAL.sh)),
    "quaternions at the limit": lambda: changed(quats=1.7e38 * QUATS),
    **{
        f"{head} head times 1e30": lambda head=head: weights_times(1e30, head)  # type: ignore[misc]
        for head in ("means", "scales", "quats", "opacities", "sh")
    },
}


@pytest.mark.parametrize("name", ABSURD, ids=lambda name: name.replace(" ", "-"))
def test_absurd_numbers_still_give_a_finite_picture(isa: str, name: str) -> None:
    avatar = ABSURD[name]()
    config = EngineConfig(isa=isa, threads=2)
    for options in ({}, {"background": "transparent"}):
        with Renderer(
            avatar, output="float32", life=AS_IT_IS, config=config, **options
        ) as renderer:  # type: ignore[arg-type]
            alpha = np.full((renderer.height, renderer.width), np.nan, np.float32)
            picture = renderer.render_window(renderer.windows().rest_window(), FACING, alpha=alpha)
        assert np.isfinite(picture).all()
        assert ((alpha >= 0) & (alpha <= 1)).all()


def test_a_large_head_is_as_its_visible_part() -> None:
    """Of 200,000 Gaussians all but 500 are transparent: the picture is that of the 500."""
    count, seen = 200_000, 500
    many = make_avatar(n=count, d_model=32, heads=())
    picked = np.sort(np.random.default_rng(1).choice(count, seen, replace=False))
    opacity = np.full(count, -100.0, np.float32)
    opacity[picked] = many.gaussians.logit_opacities[picked]
    large = changed(many, logit_opacities=opacity)
    fields = ("means", "log_scales", "quats", "logit_opacities", "sh")
    small = replace(
        many,
        gaussians=replace(
            many.gaussians,
            **{name: getattr(many.gaussians, name)[picked].copy() for name in fields},
        ),
    )
    pictures = []
    for avatar in (large, small):
        with Renderer(avatar, life=AS_IT_IS, config=EngineConfig(threads=2)) as renderer:
            pictures.append(renderer.render_window(renderer.windows().rest_window(), FACING))
    np.testing.assert_array_equal(*pictures)
    assert (pictures[0] != pictures[0][0, 0]).any()


@pytest.mark.parametrize("n", [1, 33, 2000])
def test_more_threads_than_work_change_nothing(n: int) -> None:
    avatar = make_avatar(n=n)
    pictures = []
    for threads in (1, 64):
        with Renderer(avatar, size=(64, 80), config=EngineConfig(threads=threads)) as renderer:
            pictures.append(renderer.render_window(renderer.windows().rest_window()))
    np.testing.assert_array_equal(*pictures)
