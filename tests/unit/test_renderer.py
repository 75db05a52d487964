"""Renderer's contract: one chunk in, one frame out, and clear refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gt_infer import (
    AudioError,
    AvatarError,
    ClosedError,
    EngineConfig,
    InputError,
    LifeConfig,
    Pose,
    Renderer,
)
from tests.synthetic import make_avatar

CHUNK = 640
# Poses and blinks that are left out: the mean pose, open eyes.
STILL = LifeConfig(idle_motion=False, blinking=False, silence_gate=None)


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    with Renderer(make_avatar(n=100), config=EngineConfig(threads=1), life=STILL) as renderer:
        yield renderer


def sound(chunks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, chunks * CHUNK).astype(np.float32)


def chunks_of(samples: np.ndarray) -> np.ndarray:
    return samples.reshape(-1, CHUNK)


def frames_of(renderer: Renderer, samples: np.ndarray, **options: Any) -> list[np.ndarray]:
    frames = [renderer.render(chunk, **options) for chunk in chunks_of(samples)]
    return frames + list(renderer.flush(**options))


def test_constants(renderer: Renderer) -> None:
    assert (renderer.sample_rate, renderer.fps, renderer.chunk_samples) == (16_000, 25, CHUNK)
    assert renderer.latency == pytest.approx(0.28)
    assert (renderer.width, renderer.height) == (64, 64)
    assert renderer.describe()["engine"] == "cpu"


def test_frames_come_six_chunks_late_and_none_is_lost(renderer: Renderer) -> None:
    samples = sound(10)
    frames = frames_of(renderer, samples)
    assert len(frames) == 6 + 10
    windows = renderer.windows()
    expected = {}
    for frame in windows.push(samples):
        expected[frame] = renderer.render_window(windows.window(frame))
    due = windows.n_ready
    for frame in range(due, windows.flush()):
        expected[frame] = renderer.render_window(windows.window(frame))
    for index, image in enumerate(frames):
        np.testing.assert_array_equal(image, expected[index - 6])
    rest = renderer.render_window(windows.rest_window())
    for image in frames[:6]:
        np.testing.assert_array_equal(image, rest)
    assert any((image != rest).any() for image in frames[6:])


@pytest.mark.parametrize("chunks", [0, 1, 3, 6, 7])
def test_flush_owes_at_most_what_was_given(renderer: Renderer, chunks: int) -> None:
    for chunk in chunks_of(sound(chunks)):
        renderer.render(chunk)
    assert len(list(renderer.flush())) == min(chunks, 6)


def test_flush_and_reset_start_over(renderer: Renderer) -> None:
    samples = sound(8)
    first = frames_of(renderer, samples)
    again = frames_of(renderer, samples)
    renderer.render(chunks_of(samples)[0])
    renderer.reset()
    third = frames_of(renderer, samples)
    for other in (again, third):
        assert len(other) == len(first)
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_int16_and_float32_chunks_are_the_same_sound(renderer: Renderer) -> None:
    whole = (sound(8) * 32767).astype(np.int16)
    a = frames_of(renderer, whole)
    b = frames_of(renderer, whole.astype(np.float32) / 32768)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("lookahead", [0, 2, 6])
def test_lookahead_is_the_delay(lookahead: int) -> None:
    config = EngineConfig(threads=1)
    with Renderer(make_avatar(n=50), lookahead=lookahead, config=config) as renderer:
        assert renderer.latency == pytest.approx((lookahead + 1) / 25)
        frames = frames_of(renderer, sound(9))
        assert len(frames) == 9 + lookahead


def test_out_is_filled_and_returned(renderer: Renderer) -> None:
    out = np.full((64, 64, 3), 7, np.uint8)
    chunk = sound(1)
    assert renderer.render(chunk, out=out) is out
    renderer.reset()
    np.testing.assert_array_equal(out, renderer.render(chunk))


def test_pose_and_blink_change_the_picture(renderer: Renderer) -> None:
    window = renderer.windows().rest_window()
    base = renderer.render_window(window)
    np.testing.assert_array_equal(base, renderer.render_window(window, Pose.from_degrees()))
    np.testing.assert_array_equal(base, renderer.render_window(window, blink=0.0))
    assert (base != renderer.render_window(window, Pose.from_degrees(yaw=10))).any()
    assert (base != renderer.render_window(window, blink=1.0)).any()


@pytest.mark.parametrize(
    "output, channels", [("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("float32", 3)]
)
def test_outputs(output: Any, channels: int) -> None:
    with Renderer(make_avatar(n=50), output=output, config=EngineConfig(threads=1)) as renderer:
        image = renderer.render(sound(1))
    assert image.shape == (64, 64, channels)
    assert image.dtype == (np.float32 if output == "float32" else np.uint8)


@pytest.mark.parametrize("size, shape", [(64, (64, 64)), (128, (128, 128)), ((96, 64), (64, 96))])
def test_sizes(size: Any, shape: tuple[int, int]) -> None:
    with Renderer(make_avatar(n=50), size=size, config=EngineConfig(threads=1)) as renderer:
        assert renderer.render(sound(1)).shape == (*shape, 3)


def test_enlarged_picture_is_the_same_view() -> None:
    avatar = make_avatar(n=400)
    config = EngineConfig(threads=1)
    with Renderer(avatar, output="float32", config=config) as renderer:
        small = renderer.render(sound(1))
    with Renderer(avatar, output="float32", size=192, config=config) as renderer:
        large = renderer.render(sound(1))
    # Three times as large: every third pixel has the centre of a small one, and the dilation
    # grows along. What may differ are faint tails, cut at other tile borders.
    same_centers = large[1::3, 1::3]
    assert np.abs(same_centers - small).max() < 0.03
    assert np.abs(same_centers - small).mean() < 1e-3
    assert np.abs(large[::3, 1::3] - small).mean() > 0.01


@pytest.mark.parametrize(
    "chunk, complaint",
    [
        (np.zeros(639, np.float32), r"chunk: expected \[640\] samples .* got \[639\]"),
        (np.zeros((640, 1), np.float32), r"got \[640, 1\]"),
        (np.zeros(640, np.float64), "chunk: expected .* float64"),
        ([0.0] * 640, "got list"),
    ],
)
def test_wrong_chunks_are_refused(renderer: Renderer, chunk: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        renderer.render(chunk)


def test_a_refused_call_leaves_the_stream_as_it_was(renderer: Renderer) -> None:
    samples = sound(8)
    want = frames_of(renderer, samples)
    got = []
    bad = samples[:CHUNK].copy()
    bad[3] = np.nan
    for chunk in chunks_of(samples):
        for attempt in (
            lambda: renderer.render(bad),
            lambda chunk=chunk: renderer.render(chunk, blink=2.0),
            lambda chunk=chunk: renderer.render(chunk, out=np.zeros((3, 3, 3), np.uint8)),
            lambda chunk=chunk: renderer.render(chunk, "left"),  # type: ignore[arg-type]
        ):
            with pytest.raises((InputError, AudioError)):
                attempt()
        got.append(renderer.render(chunk))
    got += list(renderer.flush())
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"engine": "gpu"}, "engine = 'gpu': this version has"),
        ({"size": 63}, "from 64 to 2048"),
        ({"size": (64, 4096)}, "height"),
        ({"size": "big"}, "size = 'big'"),
        ({"output": "jpeg"}, "output = 'jpeg': must be one of rgb8"),
        ({"background": (1, 2)}, "background"),
        ({"background": (1, 2, 256)}, "0 to 255"),
        ({"background": np.zeros((4, 4), np.uint8)}, r"uint8 \[H, W, 3\]"),
        ({"lookahead": 7}, "must be 0 to 6"),
        ({"lookahead": True}, "must be 0 to 6"),
        ({"config": "fast"}, "config: expected a gt_infer.EngineConfig or None, got str"),
        ({"life": 1}, "life: expected a gt_infer.LifeConfig"),
        ({"avatar": None}, "avatar: expected a path"),
        ({"avatar": b"demo"}, "avatar: expected a path"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Renderer(**{"avatar": make_avatar(n=5), **options})


def test_wrong_outputs_are_refused(renderer: Renderer) -> None:
    window = renderer.windows().rest_window()
    with pytest.raises(InputError, match=r"out: expected uint8 \[64, 64, 3\], got float32"):
        renderer.render_window(window, out=np.zeros((64, 64, 3), np.float32))
    with pytest.raises(InputError, match="C-contiguous and writeable"):
        renderer.render_window(window, out=np.zeros((64, 64, 6), np.uint8)[..., ::2])
    with pytest.raises(InputError, match=r"alpha: expected float32 \[64, 64\]"):
        renderer.render_window(window, alpha=np.zeros((4, 4), np.float32))


def test_wrong_deform_inputs_are_refused(renderer: Renderer) -> None:
    window, camera = np.zeros((8, 29, 16), np.float32), np.zeros(12, np.float32)
    with pytest.raises(
        InputError, match=r"window: expected float32 \[8, 29, 16\], got .*\[8, 16, 29\]"
    ):
        renderer.deform(np.zeros((8, 16, 29), np.float32), 0.0, camera)
    with pytest.raises(InputError, match=r"camera: expected float32 \[12\]"):
        renderer.deform(window, 0.0, np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="blink"):
        renderer.deform(window, float("nan"), camera)
    with pytest.raises(InputError, match="NaN or inf"):
        renderer.deform(window + np.float32(np.nan), 0.0, camera)


def test_use_after_close_raises(renderer: Renderer) -> None:
    renderer.close()
    renderer.close()
    for use in (
        lambda: renderer.render(sound(1)),
        lambda: list(renderer.flush()),
        lambda: renderer.reset(),
        lambda: renderer.render_window(np.zeros((8, 29, 16), np.float32)),
    ):
        with pytest.raises(ClosedError):
            use()


def test_missing_avatar_is_named() -> None:
    with pytest.raises(AvatarError, match=r"nobody\.safetensors"):
        Renderer("nobody.safetensors")


def test_avatar_on_unknown_features_still_renders_windows() -> None:
    with Renderer(make_avatar(n=30, channels=44), config=EngineConfig(threads=1)) as renderer:
        with pytest.raises(AudioError, match="44-channel"):
            renderer.render(sound(1))
        assert renderer.render_window(np.zeros((8, 44, 16), np.float32)).shape == (64, 64, 3)
