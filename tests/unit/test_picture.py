"""What stands behind the head: sizes, torsos, backgrounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gt_infer import Camera, EngineConfig, InputError, LifeConfig, Pose, Renderer
from gt_infer.avatar import Avatar
from gt_infer.picture import compose, fit_camera, resize, torso_weights
from tests.reference import splat
from tests.synthetic import make_avatar

TRAINED = Camera(512, 384, 1000.0)


def test_cameras_of_other_sizes_cover_the_trained_picture() -> None:
    assert fit_camera(TRAINED, None) is TRAINED
    assert fit_camera(TRAINED, 192) == Camera(256, 192, 500.0)
    assert fit_camera(TRAINED, (1024, 768)) == Camera(1024, 768, 2000.0)
    assert fit_camera(TRAINED, (512, 768)) == Camera(512, 768, 2000.0)  # by height
    assert fit_camera(TRAINED, (1024, 384)) == Camera(1024, 384, 2000.0)  # by width


@pytest.mark.parametrize("size", [0, 63, 2049, -5, 64.0, (64,), (64, 64, 64), (63, 64), "64", True])
def test_impossible_sizes_are_refused(size: object) -> None:
    with pytest.raises(InputError, match="size = "):
        fit_camera(TRAINED, size)  # type: ignore[arg-type]


def test_resize_keeps_flat_pictures_and_gradients() -> None:
    flat = np.full((30, 40, 2), 0.25, np.float32)
    for size in ((80, 60), (20, 15), (64, 64), (17, 90)):
        np.testing.assert_allclose(resize(flat, *size), 0.25, atol=1e-6)
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[None, :, None], (40, 40, 1))
    large = resize(np.ascontiguousarray(ramp), 80, 80)[40, :, 0]
    centers = (np.arange(80) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(large[2:-2], centers[2:-2], atol=1e-5)
    small = resize(np.ascontiguousarray(ramp), 20, 20)[10, :, 0]
    np.testing.assert_allclose(small[1:-1], (np.arange(20) * 2 + 0.5)[1:-1], atol=1e-5)


def test_resize_covers_and_keeps_the_centre() -> None:
    image = np.zeros((41, 41, 1), np.float32)
    image[20, 20] = 1.0
    wide = resize(image, 123, 41)  # scaled by 3, cut above and below
    row, column = np.unravel_index(int(wide[..., 0].argmax()), (41, 123))
    assert (row, column) == (20, 61)


def two_torsos() -> Avatar:
    avatar = make_avatar(n=60, torsos=2)
    poses = np.array([[0, -0.2, 0], [0, 0.2, 0]], np.float32)
    return replace(avatar, torso_poses=poses)


def test_the_nearest_torso_shows_and_others_fade_in_between() -> None:
    poses = np.array([[0, -0.2, 0], [0, 0.2, 0], [0.3, 0, 0]], np.float32)
    assert torso_weights(poses[:1], (0.0, 0.0, 0.0)) == []
    assert torso_weights(poses, (0.0, -0.2, 0.0)) == [1.0, 0.0, 0.0]
    assert torso_weights(poses, (0.02, 0.21, 0.0)) == [0.0, 1.0, 0.0]
    assert torso_weights(poses, (0.0, 0.0, 0.0)) == pytest.approx([0.5, 0.5, 0.0])
    path = np.linspace(-0.3, 0.3, 2001)
    weights = np.array([torso_weights(poses, (0.1, yaw, 0.0)) for yaw in path])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    assert np.abs(np.diff(weights, axis=0)).max() < 0.02, "a torso jumps"


def test_torsos_reach_the_picture() -> None:
    avatar = two_torsos()
    assert (avatar.torso[0] != avatar.torso[1]).any()
    off = LifeConfig(pose_range="off")
    options = {"output": "float32", "config": EngineConfig(threads=1), "life": off}
    with Renderer(avatar, **options) as both:  # type: ignore[arg-type]
        window = both.windows().rest_window()
        for yaw, weights in ((-0.2, (1, 0)), (0.2, (0, 1)), (0.0, (0.5, 0.5))):
            pose = Pose((0.0, yaw, 0.0), (0.0, 0.0, -10.0))
            alpha = np.empty((64, 64), np.float32)
            got = both.render_window(window, pose, alpha=alpha)
            behind = [splat.over(torso, avatar.backdrop) for torso in avatar.torso]
            gaussians = both.deform(window, 0.0, pose.camera_vector())
            want = splat.render(
                gaussians,
                pose.viewmat(),
                64,
                64,
                avatar.camera.focal,
                sum(w * picture for w, picture in zip(weights, behind, strict=True)),
            )
            assert (np.abs(got - want.image).max(axis=-1) > 5e-5).sum() <= 4


def test_transparent_output_fits_any_background() -> None:
    """image(background) == image(nothing) + T background, torso included."""
    avatar = make_avatar(n=200)
    behind = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    config = EngineConfig(threads=1)
    with (
        Renderer(avatar, background="transparent", output="float32", config=config) as clear,
        Renderer(avatar, background=behind, output="float32", config=config) as solid,
        Renderer(avatar, background="transparent", output="rgba8", config=config) as bytes_,
    ):
        window = clear.windows().rest_window()
        alpha = np.empty((64, 64), np.float32)
        alone = clear.render_window(window, alpha=alpha)
        over = alone + (1 - alpha[..., None]) * (behind / np.float32(255))
        np.testing.assert_allclose(over, solid.render_window(window), atol=2e-6)
        rgba = bytes_.render_window(window)
        np.testing.assert_allclose(rgba[..., 3] / 255, alpha, atol=0.51 / 255)
        assert alpha.min() < 0.05
        assert alpha.max() > 0.95


def test_backgrounds_are_composed_in_float() -> None:
    avatar = make_avatar(n=10)
    layers, is_transparent = compose(avatar, avatar.camera, None)
    assert layers.shape == (1, 64, 64, 4)
    assert not is_transparent
    assert (layers[..., 3] == 1).all()
    want = splat.over(avatar.torso[0], avatar.backdrop)
    np.testing.assert_allclose(layers[0, ..., :3], want, atol=1e-6)
    red, _ = compose(avatar, avatar.camera, (255, 0, 0))
    want = splat.over(avatar.torso[0], np.broadcast_to(np.uint8([255, 0, 0]), (64, 64, 3)))
    np.testing.assert_allclose(red[0, ..., :3], want, atol=1e-6)
    without = replace(avatar, torso=avatar.torso[:0], torso_poses=avatar.torso_poses[:0])
    plain, _ = compose(without, avatar.camera, None)
    np.testing.assert_allclose(plain[0, ..., :3], avatar.backdrop / 255, atol=1e-6)
