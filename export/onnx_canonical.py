"""The canonical side as a graph: positions -> tri-plane features, on request F_can's attributes.

Rendering needs none of it: the runtime samples the planes once when an avatar is loaded. The graph
serves editing and comparison. It is float32 in every precision, since it is about positions.

F_can (MODEL section 1) predicted canonical attributes in training stage 1. A finished checkpoint
went on training both, so its outputs are compared with the torch F_can alone, never with the PLY.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gt_infer.avatar import Avatar
from gt_infer.engines.deform_io import TensorSpec, padded_count
from gt_infer.engines.tensorrt_build import Profile
from gt_infer.errors import CheckpointError

from .checkpoint import Checkpoint
from .onnx_export import OPSET, export_onnx
from .reference import ReferenceNetwork

__all__ = [
    "CanonicalGraph",
    "Predictor",
    "canonical_model",
    "canonical_profile",
    "canonical_tensors",
]

_USUAL_LARGEST = 1 << 17  # positions in one call; more where the avatar has more

_ROOT = "deformation_net.tri_plane."
# Our output -> F_can's head. All are raw, before activation.
_HEADS = {
    "log_scales": "scales",
    "quats": "rotations",
    "logit_opacities": "opacity",
    "sh": "shs",
}
_SCALE_OFFSET = -2.0  # of stage 1


class Predictor(nn.Module):
    """F_can: features [M, d] -> raw attributes by name, in the order of `names`.

    Args:
        state: of a checkpoint, under the official keys.
        d_model: width of the features.

    Raises: CheckpointError: its tensors are missing or do not fit each other.
    """

    def __init__(self, state: Mapping[str, Tensor], d_model: int) -> None:
        super().__init__()
        self.names = [
            ours for ours, theirs in _HEADS.items() if f"{_ROOT}{theirs}.1.weight" in state
        ]
        hidden = _linear(state, "feature_out.0", d_model)
        trunk = _linear(state, "feature_out.2", hidden.out_features)
        self.trunk = nn.Sequential(hidden, nn.ReLU(), trunk)
        self.heads = nn.ModuleDict()
        for name in self.names:
            hidden = _linear(state, f"{_HEADS[name]}.1", trunk.out_features)
            last = _linear(state, f"{_HEADS[name]}.3", hidden.out_features)
            self.heads[name] = nn.Sequential(nn.ReLU(), hidden, nn.ReLU(), last)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Predictor | None:
        """None when the checkpoint has no F_can, which some forks drop.

        Raises: CheckpointError: it has half of one.
        """
        iteration = f"iteration_{checkpoint.iteration}"
        path = checkpoint.directory / "point_cloud" / iteration / "deformation.pth"
        # Read before, and refused if it were damaged.
        state = torch.load(path, map_location="cpu", weights_only=True)
        if f"{_ROOT}feature_out.0.weight" not in state:
            return None
        return cls(state, checkpoint.network.d_model)

    def width(self, name: str) -> int:
        """How many numbers a head gives for a Gaussian."""
        last = self.heads[name][-1]  # type: ignore[index]
        return int(last.out_features)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        trunk = self.trunk(features)
        raw = {name: self.heads[name](trunk) for name in self.names}
        if "log_scales" in raw:
            raw["log_scales"] = raw["log_scales"] + _SCALE_OFFSET
        return raw


def _linear(state: Mapping[str, Tensor], name: str, inputs: int) -> nn.Linear:
    weight, bias = (state.get(f"{_ROOT}{name}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None:
        raise CheckpointError(f"{_ROOT}{name}: weight or bias is missing")
    if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{_ROOT}{name}: weight {list(weight.shape)} and bias {list(bias.shape)}, expected "
            f"[n, {inputs}] and [n]"
        )
    layer = nn.Linear(inputs, len(bias))
    layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return layer


class CanonicalGraph(nn.Module):
    """Positions [M, 3] -> features [M, d], then F_can's attributes when there is a predictor."""

    def __init__(self, avatar: Avatar, predictor: Predictor | None = None) -> None:
        super().__init__()
        self.networks = ReferenceNetwork.from_avatar(avatar).network
        self.predictor = predictor

    def forward(self, positions: Tensor) -> tuple[Tensor, ...]:
        features = self.networks.features(positions)
        if self.predictor is None:
            return (features,)
        return features, *self.predictor(features).values()


def canonical_tensors(avatar: Avatar, predictor: Predictor | None = None) -> tuple[TensorSpec, ...]:
    """Inputs and outputs; -1 is the number of positions."""
    names = [] if predictor is None else predictor.names
    return (
        TensorSpec("positions", "frame", "float32", (-1, 3)),
        TensorSpec("features", "output", "float32", (-1, avatar.network.d_model)),
        *(
            TensorSpec(f"predicted_{name}", "output", "float32", (-1, predictor.width(name)))
            for name in names
            if predictor is not None
        ),
    )


def canonical_profile(avatar: Avatar) -> Profile:
    """One position to the most, tuned for the avatar's own."""
    return {"positions": ((1, 3), (padded_count(len(avatar)), 3), (_largest(avatar), 3))}


def canonical_model(
    avatar: Avatar, predictor: Predictor | None = None, *, opset: int = OPSET
) -> Any:
    """The `onnx.ModelProto` of an avatar's canonical graph.

    Raises: GtError: torch cannot export it.
    """
    return export_onnx(
        CanonicalGraph(avatar, predictor),
        canonical_tensors(avatar, predictor),
        dynamic="count",
        largest=_largest(avatar),
        metadata={"graph": "canonical", "avatar": avatar.sha256, "opset": str(opset)},
        opset=opset,
    )


def _largest(avatar: Avatar) -> int:
    return max(padded_count(len(avatar)), _USUAL_LARGEST)
