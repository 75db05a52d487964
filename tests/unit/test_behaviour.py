"""How the renderer uses poses, blinks and life: what is left out, given, or out of range."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gt_infer import EngineConfig, InputError, LifeConfig, Pose, Renderer
from gt_infer.attention import attention_weights
from gt_infer.life import Blinks, GatedFrontend, IdleMotion, PoseRange
from tests.synthetic import make_avatar

ONE = EngineConfig(threads=1)
FAR = Pose.from_degrees(yaw=60)


def chunk(level: float = 0.3, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(-level, level, 640)
    return noise.astype(np.float32)


def test_left_out_life_is_a_function_of_seed_and_frame() -> None:
    avatar = make_avatar(n=60)
    assert avatar.poses is not None
    with Renderer(avatar, config=ONE, life=LifeConfig(seed=4)) as renderer:
        motion, blinks = IdleMotion(avatar.poses, 4), Blinks(4, avatar.poses)
        windows = renderer.windows()
        for k in range(9):
            (frame,) = windows.push(chunk(seed=k))
            want = renderer.render_window(
                windows.window(frame), motion.pose(frame), blink=blinks.blink(frame)
            )
            np.testing.assert_array_equal(renderer.render(chunk(seed=k)), want)


def test_life_can_be_switched_off() -> None:
    avatar = make_avatar(n=60)
    off = LifeConfig(idle_motion=False, blinking=False)
    with Renderer(avatar, config=ONE, life=off) as renderer:
        pictures = [renderer.render(np.zeros(640, np.float32)) for _ in range(5)]
        assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_an_avatar_without_poses_needs_them_given() -> None:
    avatar = replace(make_avatar(n=30), poses=None)
    with Renderer(avatar, config=ONE) as renderer:
        with pytest.raises(InputError, match="export it again with --dataset"):
            renderer.render(chunk())
        with pytest.raises(InputError, match="no mean pose"):
            renderer.render(chunk(), Pose.from_degrees(yaw=3))
        renderer.render(chunk(), Pose((0.0, 0.0, 0.0), (0.0, 0.0, -10.0)))
        renderer.render(chunk(), Pose((0.0, 2.0, 0.0), (0.0, 0.0, -10.0)))  # nothing to clamp by


def test_poses_out_of_range_are_brought_back_with_one_warning() -> None:
    avatar = make_avatar(n=60)
    assert avatar.poses is not None
    keeper = PoseRange(avatar.poses)
    mean = (avatar.poses.mean_euler, avatar.poses.mean_trans)
    with Renderer(avatar, config=ONE) as renderer:
        window = renderer.windows().rest_window()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = renderer.render_window(window, FAR)
            renderer.render_window(window, FAR)
            renderer.render(chunk(), FAR)
            session = renderer.session()
            session.push(chunk())
            session.flush()
            assert len(list(session.frames(pose=FAR))) == 1
        (warning,) = caught
        assert "outside the range" in str(warning.message)
        assert "yaw" in str(warning.message)
        assert warning.filename == __file__
    kept = keeper.clamp(FAR.resolve(*mean))
    with Renderer(avatar, config=ONE, life=LifeConfig(pose_range="off")) as renderer:
        np.testing.assert_array_equal(got, renderer.render_window(window, kept))


def test_strict_and_off() -> None:
    avatar = make_avatar(n=60)
    window = np.zeros((8, 29, 16), np.float32)
    with Renderer(avatar, config=ONE, life=LifeConfig(pose_range="strict")) as renderer:
        with pytest.raises(InputError, match=r"pose: yaw = .* is outside"):
            renderer.render_window(window, FAR)
        renderer.render_window(window, Pose.from_degrees(yaw=1))
    with (
        warnings.catch_warnings(),
        Renderer(avatar, config=ONE, life=LifeConfig(pose_range="off")) as renderer,
    ):
        warnings.simplefilter("error")
        free = renderer.render_window(window, FAR)
    with Renderer(avatar, config=ONE) as renderer, pytest.warns(UserWarning, match="outside"):
        assert (renderer.render_window(window, FAR) != free).any()


def test_silence_gate_is_wired_and_optional() -> None:
    avatar = make_avatar(n=20)
    faint = np.concatenate([chunk(1e-4, seed) for seed in range(12)])
    with Renderer(avatar, config=ONE) as gated:
        windows = gated.windows()
        windows.push(faint)
        np.testing.assert_array_equal(windows.window(5)[4:], windows.rest_window()[4:])
    with Renderer(avatar, config=ONE, life=LifeConfig(silence_gate=None)) as plain:
        windows = plain.windows()
        windows.push(faint)
        assert (windows.window(5)[4:] != windows.rest_window()[4:]).any()
    assert GatedFrontend.__doc__


@pytest.mark.parametrize(
    "options",
    [{"pose_range": "loose"}, {"silence_gate": 3.0}, {"silence_gate": float("nan")}],
)
def test_wrong_life_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LifeConfig(**options)


# Attention pictures.


def test_attention_weights_are_normalised_per_token() -> None:
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(4), (2, 50)).astype(np.float32)
    weights = attention_weights(attention)
    assert weights.shape == (50, 4)
    np.testing.assert_allclose(weights.min(axis=0), 0)
    np.testing.assert_allclose(weights.max(axis=0), 1)
    order = attention.mean(axis=0).argsort(axis=0)
    assert (np.diff(np.take_along_axis(weights, order, axis=0), axis=0) >= 0).all()
    alike = np.full((1, 5, 4), 0.25, np.float32)
    assert not attention_weights(alike).any()


def test_attention_pictures_show_each_token_in_grey() -> None:
    avatar = make_avatar(n=300, layers=2)
    with Renderer(avatar, config=ONE, background=(0, 0, 0)) as renderer:
        image, maps = renderer.render(chunk(), attention=True)
        assert image.shape == (64, 64, 3)
        assert maps.shape == (4, 64, 64, 3)
        windows = renderer.windows()
        (frame,) = windows.push(chunk())
        assert avatar.poses is not None
        pose = IdleMotion(avatar.poses, 0).pose(frame)
        blink = Blinks(0, avatar.poses).blink(frame)
        again = renderer.render_attention(windows.window(frame), pose, blink=blink)
        np.testing.assert_array_equal(again, maps)
        alpha = np.empty((64, 64), np.float32)
        renderer.render_window(windows.window(frame), pose, blink=blink, alpha=alpha)
    uncovered = alpha < 0.01
    torso = avatar.torso[0, ..., 3] > 0
    for picture in maps:
        head_alone = picture[~torso]
        np.testing.assert_array_equal(head_alone[:, 0], head_alone[:, 1])
        np.testing.assert_array_equal(head_alone[:, 0], head_alone[:, 2])
        assert not picture[uncovered & ~torso].any()
    assert all((maps[a] != maps[b]).any() for a in range(4) for b in range(a))


def test_attention_pictures_need_bytes() -> None:
    window = np.zeros((8, 29, 16), np.float32)
    with (
        Renderer(make_avatar(n=30), output="float32", config=ONE) as renderer,
        pytest.raises(InputError, match="8-bit"),
    ):
        renderer.render_attention(window)
