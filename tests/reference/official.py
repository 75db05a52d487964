"""A few lines that read the official layout, so that the references stand apart from gt_export.

Good for the checkpoints and the dataset of the tests only: nothing is validated.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt


def read_checkpoint(folder: Path) -> tuple[Any, Any]:
    """(network, gaussians) of a model folder, named as the references expect."""
    (step,) = folder.glob("point_cloud/iteration_*")
    return read_network(step / "deformation.pth"), read_ply(step / "point_cloud.ply")


def read_ply(path: Path) -> Any:
    raw = path.read_bytes()
    head, body = raw.split(b"end_header\n", 1)
    names = re.findall(rb"property float (\w+)", head)
    columns = np.frombuffer(body, "<f4").reshape(-1, len(names)).T
    column = {name.decode(): values for name, values in zip(names, columns, strict=True)}

    def stack(*keys: str) -> npt.NDArray[np.float32]:
        return np.stack([column[key] for key in keys], axis=1)

    dc = stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None, :]
    rest = stack(*(f"f_rest_{i}" for i in range(45))).reshape(-1, 3, 15).transpose(0, 2, 1)
    return SimpleNamespace(
        means=stack("x", "y", "z"),
        log_scales=stack("scale_0", "scale_1", "scale_2"),
        quats=stack("rot_0", "rot_1", "rot_2", "rot_3"),
        logit_opacities=column["opacity"],
        sh=np.concatenate([dc, rest], axis=1),
    )


def read_network(path: Path, n_head: int = 2) -> Any:
    import torch

    state = {
        name.removeprefix("deformation_net."): value.numpy()
        for name, value in torch.load(path, map_location="cpu", weights_only=True).items()
    }

    def linear(prefix: str) -> Any:
        return SimpleNamespace(weight=state[f"{prefix}.weight"], bias=state.get(f"{prefix}.bias"))

    def linears(prefix: str, *indices: int) -> tuple[Any, ...]:
        return tuple(linear(f"{prefix}.{i}") for i in indices)

    def layer(prefix: str) -> Any:
        attention = f"{prefix}.enc_dec_attention.w_"
        return SimpleNamespace(
            query=linear(attention + "q"),
            key=linear(attention + "k"),
            value=linear(attention + "v"),
            concat=linear(attention + "concat"),
            norm1_gamma=state[f"{prefix}.norm1.gamma"],
            norm1_beta=state[f"{prefix}.norm1.beta"],
            norm2_gamma=state[f"{prefix}.norm2.gamma"],
            norm2_beta=state[f"{prefix}.norm2.beta"],
            ffn=(linear(f"{prefix}.ffn.linear1"), linear(f"{prefix}.ffn.linear2")),
        )

    n_layer = len({m[1] for m in map(re.compile(r"transformer\.layers\.(\d+)").match, state) if m})
    return SimpleNamespace(
        aabb=state["tri_plane.grid.aabb"],
        planes=tuple(
            tuple(state[f"tri_plane.grid.grids.{level}.{plane}"][0] for plane in range(3))
            for level in range(2)
        ),
        audio_conv=linears("audio_net.encoder_conv", 0, 2, 4, 6),
        audio_fc=linears("audio_net.encoder_fc1", 0, 2),
        attention_conv=linears("audio_att_net.attentionConvNet", 0, 2, 4, 6, 8),
        attention_fc=linear("audio_att_net.attentionNet.0"),
        audio_mlp=linears("audio_mlp.net", 0, 1),
        eye_mlp=linears("eye_mlp.net", 0, 1),
        camera_mlp=linears("cam_mlp.net", 0, 1),
        null_token=state["null_vector"].reshape(-1),
        layers=tuple(layer(f"transformer.layers.{i}") for i in range(n_layer)),
        n_head=n_head,
        heads={
            name: linears(prefix, 1, 3)
            for name, prefix in [
                ("means", "pos_deform"),
                ("scales", "scales_deform"),
                ("quats", "rotations_deform"),
                ("opacities", "opacity_deform"),
                ("sh", "shs_deform"),
            ]
        },
    )


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """RGB or RGBA, as stored. A JPEG is within 1/255 of what libjpeg makes of it, nearly always
    equal: the integer transform is libjpeg's but for the rounding of 1 value in 70."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"idct": "int"}
        frame = next(container.decode(video=0))
        channels = "rgba" if "a" in frame.format.name else "rgb24"
        return frame.to_ndarray(format=channels)


def read_background(dataset: Path) -> npt.NDArray[np.float64]:
    """[512, 512, 3] in [0, 1]: anna's torso, the same in every frame, over the backdrop."""
    from . import splat

    torso = read_image(dataset / "torso_imgs/0.png")
    return splat.over(torso, read_image(dataset / "bc.jpg"))
