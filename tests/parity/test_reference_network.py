"""The torch reference network against vectors computed by the authors' own network code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer.avatar import Avatar, Linear, save_avatar
from tests.synthetic import make_avatar

torch = pytest.importorskip("torch", reason="the reference network needs torch")

from gt_export.checkpoint import read_checkpoint  # noqa: E402
from gt_export.reference import Deformed, ReferenceNetwork  # noqa: E402

# Golden key -> our field and the largest absolute difference allowed: twice what another float32
# implementation reached (MODEL section 8), since BLAS libraries sum in their own order.
OUTPUTS = {
    "means": ("means", 6e-6),
    "scales_raw": ("log_scales", 2.6e-5),
    "scales": ("scales", 1e-6),
    "rotations_raw": ("raw_quats", 2.6e-5),
    "rotations": ("quats", 2.6e-5),
    "opacity_raw": ("logit_opacities", 1.8e-4),
    "opacity": ("opacities", 4.5e-5),
    "shs": ("sh", 6e-6),
    "attention": ("attention", 4e-5),
}
INPUTS = {"audio", "eye", "cam", "subset", "N"}
# Of the pose, which tests of the camera use.
CAMERA = {
    "world_view_transform",
    "full_proj_transform",
    "projection_matrix",
    "camera_center",
    "R",
    "T",
    "FoVx",
    "FoVy",
    "focal",
    "cx",
    "cy",
    "euler",
    "trans",
    "frames",
    "what",
}
WHOLE = [name for name in OUTPUTS if name != "attention"]  # full_mean_*, full_rms_*


def run(network: ReferenceNetwork, audio: Any, eye: Any, camera: Any) -> dict[str, np.ndarray]:
    """One batch as numpy arrays by our names."""
    with torch.inference_mode():
        deformed = network(*(torch.as_tensor(x) for x in (audio, eye, camera)))
    return {name: getattr(deformed, name).detach().numpy() for name in Deformed._fields}


def golden_layout(array: np.ndarray, key: str) -> np.ndarray:
    return array[..., None] if key.startswith("opacity") else array


@pytest.mark.parametrize(
    ("name", "frames", "outputs"),
    [
        ("A", 12, list(OUTPUTS)),
        ("small", 4, ["means", "scales", "rotations", "opacity", "shs", "attention"]),
    ],
)
def test_golden_vectors(shared: Path, name: str, frames: int, outputs: list[str]) -> None:
    folder = shared / "checkpoints" / name
    checkpoint = read_checkpoint(folder)
    network = ReferenceNetwork.from_checkpoint(checkpoint)
    archive = np.load(folder / "golden_deform.npz")
    golden = {key: archive[key] for key in archive.files}
    statistics = {f"full_{kind}_{key}" for kind in ("mean", "rms") for key in WHOLE}
    assert set(golden) == INPUTS | set(outputs) | (CAMERA | statistics if name == "A" else set())
    assert len(golden["audio"]) == frames
    assert golden["N"] == len(checkpoint.gaussians.means)

    subset = golden["subset"]
    for frame in range(frames):
        got = run(
            network,
            golden["audio"][frame : frame + 1],
            golden["eye"][frame],
            golden["cam"][frame : frame + 1],
        )
        for key in outputs:
            ours, tolerance = OUTPUTS[key]
            whole = golden_layout(got[ours][0], key)
            picked = whole[:, subset] if key == "attention" else whole[subset]
            assert picked.shape == golden[key][frame].shape
            worst = np.abs(picked - golden[key][frame]).max()
            assert worst <= tolerance, f"{key}, frame {frame}: {worst:.2e}"
            if f"full_mean_{key}" in golden:
                wide = whole.astype(np.float64)
                means = {"mean": wide.mean(axis=0), "rms": np.sqrt((wide**2).mean(axis=0))}
                for kind, value in means.items():
                    difference = np.abs(value - golden[f"full_{kind}_{key}"][frame]).max()
                    assert difference <= tolerance, f"{key}, frame {frame}, {kind}"


def test_a_file_computes_what_its_checkpoint_does(shared: Path, tmp_path: Path) -> None:
    """fp32 storage changes nothing at all; fp16 stays a rounding error away."""
    checkpoint = read_checkpoint(shared / "checkpoints" / "small")
    golden = np.load(shared / "checkpoints" / "small" / "golden_deform.npz")
    inputs = golden["audio"], golden["eye"][:, 0], golden["cam"]
    expected = run(ReferenceNetwork.from_checkpoint(checkpoint), *inputs)

    from gt_export.cli import main

    for storage, tolerance in (("fp32", 0.0), ("fp16", 0.02)):
        path = tmp_path / f"{storage}.safetensors"
        assert main([str(checkpoint.directory), "-o", str(path), "--storage", storage]) == 0
        got = run(ReferenceNetwork.from_avatar(Avatar.load(path)), *inputs)
        for name, array in got.items():
            assert np.abs(array - expected[name]).max() <= tolerance, (storage, name)
        assert storage == "fp32" or np.abs(got["sh"] - expected["sh"]).max() > 0


# What the golden vectors do not reach.


def inputs_for(avatar: Avatar, count: int, seed: int = 1) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((count, 8, avatar.network.audio_channels, 16), np.float32),
        rng.random(count, np.float32),
        rng.standard_normal((count, 12), np.float32),
    )


@pytest.mark.parametrize(
    "variant",
    [
        {"d_model": 32},
        {"d_model": 128, "n_head": 4},
        {"channels": 44},
        {"layers": 3},
        {"sh_degree": 1},
    ],
    ids=str,
)
def test_other_widths_match_the_float64_reference(variant: dict[str, Any]) -> None:
    from tests.reference import network as float64

    avatar = make_avatar(n=60, **variant)
    windows, eye, camera = inputs_for(avatar, 1)
    got = run(ReferenceNetwork.from_avatar(avatar), windows, eye, camera)
    expected = float64.deform(
        avatar.network, avatar.gaussians, windows[0], float(eye[0]), camera[0]
    )
    for name in Deformed._fields:
        # Ten times what float32 rounding was seen to do here.
        np.testing.assert_allclose(
            got[name][0], getattr(expected, name), rtol=0, atol=2e-5, err_msg=name
        )


def test_faint_features_show_the_norm_epsilon() -> None:
    """1e-12, not the usual 1e-5: LayerNorm brings features of any size to the same one."""
    from tests.reference import network as float64

    avatar = make_avatar(n=30)
    network = avatar.network
    silent = Linear(np.zeros((64, 64), np.float32), np.zeros(64, np.float32))
    faint = dataclasses.replace(
        network,
        planes=tuple(
            tuple(plane * np.float32(0.03) for plane in level) for level in network.planes
        ),
        layers=(dataclasses.replace(network.layers[0], concat=silent),),
    )
    avatar = dataclasses.replace(avatar, network=faint)
    windows, eye, camera = inputs_for(avatar, 1)
    got = run(ReferenceNetwork.from_avatar(avatar), windows, eye, camera)
    expected = float64.deform(faint, avatar.gaussians, windows[0], float(eye[0]), camera[0])
    np.testing.assert_allclose(got["sh"][0], expected.sh, rtol=0, atol=2e-5)


def test_heads_that_are_off_leave_the_canonical_values() -> None:
    avatar = make_avatar(n=20, heads=("quats",))
    got = run(ReferenceNetwork.from_avatar(avatar), *inputs_for(avatar, 2))
    canonical = avatar.gaussians
    for name in ("means", "log_scales", "logit_opacities", "sh"):
        for frame in range(2):
            np.testing.assert_array_equal(got[name][frame], getattr(canonical, name))
    assert np.abs(got["raw_quats"] - canonical.quats).min(axis=-1).max() > 0


def test_a_batch_is_its_frames() -> None:
    avatar = make_avatar(n=30, layers=2)
    network = ReferenceNetwork.from_avatar(avatar)
    windows, eye, camera = inputs_for(avatar, 3)
    together = run(network, windows, eye, camera)
    for i in range(3):
        alone = run(network, windows[i : i + 1], eye[i : i + 1], camera[i : i + 1])
        for name in Deformed._fields:
            np.testing.assert_allclose(
                together[name][i], alone[name][0], rtol=0, atol=2e-5, err_msg=name
            )


def test_parameters_carry_the_names_of_the_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    avatar = make_avatar(n=10, layers=2)
    save_avatar(avatar, tmp_path / "x")
    stored = {
        name: array
        for name, array in load_file(tmp_path / "x").items()
        if name.startswith(("gaussians.", "network."))
    }
    state = ReferenceNetwork.from_avatar(avatar).state_dict()
    assert state.keys() == stored.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(state[name].numpy(), array, err_msg=name)


def test_it_can_be_trained() -> None:
    """Gradients reach every parameter: what training builds on."""
    avatar = make_avatar(n=200, layers=2)
    network = ReferenceNetwork.from_avatar(avatar)
    deformed = network(*(torch.as_tensor(x) for x in inputs_for(avatar, 2)))
    loss = sum(
        (getattr(deformed, name) ** 2).mean()
        for name in ("means", "scales", "raw_quats", "opacities", "sh")
    )
    loss.backward()
    without = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert without == []
