"""What a compiled deform network takes and gives: names, shapes, types, padding.

The one home of this knowledge: gt_export builds graphs to it, the TensorRT engine binds to it.
All arrays are C-contiguous in the splatter's own layout, so that a frame's outputs are the
rasterizer's inputs as they lie. The batch B is dynamic; the number of Gaussians is that of the
avatar rounded up, so that one set of kernels serves every avatar of that size and widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .. import _native
from ..avatar import Avatar
from ..avatar_network import CAMERA_WIDTH
from ..config import TIMING
from ..types import FloatArray
from .cpu import at_degree_3

__all__ = [
    "BATCHES",
    "PADDING_LOGIT",
    "PRECISIONS",
    "EnginePrecision",
    "TensorSpec",
    "avatar_inputs",
    "deform_tensors",
    "padded_count",
]

EnginePrecision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[EnginePrecision, ...] = get_args(EnginePrecision)

BATCHES = (1, 4, 32)  # optimisation profiles: one session, a few, many. The last is the most.
PADDING_LOGIT = -20.0  # of an invisible Gaussian: opacity 2e-9
_BLOCK = 4096  # Gaussians
_SH_COEFFICIENTS = 16

Role = Literal["frame", "avatar", "output"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        role: "frame", an input of every frame; "avatar", an input that stays; "output".
        dtype: "float32", "float16" or "bfloat16".
        shape: -1 stands for the batch.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]

    def bytes_at(self, batch: int) -> int:
        """How large the buffer for a batch is."""
        item = 4 if self.dtype == "float32" else 2
        return item * int(np.prod([batch if size == -1 else size for size in self.shape]))


def padded_count(count: int) -> int:
    """N rounded up to the engines' block of 4,096."""
    return -(-count // _BLOCK) * _BLOCK


def deform_tensors(
    avatar: Avatar, precision: EnginePrecision, *, attention: bool = False
) -> tuple[TensorSpec, ...]:
    """Inputs and outputs of the deform engine of an avatar, in the graph's order.

    Args:
        attention: whether the graph also gives the attention weights [B, L, N, 4].
    """
    network = avatar.network
    n, d = padded_count(len(avatar)), network.d_model
    window = (-1, TIMING.windows_per_frame, network.audio_channels, TIMING.steps_per_window)
    product = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]
    specs = [
        TensorSpec("window", "frame", "float32", window),
        TensorSpec("eye", "frame", "float32", (-1,)),
        TensorSpec("camera", "frame", "float32", (-1, CAMERA_WIDTH)),
        TensorSpec("features", "avatar", product, (n, d)),
        TensorSpec("canonical_means", "avatar", "float32", (n, 3)),
        TensorSpec("canonical_log_scales", "avatar", "float32", (n, 3)),
        TensorSpec("canonical_quats", "avatar", "float32", (n, 4)),
        TensorSpec("canonical_logit_opacities", "avatar", "float32", (n,)),
        TensorSpec("canonical_sh", "avatar", "float32", (n, _SH_COEFFICIENTS, 3)),
        TensorSpec("means", "output", "float32", (-1, n, 3)),
        TensorSpec("quats", "output", "float32", (-1, n, 4)),
        TensorSpec("scales", "output", "float32", (-1, n, 3)),
        TensorSpec("opacities", "output", "float32", (-1, n)),
        TensorSpec("sh", "output", "float32", (-1, n, _SH_COEFFICIENTS, 3)),
    ]
    if attention:
        specs.append(TensorSpec("attention", "output", "float32", (-1, len(network.layers), n, 4)))
    return tuple(specs)


def avatar_inputs(avatar: Avatar) -> dict[str, FloatArray]:
    """The inputs that stay, by name, float32 and padded; `features` is to be rounded to its type.

    Padding is Gaussians of the networks' zero feature whose logit keeps them invisible: a head
    would have to raise it by 14 for them to reach 1/255 (the exporter checks that none does).
    """
    gaussians, network = at_degree_3(avatar.gaussians, avatar.network)
    missing = padded_count(len(avatar)) - len(avatar)

    def pad(array: FloatArray, fill: float | Sequence[float] = 0.0) -> FloatArray:
        tail = np.broadcast_to(np.asarray(fill, np.float32), (missing, *array.shape[1:]))
        return np.concatenate([array, tail])

    return {
        "features": pad(_native.Model(gaussians, network).features()),
        "canonical_means": pad(gaussians.means),
        "canonical_log_scales": pad(gaussians.log_scales),
        "canonical_quats": pad(gaussians.quats, (1.0, 0.0, 0.0, 0.0)),
        "canonical_logit_opacities": pad(gaussians.logit_opacities, PADDING_LOGIT),
        "canonical_sh": pad(gaussians.sh),
    }
