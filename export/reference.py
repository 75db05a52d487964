"""The reference network: one frame's deformation in plain torch, straight from MODEL section 2.

It is what the fast engines are compared with, what ONNX graphs are exported from and what training
optimises, so it is written for clarity: no identity is used to save work. Parameters carry the
avatar file's tensor names (`network.audio_conv.0.weight`), so a state dict and a file correspond.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gt_infer.avatar import AttentionLayer, Avatar, CanonicalGaussians, Linear, Network
from gt_infer.avatar_network import EYE_ENCODING_WIDTH, HEAD_WIDTHS, PLANE_AXES

from .checkpoint import Checkpoint

__all__ = ["NORM_EPS", "Deformed", "ReferenceNetwork", "eye_frequencies"]

_LEAKY_SLOPE = 0.02
NORM_EPS = 1e-12
_AXIS_INDEX = {"x": 0, "y": 1, "z": 2}


class Deformed(NamedTuple):
    """A batch of B frames of N Gaussians, raw and activated, in the checkpoint's order.

    Attributes:
        means: [B, N, 3], head space.
        log_scales, scales: [B, N, 3].
        raw_quats, quats: [B, N, 4], w x y z; quats have length 1.
        logit_opacities, opacities: [B, N].
        sh: [B, N, K, 3].
        attention: [B, L, N, 4], weights of the audio, eye, camera and null token, mean over heads.
    """

    means: Tensor
    log_scales: Tensor
    scales: Tensor
    raw_quats: Tensor
    quats: Tensor
    logit_opacities: Tensor
    opacities: Tensor
    sh: Tensor
    attention: Tensor


class ReferenceNetwork(nn.Module):
    """Canonical Gaussians and the networks that move them, in float32, on any torch device.

    Args:
        gaussians, network: valid ones, as an `Avatar` or a `Checkpoint` holds them; copied.

    Accuracy: largest absolute difference from the authors' own float32 network: means and sh 5e-6,
    log_scales and quats 2e-5, logit_opacities 1.5e-4, attention 3e-5
    (tests/parity/test_reference_network.py).
    """

    def __init__(self, gaussians: CanonicalGaussians, network: Network) -> None:
        super().__init__()
        names = [field.name for field in dataclasses.fields(gaussians)]
        self.gaussians = nn.ParameterDict(
            {name: _empty(getattr(gaussians, name).shape) for name in names}
        )
        self.network = _Networks(network)
        arrays = {f"gaussians.{name}": getattr(gaussians, name) for name in names}
        arrays.update(network.tensors())
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> ReferenceNetwork:
        """The network of a checkpoint in the official layout."""
        return cls(checkpoint.gaussians, checkpoint.network)

    @classmethod
    def from_avatar(cls, avatar: Avatar) -> ReferenceNetwork:
        """The network of an avatar file, with its rounding if it is stored as fp16."""
        return cls(avatar.gaussians, avatar.network)

    def forward(self, windows: Tensor, eye: Tensor, camera: Tensor) -> Deformed:
        """Deform all Gaussians for B frames.

        Args:
            windows: [B, 8, C, 16] audio features.
            eye: [B], blink in [0, 1].
            camera: [B, 12], Rc row-major and Tc (MODEL section 4).
        """
        canonical = self.gaussians
        offsets, attention = self.network(canonical["means"], windows, eye, camera)

        def moved(head: str, name: str) -> Tensor:
            raw: Tensor = canonical[name].expand(len(windows), *canonical[name].shape)
            return raw + offsets[head].reshape(raw.shape) if head in offsets else raw

        log_scales = moved("scales", "log_scales")
        raw_quats = moved("quats", "quats")
        logit_opacities = moved("opacities", "logit_opacities")
        return Deformed(
            means=moved("means", "means"),
            log_scales=log_scales,
            scales=log_scales.exp(),
            raw_quats=raw_quats,
            quats=functional.normalize(raw_quats, dim=-1),
            logit_opacities=logit_opacities,
            opacities=logit_opacities.sigmoid(),
            sh=moved("sh", "sh"),  # the head's 3K outputs are [K, 3], coefficient-major
            attention=attention,
        )


class _Networks(nn.Module):
    """Features, tokens, attention, heads."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.aabb = nn.Buffer(torch.empty(2, 3))
        self.planes = nn.ModuleList(_PlaneLevel(planes[0].shape) for planes in network.planes)
        self.audio_conv = _convolutions(network.audio_conv, stride=2)
        self.audio_fc = _Chain(network.audio_fc, _leaky)
        self.attention_conv = _convolutions(network.attention_conv, stride=1)
        self.attention_fc = _linear(network.attention_fc)
        self.audio_mlp = _Chain(network.audio_mlp)
        self.eye_mlp = _Chain(network.eye_mlp)
        self.camera_mlp = _Chain(network.camera_mlp)
        self.null_token = _empty(network.null_token.shape)
        self.layers = nn.ModuleList(
            _AttentionBlock(layer, network.n_head) for layer in network.layers
        )
        self.heads = nn.ModuleDict(
            {name: _Chain(network.heads[name]) for name in HEAD_WIDTHS if name in network.heads}
        )

    def forward(
        self, means: Tensor, windows: Tensor, eye: Tensor, camera: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Offsets by head, [B, N, width], and attention [B, L, N, 4]."""
        tokens = self.tokens(windows, eye, camera)
        features = self.features(means)
        x = features.expand(len(tokens), *features.shape)
        attention = []
        for layer in self.layers:
            x, weights = layer(x, tokens)
            attention.append(weights)
        offsets = {name: head(functional.relu(x)) for name, head in self.heads.items()}
        return offsets, torch.stack(attention, dim=1)

    def features(self, means: Tensor) -> Tensor:
        """Tri-plane features [N, d] of canonical positions [N, 3] (step 1)."""
        high, low = self.aabb
        # As trained: row 0 is the maximum, so positions run downwards.
        positions = (means - high) * (2 / (low - high)) - 1
        return torch.cat([level(positions) for level in self.planes], dim=-1)

    def tokens(self, windows: Tensor, eye: Tensor, camera: Tensor) -> Tensor:
        """Audio, eye, camera and null token, [B, 4, d] (steps 2 to 4)."""
        audio = self.audio_mlp(self.audio(windows))
        blink = self.eye_mlp(_encode_eye(eye))
        view = self.camera_mlp(camera)
        return torch.stack([audio, blink, view, self.null_token.expand_as(view)], dim=1)

    def audio(self, windows: Tensor) -> Tensor:
        """One vector per frame from its 8 windows: [B, 8, C, 16] -> [B, a]."""
        batch, count = windows.shape[:2]
        x = windows.flatten(0, 1)
        for layer in self.audio_conv:
            x = _leaky(layer(x))
        encoded = self.audio_fc(x.squeeze(-1)).reshape(batch, count, -1)
        scores = encoded.transpose(1, 2)
        for layer in self.attention_conv:
            scores = _leaky(layer(scores))
        weights = self.attention_fc(scores.squeeze(1)).softmax(dim=-1)
        return torch.einsum("bw,bwa->ba", weights, encoded)


class _Chain(nn.ModuleList):
    """Affine maps with an activation between them; none at all returns its input."""

    def __init__(
        self, linears: Iterable[Linear], activation: Callable[[Tensor], Tensor] = functional.relu
    ) -> None:
        super().__init__(_linear(linear) for linear in linears)
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self):
            x = layer(self._activation(x) if index else x)
        return x


class _PlaneLevel(nn.Module):
    """Three planes [C, R, R]; a position's feature is the product of its three samples."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.xy, self.xz, self.yz = _empty(shape), _empty(shape), _empty(shape)

    def forward(self, positions: Tensor) -> Tensor:
        """Positions [N, 3], -1 to 1 inside the box -> [N, C]."""
        product = positions.new_ones(())
        for axes in PLANE_AXES:
            grid = positions[:, [_AXIS_INDEX[axis] for axis in axes]]
            samples = functional.grid_sample(
                getattr(self, axes)[None],
                grid[None, :, None],
                mode="bilinear",
                padding_mode="border",
                align_corners=True,
            )
            product = product * samples[0, :, :, 0].T
        return product


class _AttentionBlock(nn.Module):
    """Cross-attention from Gaussians to tokens, then the feed-forward part (step 5)."""

    def __init__(self, layer: AttentionLayer, n_head: int) -> None:
        super().__init__()
        self.query, self.key = _linear(layer.query), _linear(layer.key)
        self.value, self.concat = _linear(layer.value), _linear(layer.concat)
        width = layer.norm1_gamma.shape
        self.norm1_gamma, self.norm1_beta = _empty(width), _empty(width)
        self.norm2_gamma, self.norm2_beta = _empty(width), _empty(width)
        self.ffn = _Chain(layer.ffn)
        self.n_head = n_head

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, N, d], tokens [B, 4, d] -> new x, attention [B, N, 4] (mean over heads)."""
        queries, keys, values = (
            linear(data).reshape(*data.shape[:-1], self.n_head, -1).transpose(1, 2)
            for linear, data in ((self.query, x), (self.key, tokens), (self.value, tokens))
        )
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        weights = scores.softmax(dim=-1)
        mixed = self.concat((weights @ values).transpose(1, 2).flatten(-2))
        x = _layer_norm(x + mixed, self.norm1_gamma, self.norm1_beta)
        x = _layer_norm(x + self.ffn(x), self.norm2_gamma, self.norm2_beta)
        return x, weights.mean(dim=1)


def eye_frequencies() -> Tensor:
    """[32], what a blink is multiplied with: up to 5623 rad. Even ones are for sines, odd ones for
    cosines."""
    exponents = 2 * (torch.arange(EYE_ENCODING_WIDTH) // 2) / EYE_ENCODING_WIDTH
    return torch.pow(10000.0, exponents)


def _encode_eye(eye: Tensor) -> Tensor:
    """Blink [B] -> [B, 32]."""
    phases = eye[:, None] * eye_frequencies().to(eye)
    is_sine = torch.arange(EYE_ENCODING_WIDTH, device=eye.device) % 2 == 0
    return torch.where(is_sine, phases.sin(), phases.cos())


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, _LEAKY_SLOPE)


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return functional.layer_norm(x, gamma.shape, gamma, beta, NORM_EPS)


def _empty(shape: Sequence[int]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _linear(linear: Linear) -> nn.Linear:
    out, inputs = linear.weight.shape
    return nn.Linear(inputs, out, bias=linear.bias is not None)


def _convolutions(linears: Iterable[Linear], stride: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Conv1d(inputs, out, taps, stride=stride, padding=1)
        for out, inputs, taps in (linear.weight.shape for linear in linears)
    )
