"""The GPU's pictures and attributes against the CPU engine's and the repository's goldens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar, DeviceImage, EngineConfig, Pose, Renderer
from gt_infer.avatar import AudioFrontend
from gt_infer.engines.cuda import CudaEngine
from gt_infer.engines.cuda_api import load_cuda
from tests.gpu.goldens import GOLDENS, golden_inputs
from tests.synthetic import make_avatar

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one Gaussian": {"n": 1},
    "one more than a tile": {"n": 33},
    "two layers": {"layers": 2},
    "four heads": {"n_head": 4},
    "d_model 32": {"d_model": 32},
    "d_model 128": {"d_model": 128},
    "44 channels": {"channels": 44},
    "no offsets": {"heads": ()},
    "opacity and sh": {"heads": ("opacities", "sh")},
    "sh degree 1": {"sh_degree": 1},
    "two torsos": {"torsos": 2},
}
# What half-precision factors may cost a picture, and nearly-float32 ones.
LEAST_PSNR = {"fast": 40.0, "fp32": 60.0}
MOST_ATTRIBUTE_ERROR = {"fast": 2e-2, "fp32": 2e-4}


def psnr(one: Any, other: Any, peak: float = 255.0) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def open_renderer(avatar: Avatar, engine: str, precision: str = "fast", **options: Any) -> Renderer:
    device_output = options.pop("device_output", False)
    if engine == "cpu":
        precision = "fp32"  # the reference
    config = EngineConfig(precision=precision, device_output=device_output)  # type: ignore[arg-type]
    return Renderer(avatar, engine=engine, config=config, **options)  # type: ignore[arg-type]


def window(avatar: Avatar, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((8, avatar.network.audio_channels, 16), np.float32)


@pytest.mark.parametrize("precision", ["fast", "fp32"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "-"))
def test_any_avatar(shape: str, precision: str) -> None:
    avatar = make_avatar(**SHAPES[shape])
    camera = np.linspace(-1, 1, 12, dtype=np.float32)
    with (
        open_renderer(avatar, "cpu") as cpu,
        open_renderer(avatar, "cuda", precision) as gpu,
    ):
        want = cpu.deform(window(avatar), 0.3, camera, attention=True)
        got = gpu.deform(window(avatar), 0.3, camera, attention=True)
        for name in ("means", "scales", "quats", "opacities", "sh", "attention"):
            error = np.abs(getattr(got, name) - getattr(want, name)).max()
            assert error <= MOST_ATTRIBUTE_ERROR[precision], f"{name} is off by {error:.3g}"
        for index in range(3):  # as it is, then replayed
            pose = Pose.from_degrees(yaw=4.0 * index - 4)
            one = gpu.render_window(window(avatar, index), pose, blink=0.4)
            other = cpu.render_window(window(avatar, index), pose, blink=0.4)
            assert psnr(one, other) >= LEAST_PSNR[precision]


@pytest.mark.parametrize("output", ["rgb8", "bgr8", "rgba8", "float32"])
@pytest.mark.parametrize("background", [None, (10, 200, 30), "transparent"])
@pytest.mark.parametrize("size", [None, 200, (130, 90)])
def test_any_picture(output: str, background: Any, size: Any) -> None:
    avatar = make_avatar(torsos=2)
    options = {"output": output, "background": background, "size": size}
    with (
        open_renderer(avatar, "cpu", **options) as cpu,
        open_renderer(avatar, "cuda", "fp32", **options) as gpu,
    ):
        planes = [np.full((cpu.height, cpu.width), np.nan, np.float32) for _ in range(4)]
        for _ in range(2):
            want = cpu.render_window(window(avatar), alpha=planes[0], depth=planes[1])
            got = gpu.render_window(window(avatar), alpha=planes[2], depth=planes[3])
        assert psnr(got, want, 1.0 if output == "float32" else 255.0) >= LEAST_PSNR["fp32"]
        assert psnr(planes[2], planes[0], 1.0) >= LEAST_PSNR["fp32"]
        assert psnr(planes[3], planes[1], float(planes[1].max())) >= LEAST_PSNR["fp32"]


@pytest.mark.parametrize("precision", ["fast", "fp32"])
def test_goldens(demo: Avatar, precision: str) -> None:
    """Pictures and attributes that the repository keeps (tests/gpu/goldens.py makes them)."""
    with np.load(GOLDENS) as goldens, open_renderer(demo, "cuda", precision) as renderer:
        for index, (sound, pose, blink) in enumerate(golden_inputs(demo)):
            picture = renderer.render_window(sound, pose, blink=blink)
            assert psnr(picture, goldens[f"picture{index}"]) >= LEAST_PSNR[precision]
            got = renderer.deform(sound, blink, pose.camera_vector())
            for name in ("means", "scales", "quats", "opacities", "sh"):
                value = getattr(got, name)[goldens["subset"]]
                error = np.abs(value - goldens[f"{name}{index}"]).max()
                assert error <= MOST_ATTRIBUTE_ERROR[precision], f"{name} is off by {error:.3g}"


def test_replays_are_the_frame(demo: Avatar) -> None:
    with open_renderer(demo, "cuda") as renderer:
        first = renderer.render_window(window(demo))
        other = renderer.render_window(window(demo, 1))
        assert (first != other).any()
        for _ in range(5):
            np.testing.assert_array_equal(renderer.render_window(window(demo)), first)


def test_speech(demo: Avatar) -> None:
    chunks = (0.1 * np.random.default_rng(0).standard_normal((20, 640))).astype(np.float32)
    with open_renderer(demo, "cpu") as cpu, open_renderer(demo, "cuda") as gpu:
        for chunk in chunks:
            assert psnr(gpu.render(chunk), cpu.render(chunk)) >= LEAST_PSNR["fast"]


@pytest.mark.parametrize("count", [2, 5, 33])
def test_batches_are_the_sessions_own_frames(demo: Avatar, count: int) -> None:
    with open_renderer(demo, "cuda", device_output=True) as renderer:
        groups = [[renderer.session(seed=i) for i in range(count)] for _ in range(2)]
        for group in groups:
            for i, session in enumerate(group):
                rng = np.random.default_rng(i)
                session.push((0.1 * rng.standard_normal(640 * 9)).astype(np.float32))
        together = [renderer.render_many(groups[0]) for _ in range(3)]
        for i, session in enumerate(groups[1]):
            for frame, row in zip(session.frames(), together, strict=True):
                mine = row[i]
                assert mine is not None
                assert isinstance(mine.image, DeviceImage)
                assert isinstance(frame.image, DeviceImage)
                # The same arithmetic for every frame, wherever it lies in a batch.
                np.testing.assert_array_equal(mine.image.to_host(), frame.image.to_host())


class ShortLists:
    """The module, with lists that are too short at first."""

    def __init__(self) -> None:
        self.api = load_cuda()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)

    def Engine(self, model: Any, **options: Any) -> Any:  # noqa: N802
        return self.api.Engine(model, **{**options, "pairs": 64})


def test_lists_that_are_too_short_grow(demo: Avatar) -> None:
    with open_renderer(demo, "cuda") as renderer:
        want = renderer.render_window(window(demo))
        renderer._engine = CudaEngine(demo, EngineConfig(), ShortLists())  # type: ignore[arg-type]
        old: Any = renderer._canvas
        renderer._canvas = renderer._engine.prepare(old.canvas)
        np.testing.assert_array_equal(renderer.render_window(window(demo)), want)
        (batch,) = renderer._canvas._batches.values()
        assert batch.drawer.splatter.generation >= 1


def test_frames_from_sound(demo: Avatar) -> None:
    """Features on the device: the windows that the host computes, to float32's accuracy."""
    from gt_infer.audio import FrameWindows, frontend_from_avatar

    frontend: AudioFrontend = demo.frontend
    constants = frontend.constants
    assert constants is not None
    api: Any = load_cuda()
    logmel = api.LogMel(
        0,
        np.asarray(constants.mean, np.float64),
        np.asarray(constants.std, np.float64),
        sample_rate=constants.sample_rate,
        hop=constants.hop,
        window=constants.window,
        n_fft=constants.n_fft,
        f_min=constants.f_min,
        f_max=constants.f_max,
        eps=constants.eps,
    )
    sound = (0.1 * np.random.default_rng(3).standard_normal(640 * 30)).astype(np.float32)
    windows = FrameWindows(frontend_from_avatar(frontend))
    windows.push(sound)
    frame = 15
    stage = api.InputStage(0, 1, samples=logmel.samples)
    start = 640 * frame - 5320
    stage.set(
        0,
        sound=sound[start : start + logmel.samples],
        span=[0, 30, 0, 8],
        eye=0.0,
        camera=np.zeros(12, np.float32),
        viewmat=np.eye(4, dtype=np.float32),
        focal=1.0,
        width=16,
        height=16,
    )
    engine = CudaEngine(demo, EngineConfig(precision="fp32"))
    core = api.Engine(engine._model, logmel, batch=1, width=16, height=16)
    out = api.DeviceArray((1, 8, 29, 16), "float32", engine._stream)
    stage.upload(engine._stream)
    core.features(1, stage, out, engine._stream)
    engine._stream.synchronize()
    np.testing.assert_allclose(out.to_host()[0], windows.window(frame), atol=2e-3)
