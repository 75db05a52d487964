"""The native engine against vectors and pictures made by the published model's own computation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar, EngineConfig, Pose, Renderer, _native
from gt_infer.avatar import save_avatar
from gt_infer.media import read_image

# Golden key -> attribute of Gaussians. Every key of the file is either here, an input or left out
# with its reason below: a key that is missing must fail.
OUTPUTS = {
    "means": "means",
    "scales": "scales",
    "rotations": "quats",
    "opacity": "opacities",
    "shs": "sh",
    "attention": "attention",
}
TOLERANCE = 2e-4
ATTENTION_TOLERANCE = 1e-4
EVERY_ISA = ("amx", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable")


@pytest.fixture(params=EVERY_ISA)
def config(request: pytest.FixtureRequest) -> EngineConfig:
    if request.param not in _native.available_isas():
        pytest.skip(f"this machine or build has no {request.param}")
    return EngineConfig(precision="fp32", isa=request.param)


def golden(shared: Path, name: str) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "checkpoints" / name / "golden_deform.npz"))


def compare(avatar: Avatar, vectors: dict[str, np.ndarray], config: EngineConfig) -> None:
    subset = vectors["subset"]
    with Renderer(avatar, config=config) as renderer:
        for i in range(len(vectors["audio"])):
            got = renderer.deform(
                vectors["audio"][i],
                float(vectors["eye"][i, 0]),
                vectors["cam"][i],
                attention=True,
            )
            for key, attribute in OUTPUTS.items():
                want = vectors[key][i]
                value = getattr(got, attribute)
                value = (
                    value[:, subset] if key == "attention" else value[subset].reshape(want.shape)
                )
                limit = ATTENTION_TOLERANCE if key == "attention" else TOLERANCE
                error = np.abs(value.astype(np.float64) - want).max()
                assert error <= limit, f"vector {i}: {key} is off by {error:.3g}"


def test_checkpoint_a(shared: Path, avatar_a: Avatar, config: EngineConfig) -> None:
    vectors = golden(shared, "A")
    assert len(vectors["frames"]) == 12
    compare(avatar_a, vectors, config)


def test_two_layers(shared: Path, avatar_small: Avatar, config: EngineConfig) -> None:
    vectors = golden(shared, "small")
    assert vectors["attention"].shape[1] == 2
    compare(avatar_small, vectors, config)


def frame_inputs(vectors: dict[str, np.ndarray], i: int) -> tuple[Any, Pose, float]:
    pose = Pose.from_tracking(vectors["euler"][i], vectors["trans"][i])
    return vectors["audio"][i], pose, float(vectors["eye"][i, 0])


def test_golden_frames(shared: Path, avatar_a: Avatar, config: EngineConfig) -> None:
    vectors = golden(shared, "A")
    with Renderer(avatar_a, config=config) as renderer:
        for i, frame in enumerate(vectors["frames"]):
            window, pose, blink = frame_inputs(vectors, i)
            got = renderer.render_window(window, pose, blink=blink).astype(int)
            want = read_image(shared / "checkpoints" / "A" / "golden_frames" / f"{frame}.png")
            error = got - want[..., :3]
            assert np.abs(error).max() <= 2, f"frame {frame}"
            psnr = 10 * np.log10(255**2 / max((error**2).mean(), 1e-12))
            assert psnr >= 50, f"frame {frame}: {psnr:.1f} dB"
            # Only rounding of single values is left; a systematic error would show here first.
            assert (error != 0).mean() < 1e-4, f"frame {frame}"


def test_golden_floats(shared: Path, avatar_a: Avatar, config: EngineConfig) -> None:
    vectors = golden(shared, "A")
    floats = np.load(shared / "checkpoints" / "A" / "golden_float.npz")
    with Renderer(avatar_a, output="float32", config=config) as renderer:
        for k, frame in enumerate(floats["frames"]):
            (i,) = np.flatnonzero(vectors["frames"] == frame)
            window, pose, blink = frame_inputs(vectors, int(i))
            alpha, depth = (np.full((512, 512), np.nan, np.float32) for _ in range(2))
            image = renderer.render_window(window, pose, blink=blink, alpha=alpha, depth=depth)
            for name, got in (("image", image), ("alpha", alpha), ("depth", depth)):
                want = floats[name][k].astype(np.float64)
                error = np.abs(got - want) / want.max()
                assert error.max() <= 2e-3 if name != "image" else error.max() <= 1 / 255, name
                assert error.mean() < 1e-6, name


def test_half_precision_storage_shows_nowhere(
    shared: Path, avatar_a: Avatar, tmp_path: Path
) -> None:
    vectors = golden(shared, "A")
    path = tmp_path / "half.safetensors"
    save_avatar(avatar_a, path, storage="fp16")
    assert path.stat().st_size < 12_000_000
    with Renderer(avatar_a) as exact, Renderer(path) as half:
        for i, frame in enumerate(vectors["frames"]):
            window, pose, blink = frame_inputs(vectors, i)
            a, b = (r.render_window(window, pose, blink=blink).astype(int) for r in (exact, half))
            psnr = 10 * np.log10(255**2 / ((a - b) ** 2).mean())
            assert psnr >= 50, f"frame {frame}: {psnr:.1f} dB"


@pytest.mark.parametrize("has_poses", [True, False])
@pytest.mark.parametrize("isa", ["amx", "avx512vnni", "avx2vnni"])
def test_fast_pictures(shared: Path, avatar_a: Avatar, isa: str, has_poses: bool) -> None:
    """What precision "fast" may cost, over the golden frames; gt-bench measures 200. With poses,
    example frames show which hidden units matter; without, that is guessed."""
    if not has_poses:
        avatar_a = replace(avatar_a, poses=None)
    if isa not in _native.available_isas():
        pytest.skip(f"this machine or build has no {isa}")
    vectors = golden(shared, "A")
    exact_config, fast_config = (EngineConfig(precision=p, isa=isa) for p in ("fp32", "fast"))
    psnrs, strays = [], []
    with (
        Renderer(avatar_a, config=exact_config) as exact,
        Renderer(avatar_a, config=fast_config) as fast,
    ):
        for i in range(len(vectors["frames"])):
            window, pose, blink = frame_inputs(vectors, i)
            a, b = (r.render_window(window, pose, blink=blink).astype(int) for r in (exact, fast))
            psnrs.append(10 * np.log10(255**2 / ((a - b) ** 2).mean()))
            strays.append((np.abs(a - b).max(axis=-1) > 8).mean())
    assert np.mean(psnrs) >= 60
    assert min(psnrs) >= 55
    assert np.mean(strays) <= 1e-5
