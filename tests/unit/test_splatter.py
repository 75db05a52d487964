"""The native splatter against the float64 reference, for every instruction set."""

from __future__ import annotations

from dataclasses import asdict, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer import _native
from gt_infer.config import RasterConfig
from gt_infer.pose import Pose
from tests.reference import splat

ISAS = _native.available_isas()
EVERY_ISA = ("amx", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable")
VIEWMAT = Pose((0.1, -0.2, 0.05), (0.1, 0.2, -10.0)).viewmat()
FOCAL = 150.0
# float32 against float64 over some hundred blended terms; a Gaussian on one of the thresholds
# (alpha 1/255, transmittance 1e-4) may fall on the other side, which moves a pixel by up to 1/255.
TOLERANCE = 2e-5
THRESHOLD_JUMP = 1.2 / 255
MAX_JUMPS = 4


@pytest.fixture(params=EVERY_ISA)
def isa(request: pytest.FixtureRequest) -> str:
    if request.param not in ISAS:
        pytest.skip(f"this machine or build has no {request.param}")
    return str(request.param)


def make_scene(n: int, seed: int = 0, *, scale: float = 0.06, **changes: Any) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    scene = {
        "means": rng.normal(0, 0.6, (n, 3)),
        "quats": rng.normal(0, 1, (n, 4)),
        "scales": np.exp(rng.normal(np.log(scale), 0.7, (n, 3))),
        "opacities": rng.uniform(0, 1, n),
        "sh": rng.normal(0, 0.25, (n, 16, 3)),
        **changes,
    }
    return SimpleNamespace(**{k: np.ascontiguousarray(v, np.float32) for k, v in scene.items()})


def draw(
    scene: SimpleNamespace,
    width: int,
    height: int,
    isa: str,
    *,
    background: Any = None,
    threads: int = 2,
    output: str = "float32",
    raster: RasterConfig | None = None,
    transparent: bool = False,
    weights: Any = (),
) -> SimpleNamespace:
    channels = 4 if output == "rgba8" else 3
    poison = np.nan if output == "float32" else 77
    dtype = np.float32 if output == "float32" else np.uint8
    image = np.full((height, width, channels), poison, dtype)
    alpha, depth = (np.full((height, width), np.nan, np.float32) for _ in range(2))
    _native.rasterize(
        **vars(scene),
        viewmat=VIEWMAT,
        focal=FOCAL,
        raster=_native.RasterParams(**asdict(raster or RasterConfig())),
        image=image,
        format=getattr(_native.PixelFormat, output),
        is_transparent=transparent,
        background=None if background is None else _native.Background(with_alpha(background)),
        layer_weights=weights,
        alpha=alpha,
        depth=depth,
        isa=isa,
        threads=threads,
    )
    return SimpleNamespace(image=image, alpha=alpha, depth=depth)


def with_alpha(picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> one opaque layer; [K, H, W, 4] as it is."""
    if picture.ndim == 4:
        return picture
    return np.pad(picture, ((0, 0), (0, 0), (0, 1)), constant_values=1)[np.newaxis]


def assert_close(got: np.ndarray, want: np.ndarray, scale: float = 1.0) -> None:
    error = np.abs(got.astype(np.float64) - want) / scale
    assert not np.isnan(error).any(), "an output was not written"
    assert error.max() < THRESHOLD_JUMP, f"off by {error.max():.3g}"
    off = error.reshape(*error.shape[:2], -1).max(axis=-1) > TOLERANCE
    assert off.sum() <= MAX_JUMPS, f"{off.sum()} pixels are off by more than {TOLERANCE}"


def background_of(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 1, (height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "width, height", [(64, 64), (96, 48), (50, 37), (16, 16), (1, 1), (17, 130)]
)
def test_matches_reference(isa: str, width: int, height: int) -> None:
    scene = make_scene(300)
    background = background_of(width, height)
    want = splat.render(scene, VIEWMAT, width, height, FOCAL, background)
    got = draw(scene, width, height, isa, background=background)
    assert want.alpha.max() > 0.9 or width == 1, "the scene is empty: this test proves nothing"
    assert_close(got.image, want.image)
    assert_close(got.alpha, want.alpha)
    assert_close(got.depth, want.depth, scale=float(want.depth.max()) or 1.0)


@pytest.mark.parametrize("scale", [1e-4, 0.02, 0.5, 30.0])
def test_tiny_and_huge_gaussians(isa: str, scale: float) -> None:
    scene = make_scene(120, seed=3, scale=scale)
    want = splat.render(scene, VIEWMAT, 80, 64, FOCAL, np.zeros((64, 80, 3)))
    got = draw(scene, 80, 64, isa)
    assert_close(got.image, want.image)
    assert_close(got.alpha, want.alpha)


def test_thresholds_come_from_the_config(isa: str) -> None:
    """Every number of RasterConfig reaches the kernels."""
    scene = make_scene(300, seed=5, scale=0.15)
    default = RasterConfig()
    changes = {
        "near": 10.0,
        "eps2d": 3.0,
        "fov_margin": 0.3,
        "radius_sigmas": 1.0,
        "eigenvalue_floor": 4000.0,
        "alpha_max": 0.5,
        "alpha_min": 0.05,
        "transmittance_min": 0.2,
    }
    assert set(changes) == {field.name for field in fields(RasterConfig)}
    base = draw(scene, 64, 64, isa).image
    for name, value in changes.items():
        raster = RasterConfig(**{**asdict(default), name: value})
        want = splat.render(scene, VIEWMAT, 64, 64, FOCAL, np.zeros((64, 64, 3)), raster)
        got = draw(scene, 64, 64, isa, raster=raster)
        assert np.abs(got.image - base).max() > 0.002, f"{name} has no effect"
        # A jump here is as large as the threshold is coarse.
        off = np.abs(got.image - want.image).max(axis=-1) > TOLERANCE
        assert off.sum() <= MAX_JUMPS, f"{name}: {off.sum()} pixels"


def test_defaults_equal_the_native_ones() -> None:
    native = _native.RasterParams()
    for name, value in asdict(RasterConfig()).items():
        assert getattr(native, name) == np.float32(value)


def test_nothing_to_draw(isa: str) -> None:
    background = background_of(40, 40)
    empty = make_scene(0)
    behind = make_scene(50, means=np.full((50, 3), (0, 0, 40.0)))
    clear = make_scene(50, opacities=np.full(50, 0.5 / 255))
    for scene in (empty, behind, clear):
        got = draw(scene, 40, 40, isa, background=background)
        np.testing.assert_array_equal(got.image, background)
        assert not got.alpha.any()
        assert not got.depth.any()


def test_near_plane_is_exclusive(isa: str) -> None:
    """A Gaussian exactly at z = near is culled, one just beyond is drawn."""
    near = RasterConfig().near
    forward = VIEWMAT[2, :3]
    center = -VIEWMAT[:3, :3].T @ VIEWMAT[:3, 3]
    for z, drawn in ((near - 1e-3, False), (near + 1e-3, True)):
        mean = center + forward * z
        scene = make_scene(1, means=mean[None], scales=np.full((1, 3), 1e-3), opacities=np.ones(1))
        assert bool(draw(scene, 32, 32, isa).alpha.any()) is drawn


def test_equal_depths_draw_in_index_order(isa: str) -> None:
    n = 40
    scene = make_scene(
        n,
        means=np.zeros((n, 3)),
        scales=np.full((n, 3), 0.3),
        opacities=np.full(n, 0.9),
    )
    for order in (np.arange(n), np.arange(n)[::-1]):
        turned = SimpleNamespace(
            **{k: np.ascontiguousarray(v[order]) for k, v in vars(scene).items()}
        )
        want = splat.render(turned, VIEWMAT, 48, 48, FOCAL, np.zeros((48, 48, 3)))
        assert_close(draw(turned, 48, 48, isa).image, want.image)


def test_order_of_the_file_does_not_matter(isa: str) -> None:
    scene = make_scene(200, seed=11)
    order = np.random.default_rng(1).permutation(200)
    turned = SimpleNamespace(**{k: np.ascontiguousarray(v[order]) for k, v in vars(scene).items()})
    a, b = draw(scene, 64, 64, isa), draw(turned, 64, 64, isa)
    np.testing.assert_array_equal(a.image, b.image)


def test_threads_do_not_change_a_bit(isa: str) -> None:
    scene = make_scene(300, seed=2)
    one, four = (draw(scene, 100, 60, isa, threads=t) for t in (1, 4))
    for name in ("image", "alpha", "depth"):
        np.testing.assert_array_equal(getattr(one, name), getattr(four, name))


def test_background_shines_through_by_transmittance(isa: str) -> None:
    scene = make_scene(150, seed=4)
    background = background_of(64, 64)
    black = draw(scene, 64, 64, isa)
    over = draw(scene, 64, 64, isa, background=background)
    through = black.image + (1 - black.alpha)[..., None] * background
    np.testing.assert_allclose(over.image, through, atol=1e-6)


def test_byte_formats_round_the_float_picture(isa: str) -> None:
    scene = make_scene(300, sh=np.random.default_rng(0).normal(0.6, 0.6, (300, 16, 3)))
    background = background_of(50, 37)
    exact = draw(scene, 50, 37, isa, background=background).image
    assert exact.max() > 1.5, "clipping is not exercised"
    bytes_ = splat.to_uint8(exact)
    rgb, bgr, rgba = (
        draw(scene, 50, 37, isa, background=background, output=output).image
        for output in ("rgb8", "bgr8", "rgba8")
    )
    assert np.abs(rgb.astype(int) - bytes_).max() <= 1  # a tie may round either way
    assert (rgb != bytes_).mean() < 1e-3
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])
    np.testing.assert_array_equal(rgba[..., :3], rgb)
    assert (rgba[..., 3] == 255).all()


def layers_of(width: int, height: int, count: int) -> np.ndarray:
    """Random see-through pictures, alpha multiplied in."""
    rng = np.random.default_rng(6)
    layers = rng.uniform(0, 1, (count, height, width, 4)).astype(np.float32)
    layers[..., :3] *= layers[..., 3:]
    return layers


def test_transparent_pictures_fit_any_background(isa: str) -> None:
    """image(background) == image(nothing) + (1 - alpha) background."""
    scene, size = make_scene(150, seed=4), (50, 37)
    layers = layers_of(*size, 1)
    alone = draw(scene, *size, isa, background=layers, transparent=True)
    behind = background_of(*size)
    front = layers[0, ..., :3] + (1 - layers[0, ..., 3:]) * behind
    over = draw(scene, *size, isa, background=front)
    through = alone.image + (1 - alone.alpha)[..., None] * behind
    np.testing.assert_allclose(through, over.image, atol=1e-6)
    nothing = draw(scene, *size, isa, transparent=True)
    want = 1 - (1 - nothing.alpha) * (1 - layers[0, ..., 3])
    np.testing.assert_allclose(alone.alpha, want, atol=1e-6)
    opaque = draw(scene, *size, isa, background=front)
    np.testing.assert_allclose(opaque.alpha, nothing.alpha, atol=1e-6)


def test_rgba_is_straight(isa: str) -> None:
    scene, size = make_scene(100, seed=4), (50, 37)
    layers = layers_of(*size, 1)
    exact = draw(scene, *size, isa, background=layers, transparent=True)
    rgba = draw(scene, *size, isa, background=layers, transparent=True, output="rgba8").image
    alpha = exact.alpha[..., None]
    assert alpha.min() < 0.1
    assert np.abs(rgba[..., 3:] - splat.to_uint8(alpha).astype(int)).max() <= 1
    straight = exact.image / np.maximum(alpha, 1e-9)
    assert np.abs(rgba[..., :3] - splat.to_uint8(straight).astype(int)).max() <= 1
    clear = draw(make_scene(0), 20, 20, isa, transparent=True, output="rgba8").image
    assert not clear.any()


def test_layers_mix_by_weight(isa: str) -> None:
    scene, size = make_scene(100, seed=4), (50, 37)
    layers = layers_of(*size, 3)
    for weights in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.25, 0.0, 0.75], [0.2, 0.3, 0.5]):
        mixed = np.einsum("k,khwc->hwc", np.float32(weights), layers)[np.newaxis]
        want = draw(scene, *size, isa, background=np.ascontiguousarray(mixed), transparent=True)
        got = draw(scene, *size, isa, background=layers, transparent=True, weights=weights)
        np.testing.assert_allclose(got.image, want.image, atol=1e-6)
        np.testing.assert_allclose(got.alpha, want.alpha, atol=1e-6)


def test_moving_world_and_camera_together_changes_nothing(isa: str) -> None:
    scene = make_scene(150, seed=8, sh=np.random.default_rng(0).normal(0, 0.3, (150, 1, 3)))
    scene.sh = np.ascontiguousarray(np.pad(scene.sh, ((0, 0), (0, 15), (0, 0))))  # no direction
    base = draw(scene, 64, 64, isa)
    global VIEWMAT
    before, shift = VIEWMAT, np.array([0.5, -0.25, 1.0], np.float32)
    moved = SimpleNamespace(**{**vars(scene), "means": scene.means + shift})
    view = before.copy()
    view[:3, 3] -= before[:3, :3] @ shift
    try:
        VIEWMAT = view
        again = draw(moved, 64, 64, isa)
    finally:
        VIEWMAT = before
    # The shift itself rounds the means by 6e-8, some 1e-5 pixels.
    assert np.percentile(np.abs(again.image - base.image), 99.9) < 1e-4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 31, 32, 33, 64]),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    scale=st.floats(1e-6, 1e6),
    distance=st.floats(-20, 20),
)
def test_any_scene_agrees_between_instruction_sets(
    seed: int, n: int, width: int, height: int, scale: float, distance: float
) -> None:
    """Same decisions everywhere: the projection has no fused multiply-adds."""
    scene = make_scene(n, seed, scale=scale)
    scene.means[:, 2] += np.float32(distance)
    pictures = [draw(scene, width, height, isa) for isa in ISAS]
    for picture in pictures:
        assert np.isfinite(picture.image).all()
        assert picture.alpha.min() >= 0
        assert picture.alpha.max() <= 1
        off = np.abs(picture.image - pictures[-1].image).max(axis=-1) > 1e-3
        assert off.sum() <= MAX_JUMPS


def test_wrong_arrays_are_refused_not_read() -> None:
    scene = make_scene(10)
    image = np.zeros((8, 8, 3), np.float32)
    common = {
        "viewmat": VIEWMAT,
        "focal": FOCAL,
        "raster": _native.RasterParams(),
        "image": image,
        "format": _native.PixelFormat.float32,
    }
    for name in ("means", "quats", "scales", "opacities", "sh"):
        broken = {**vars(scene), name: getattr(scene, name)[:5]}
        with pytest.raises(ValueError, match="unexpected shape"):
            _native.rasterize(**broken, **common)
        wide = {**vars(scene), name: getattr(scene, name).astype(np.float64)}
        with pytest.raises(TypeError):
            _native.rasterize(**wide, **common)
    frozen = image.copy()
    frozen.flags.writeable = False
    for bad in (image[:, ::2], image.astype(np.float64), frozen, image[..., :2].copy()):
        with pytest.raises(ValueError):  # noqa: PT011 - numpy words the read-only one itself
            _native.rasterize(**vars(scene), **{**common, "image": bad})
