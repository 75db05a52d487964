"""Writes small models and datasets in the official layout, for tests of what reads them.

Knows names and conventions by heart, apart from gt_export, so that the two check each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gt_infer.avatar import Avatar, CanonicalGaussians, Linear, Network

State = dict[str, Any]

SETTINGS: dict[str, object] = {
    "sh_degree": 3,
    "white_background": True,
    "no_dx": False,
    "no_ds": False,
    "no_dr": False,
    "no_do": False,
    "no_dshs": False,
    "empty_voxel": False,
    "static_mlp": False,
    "apply_rotation": False,
    "n_head": 2,
    "n_layer": 1,
    "kplanes_config": {"resolution": [64, 64, 64]},
}


def write_model(
    folder: Path,
    avatar: Avatar,
    *,
    iteration: int = 10000,
    settings: dict[str, object] | None = None,
    state: State | None = None,
) -> Path:
    """MODEL_DIR with cfg_args and one iteration; returns the iteration's folder."""
    import torch

    step = folder / "point_cloud" / f"iteration_{iteration}"
    step.mkdir(parents=True)
    write_cfg_args(folder / "cfg_args", {"n_layer": len(avatar.network.layers), **(settings or {})})
    write_ply(step / "point_cloud.ply", avatar.gaussians)
    torch.save(state_dict(avatar.network) if state is None else state, step / "deformation.pth")
    torch.save(torch.zeros(3), step / "deformation_table.pth")
    torch.save(torch.zeros(3), step / "deformation_accum.pth")
    return step


def write_cfg_args(path: Path, settings: dict[str, object]) -> None:
    pairs = (f"{key}={value!r}" for key, value in (SETTINGS | settings).items())
    path.write_text(f"Namespace({', '.join(pairs)})")


def write_ply(path: Path, gaussians: CanonicalGaussians) -> None:
    count, coefficients, _ = gaussians.sh.shape
    rest = gaussians.sh[:, 1:].transpose(0, 2, 1).reshape(count, -1)  # channel-major
    columns = np.concatenate(
        [
            gaussians.means,
            np.zeros((count, 3), np.float32),
            gaussians.sh[:, 0],
            rest,
            gaussians.logit_opacities[:, None],
            gaussians.log_scales,
            gaussians.quats,
        ],
        axis=1,
    )
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    path.write_bytes("\n".join(header).encode() + columns.astype("<f4").tobytes())


def state_dict(network: Network) -> State:
    """The official state dict, with the modules that inference does not use."""
    import torch

    arrays: dict[str, np.ndarray] = {
        "null_vector": network.null_token[None, None],
        "tri_plane.grid.aabb": network.aabb,
    }

    def put(name: str, linear: Linear) -> None:
        arrays[f"{name}.weight"] = linear.weight
        if linear.bias is not None:
            arrays[f"{name}.bias"] = linear.bias

    for level, planes in enumerate(network.planes):
        for index, plane in enumerate(planes):
            arrays[f"tri_plane.grid.grids.{level}.{index}"] = plane[None]
    for i, linear in enumerate(network.audio_conv):
        put(f"audio_net.encoder_conv.{2 * i}", linear)
    for i, linear in enumerate(network.audio_fc):
        put(f"audio_net.encoder_fc1.{2 * i}", linear)
    for i, linear in enumerate(network.attention_conv):
        put(f"audio_att_net.attentionConvNet.{2 * i}", linear)
    put("audio_att_net.attentionNet.0", network.attention_fc)
    spare = (Linear(np.ones((64, 32), np.float32)), Linear(np.ones((network.d_model, 64), "f4")))
    for name, chain in (
        ("audio_mlp", network.audio_mlp or spare),  # stored even where the model skips them
        ("eye_mlp", network.eye_mlp or spare),
        ("cam_mlp", network.camera_mlp),
        ("aud_ch_att_net", spare),
        ("eye_att_net", spare),
        ("enc_x_mlp", spare),
    ):
        for i, linear in enumerate(chain):
            put(f"{name}.net.{i}", linear)
    for i, layer in enumerate(network.layers):
        where = f"transformer.layers.{i}"
        put(f"{where}.enc_dec_attention.w_q", layer.query)
        put(f"{where}.enc_dec_attention.w_k", layer.key)
        put(f"{where}.enc_dec_attention.w_v", layer.value)
        put(f"{where}.enc_dec_attention.w_concat", layer.concat)
        arrays[f"{where}.norm1.gamma"], arrays[f"{where}.norm1.beta"] = (
            layer.norm1_gamma,
            layer.norm1_beta,
        )
        arrays[f"{where}.norm2.gamma"], arrays[f"{where}.norm2.beta"] = (
            layer.norm2_gamma,
            layer.norm2_beta,
        )
        put(f"{where}.ffn.linear1", layer.ffn[0])
        put(f"{where}.ffn.linear2", layer.ffn[1])
    for ours, theirs in (
        ("means", "pos_deform"),
        ("scales", "scales_deform"),
        ("quats", "rotations_deform"),
        ("opacities", "opacity_deform"),
        ("sh", "shs_deform"),
    ):
        if ours in network.heads:
            put(f"{theirs}.1", network.heads[ours][0])
            put(f"{theirs}.3", network.heads[ours][1])
    for name, linear in f_can(network.d_model).items():
        put(f"tri_plane.{name}", linear)
    state = {f"deformation_net.{name}": torch.tensor(array) for name, array in arrays.items()}
    return state | {"pos_poc": torch.zeros(10), "opacity_poc": torch.zeros(2)}


def f_can(d_model: int) -> dict[str, Linear]:
    """The canonical attribute predictor: its trunk, then two maps per attribute."""
    rng = np.random.default_rng(4)

    def linear(out: int, inputs: int) -> Linear:
        weight = rng.standard_normal((out, inputs)) / np.sqrt(inputs)
        return Linear(weight.astype(np.float32), rng.standard_normal(out).astype(np.float32))

    maps = {"feature_out.0": linear(16, d_model), "feature_out.2": linear(16, 16)}
    for name, width in (("scales", 3), ("rotations", 4), ("opacity", 1), ("shs", 48)):
        maps |= {f"{name}.1": linear(16, 16), f"{name}.3": linear(width, 16)}
    return maps


def write_dataset(folder: Path, *, frames: int = 6, size: int = 64) -> dict[str, np.ndarray]:
    """A processed recording of noise; returns euler, trans [M, 3], blink [M], backdrop, torsos.

    The first `frames - 1` of them train. JPEG loses: the backdrop is given as Pillow reads it.
    """
    import torch
    from PIL import Image

    rng = np.random.default_rng(5)
    euler = rng.uniform(-0.3, 0.3, (frames, 3)).astype(np.float32)
    trans = (rng.uniform(-0.2, 0.2, (frames, 3)) - [0, 0, 10.8]).astype(np.float32)
    intensity = rng.uniform(0, 3, frames).round(2)
    backdrop = rng.integers(0, 256, (size, size, 3), np.uint8)
    torsos = rng.integers(0, 256, (frames, size, size, 4), np.uint8)

    (folder / "torso_imgs").mkdir(parents=True)
    Image.fromarray(backdrop).save(folder / "bc.jpg", quality=90)
    for i, torso in enumerate(torsos):
        Image.fromarray(torso).save(folder / "torso_imgs" / f"{i}.png")
    torch.save(
        {"euler": torch.tensor(euler), "trans": torch.tensor(trans)}, folder / "track_params.pt"
    )
    rows = [f"{i + 1}, {value}" for i, value in enumerate(intensity)]
    (folder / "au.csv").write_text("\n".join(["frame, AU45_r", *rows]))
    entries = [
        {"img_id": i, "aud_id": i, "transform_matrix": transform_matrix(euler[i], trans[i])}
        for i in range(frames - 1)
    ]
    transforms = {"focal_len": 150.0, "cx": size / 2, "cy": size / 2, "frames": entries}
    (folder / "transforms_train.json").write_text(json.dumps(transforms))
    return {
        "euler": euler,
        "trans": trans,
        "blink": (np.clip(intensity, 0, 2) / 2).astype(np.float32),
        "backdrop": np.asarray(Image.open(folder / "bc.jpg")),
        "torsos": torsos,
    }


def transform_matrix(euler: np.ndarray, trans: np.ndarray) -> list[list[float]]:
    """[R^T | -R^T trans / 10] with R = Rx(pitch) Ry(yaw) Rz(roll), MODEL section 4."""
    (px, py, pz), (sx, sy, sz) = np.cos(euler.astype(float)), np.sin(euler.astype(float))
    rotation = (
        np.array([[1, 0, 0], [0, px, -sx], [0, sx, px]])
        @ np.array([[py, 0, sy], [0, 1, 0], [-sy, 0, py]])
        @ np.array([[pz, sz, 0], [-sz, pz, 0], [0, 0, 1]])
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T
    matrix[:3, 3] = -rotation.T @ trans / 10
    rows: list[list[float]] = matrix.tolist()
    return rows
