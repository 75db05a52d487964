"""The deform network as it is compiled: a frame's inputs to the splatter's input buffers.

MODEL section 2, steps 2 to 7, with the exact algebra at its end: per frame the tokens are folded
into the query, key, value and output maps, so that a Gaussian's attention is 4 H dot products and
4 H scaled adds; the heads' first layers are one product. `ReferenceNetwork` is what it must equal.

Precision is by types, since TensorRT takes it from them alone: products over Gaussians are in the
product type, and islands stay float32. docs/export.md has what each island is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gt_infer.avatar import AttentionLayer, Avatar, Linear
from gt_infer.avatar_network import HEAD_WIDTHS
from gt_infer.engines.cpu import at_degree_3
from gt_infer.engines.deform_io import BATCHES, EnginePrecision, deform_tensors
from gt_infer.types import FloatArray

from .onnx_export import OPSET, export_onnx
from .reference import NORM_EPS, ReferenceNetwork, eye_frequencies

__all__ = ["PRODUCT_TYPES", "DeformGraph", "Islands", "deform_model"]

PRODUCT_TYPES: dict[EnginePrecision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# 2 pi in two parts: up to 1024 times the first is exact in float32.
_TURN_HIGH = 6.28125
_TURN_LOW = 2 * math.pi - _TURN_HIGH


def deform_model(avatar: Avatar, precision: EnginePrecision, *, attention: bool = False) -> Any:
    """The `onnx.ModelProto` of an avatar's deform network.

    Raises: GtError: torch cannot export it.
    """
    return export_onnx(
        DeformGraph(avatar, precision, attention=attention),
        deform_tensors(avatar, precision, attention=attention),
        dynamic="batch",
        largest=BATCHES[-1],
        metadata={
            "graph": "deform",
            "avatar": avatar.sha256,
            "precision": precision,
            "opset": str(OPSET),
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Islands:
    """What stays float32 when products do not.

    Attributes:
        eye: the blink's encoding, whose frequencies reach 5623 rad.
        tokens: all that is computed once a frame: the audio, eye and camera networks, the folding.
        softmax: attention scores with their constants, and the softmax.
        norms: the residual sums and LayerNorm.
        attributes: canonical attribute + offset, and the activations.
    """

    eye: bool = True
    tokens: bool = True
    softmax: bool = True
    norms: bool = True
    attributes: bool = True


class DeformGraph(nn.Module):
    """One avatar's networks; the inputs and outputs are those of `deform_io.deform_tensors`.

    Args:
        precision: of the products.
        attention: also give the attention weights.
        islands: for measuring what each is worth.
    """

    def __init__(
        self,
        avatar: Avatar,
        precision: EnginePrecision,
        *,
        attention: bool = False,
        islands: Islands | None = None,
    ) -> None:
        super().__init__()
        islands = islands or Islands()
        gaussians, network = at_degree_3(avatar.gaussians, avatar.network)
        product = PRODUCT_TYPES[precision]

        def type_of(is_island: bool) -> torch.dtype:
            return torch.float32 if is_island else product

        self._product = product
        self._attention = attention
        self._encoding_type = type_of(islands.eye)
        self._attribute_type = type_of(islands.attributes)
        self._token_type = type_of(islands.tokens)
        self.networks = ReferenceNetwork(gaussians, network).network.to(self._token_type)
        self.layers = nn.ModuleList(
            _FoldedLayer(
                layer,
                network.n_head,
                self._token_type,
                product,
                softmax=type_of(islands.softmax),
                norm=type_of(islands.norms),
            )
            for layer in network.layers
        )
        self.heads = _Heads(network.heads, product, self._attribute_type)
        self.frequencies = nn.Buffer(eye_frequencies().to(self._encoding_type))

    def forward(
        self,
        window: Tensor,
        eye: Tensor,
        camera: Tensor,
        features: Tensor,
        canonical_means: Tensor,
        canonical_log_scales: Tensor,
        canonical_quats: Tensor,
        canonical_logit_opacities: Tensor,
        canonical_sh: Tensor,
    ) -> tuple[Tensor, ...]:
        tokens = self._tokens(window, eye, camera)
        x = features[None]
        attention = []
        for layer in self.layers:
            x, weights = layer(x, tokens)
            attention.append(weights)
        offsets = self.heads(x)

        def moved(head: str, canonical: Tensor) -> Tensor:
            raw = canonical.to(self._attribute_type).expand(window.shape[0], *canonical.shape)
            return raw + offsets[head].reshape(raw.shape) if head in offsets else raw

        means = moved("means", canonical_means)
        raw_quats = moved("quats", canonical_quats)
        scales = moved("scales", canonical_log_scales).exp()
        opacities = moved("opacities", canonical_logit_opacities).sigmoid()
        sh = moved("sh", canonical_sh)
        quats = raw_quats / raw_quats.square().sum(dim=-1, keepdim=True).sqrt()
        outputs = [means, quats, scales, opacities, sh]
        if self._attention:
            outputs.append(torch.stack(attention, dim=1))
        return tuple(output.float() for output in outputs)

    def _tokens(self, window: Tensor, eye: Tensor, camera: Tensor) -> Tensor:
        """[B, 4, d]."""
        networks, kind = self.networks, self._token_type
        audio = networks.audio_mlp(networks.audio(window.to(kind)))
        blink = networks.eye_mlp(self._encode_eye(eye).to(kind))
        view = networks.camera_mlp(camera.to(kind))
        return torch.stack([audio, blink, view, networks.null_token.expand_as(view)], dim=1)

    def _encode_eye(self, eye: Tensor) -> Tensor:
        """As the reference, with phases brought to one turn first: a GPU's fast sine is accurate
        only there."""
        phases = eye.to(self._encoding_type)[:, None] * self.frequencies
        turns = torch.round(phases * (1 / (2 * math.pi)))
        phases = (phases - turns * _TURN_HIGH) - turns * _TURN_LOW
        is_sine = torch.arange(phases.shape[1]) % 2 == 0
        return torch.where(is_sine, phases.sin(), phases.cos())


class _FoldedLayer(nn.Module):
    """Cross-attention whose maps are folded with the tokens, then the feed-forward part."""

    def __init__(
        self,
        layer: AttentionLayer,
        heads: int,
        token: torch.dtype,
        product: torch.dtype,
        *,
        softmax: torch.dtype,
        norm: torch.dtype,
    ) -> None:
        super().__init__()
        width = len(layer.norm1_gamma)
        self._heads, self._product, self._softmax, self._norm = heads, product, softmax, norm
        self.key, self.value = _Affine(layer.key, token), _Affine(layer.value, token)
        # Per head [H, d/H, d] and [H, d/H, 1]: what a key meets on the query's side, ...
        scale = np.float32(1 / math.sqrt(width // heads))
        query, query_bias = layer.query.weight * scale, _bias(layer.query) * scale
        self.query = _constant(query.reshape(heads, -1, width), token)
        self.query_bias = _constant(query_bias.reshape(heads, -1, 1), token)
        # ... and what a value becomes in the output.
        self.concat = _constant(layer.concat.weight.T.reshape(heads, -1, width), token)
        self.concat_bias = _constant(_bias(layer.concat), product)
        self.norm1 = _Norm(layer.norm1_gamma, layer.norm1_beta, norm)
        self.norm2 = _Norm(layer.norm2_gamma, layer.norm2_beta, norm)
        self.ffn_hidden, self.ffn_out = (_Affine(linear, product) for linear in layer.ffn)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """x [1 or B, N, d] in the product type, tokens [B, 4, d] -> new x [B, N, d] and attention
        [B, N, 4] (mean over heads)."""
        keys, values = (
            linear(tokens).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for linear in (self.key, self.value)
        )
        directions = (keys @ self.query).flatten(1, 2).transpose(1, 2)  # [B, d, 4H]
        constants = (keys @ self.query_bias).flatten(1)[:, None]  # [B, 1, 4H]
        steps = (values @ self.concat).flatten(1, 2)  # [B, 4H, d]

        scores = (x @ directions.to(self._product)).to(self._softmax) + constants.to(self._softmax)
        weights = scores.unflatten(-1, (self._heads, -1)).softmax(dim=-1)
        mixed = weights.flatten(-2).to(self._product) @ steps.to(self._product) + self.concat_bias
        x = self._add_and_norm(x, mixed, self.norm1)
        x = self._add_and_norm(x, self.ffn_out(functional.relu(self.ffn_hidden(x))), self.norm2)
        return x, weights.mean(dim=-2)

    def _add_and_norm(self, x: Tensor, change: Tensor, norm: _Norm) -> Tensor:
        normed: Tensor = norm(x.to(self._norm) + change.to(self._norm))
        return normed.to(self._product)


class _Heads(nn.Module):
    """All heads: one product for their hidden layers, then one each."""

    def __init__(
        self,
        heads: Mapping[str, tuple[Linear, Linear]],
        product: torch.dtype,
        result: torch.dtype,
    ) -> None:
        super().__init__()
        self._names = [name for name in HEAD_WIDTHS if name in heads]
        hidden = [heads[name][0] for name in self._names]
        self._widths = [len(linear.weight) for linear in hidden]
        if hidden:
            weight = np.concatenate([linear.weight for linear in hidden])
            bias = np.concatenate([_bias(linear) for linear in hidden])
            self.hidden = _Affine(Linear(weight, bias), product)
        self.out = nn.ModuleList(_Affine(heads[name][1], product, result) for name in self._names)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Offsets by head, [B, N, width], in the attributes' type."""
        if not self._names:
            return {}
        hidden = functional.relu(self.hidden(functional.relu(x)))
        parts = torch.split(hidden, self._widths, dim=-1)
        return {
            name: out(part) for name, out, part in zip(self._names, self.out, parts, strict=True)
        }


class _Affine(nn.Module):
    """x W + b with W [in, out]: the product in one type, the sum with b in the result's."""

    def __init__(
        self, linear: Linear, product: torch.dtype, result: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self._result = result or product
        self.weight = _constant(linear.weight.T, product)
        self.bias = _constant(_bias(linear), self._result)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).to(self._result) + self.bias


class _Norm(nn.Module):
    def __init__(self, gamma: FloatArray, beta: FloatArray, kind: torch.dtype) -> None:
        super().__init__()
        self.gamma, self.beta = _constant(gamma, kind), _constant(beta, kind)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.gamma.shape, self.gamma, self.beta, NORM_EPS)


def _bias(linear: Linear) -> FloatArray:
    assert linear.bias is not None  # checked when the avatar was read
    return linear.bias


def _constant(array: FloatArray, kind: torch.dtype) -> nn.Parameter:
    tensor = torch.tensor(np.ascontiguousarray(array)).to(kind)
    return nn.Parameter(tensor, requires_grad=False)
