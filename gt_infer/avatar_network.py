"""The networks of an avatar as plain arrays: their shapes, their rules, their tensor names.

What they compute is MODEL section 2; who computes it is an engine, or the reference network of
gt_export. Every width is read off the shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .avatar_parts import Checklist
from .config import TIMING
from .types import FloatArray

__all__ = ["HEAD_WIDTHS", "PLANE_AXES", "AttentionLayer", "Linear", "Network"]

# What each head moves and how many numbers that is; "sh" has 3 per coefficient.
HEAD_WIDTHS: Mapping[str, int | None] = {
    "means": 3,
    "scales": 3,
    "quats": 4,
    "opacities": 1,
    "sh": None,
}
PLANE_AXES = ("xy", "xz", "yz")  # the first axis of a pair is the plane's last dimension
EYE_ENCODING_WIDTH = 32
CAMERA_WIDTH = 12


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """An affine map, or a 1-D convolution of width 3.

    Attributes:
        weight: [out, in], or [out, in, 3] for a convolution, float32.
        bias: [out] float32, or None where the network has none.
    """

    weight: FloatArray
    bias: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AttentionLayer:
    """One cross-attention layer, [d, d] maps with bias; `ffn` is d -> h -> d with ReLU between.

    norm1 follows the attention, norm2 the ffn: gamma and beta [d] of a LayerNorm.
    """

    query: Linear
    key: Linear
    value: Linear
    concat: Linear
    norm1_gamma: FloatArray
    norm1_beta: FloatArray
    norm2_gamma: FloatArray
    norm2_beta: FloatArray
    ffn: tuple[Linear, Linear]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """All weights of one head, in the order in which a frame uses them.

    Attributes:
        aabb: [2, 3], row 0 the maximum and row 1 the minimum, as trained.
        planes: per level three arrays [C, R, R] for (x,y), (x,z), (y,z); a plane's last axis is
            the pair's first.
        audio_conv: convolutions, stride 2, padding 1, that take a window's 16 steps to 1;
            LeakyReLU(0.02) after each.
        audio_fc: LeakyReLU(0.02) between.
        attention_conv: convolutions, stride 1, padding 1, over the 8 windows, down to 1 channel;
            LeakyReLU(0.02) after each.
        attention_fc: [8, 8], then softmax over the windows.
        audio_mlp, eye_mlp: no bias, ReLU between; empty when the networks skip them (d_model 32).
        camera_mlp: no bias, ReLU between, from the 12 camera numbers.
        null_token: [d].
        layers: at least one.
        n_head: heads of every layer's attention.
        heads: what moves, by name: keys among `HEAD_WIDTHS`, each two maps d -> h -> width with
            ReLU before each. A head that is switched off is absent.
    """

    aabb: FloatArray
    planes: tuple[tuple[FloatArray, FloatArray, FloatArray], ...]
    audio_conv: tuple[Linear, ...]
    audio_fc: tuple[Linear, ...]
    attention_conv: tuple[Linear, ...]
    attention_fc: Linear
    audio_mlp: tuple[Linear, ...]
    eye_mlp: tuple[Linear, ...]
    camera_mlp: tuple[Linear, ...]
    null_token: FloatArray
    layers: tuple[AttentionLayer, ...]
    n_head: int
    heads: Mapping[str, tuple[Linear, Linear]]

    @property
    def d_model(self) -> int:
        """Width of features and tokens."""
        return int(self.null_token.shape[0])

    @property
    def audio_channels(self) -> int:
        """Channels of one audio feature step."""
        return int(self.audio_conv[0].weight.shape[1])

    def describe(self) -> dict[str, Any]:
        """The widths, for manifests and people."""
        return {
            "d_model": self.d_model,
            "layers": len(self.layers),
            "n_head": self.n_head,
            "audio_channels": self.audio_channels,
            "plane_channels": int(self.planes[0][0].shape[0]),
            "plane_sizes": [int(level[0].shape[-1]) for level in self.planes],
            "ffn_width": int(self.layers[0].ffn[0].weight.shape[0]),
            "heads": {
                name: int(self.heads[name][0].weight.shape[0])
                for name in HEAD_WIDTHS
                if name in self.heads
            },
        }

    def check(self, sh_coefficients: int) -> Checklist:
        """Everything that does not fit together; K = `sh_coefficients` is the Gaussians'."""
        return _NetworkCheck(self, sh_coefficients)

    def tensors(self) -> Iterator[tuple[str, FloatArray]]:
        """Every array with its name in the file."""
        yield "network.aabb", self.aabb
        for level, planes in enumerate(self.planes):
            for axes, plane in zip(PLANE_AXES, planes, strict=True):
                yield f"network.planes.{level}.{axes}", plane
        for name in _CHAINS:
            for index, linear in enumerate(getattr(self, name)):
                yield from _linear_tensors(f"network.{name}.{index}", linear)
        yield from _linear_tensors("network.attention_fc", self.attention_fc)
        yield "network.null_token", self.null_token
        for index, layer in enumerate(self.layers):
            where = f"network.layers.{index}"
            for name in _LAYER_MAPS:
                yield from _linear_tensors(f"{where}.{name}", getattr(layer, name))
            for name in _LAYER_NORMS:
                yield f"{where}.{name}", getattr(layer, name)
            for part, linear in enumerate(layer.ffn):
                yield from _linear_tensors(f"{where}.ffn.{part}", linear)
        for name, pair in self.heads.items():
            for part, linear in enumerate(pair):
                yield from _linear_tensors(f"network.heads.{name}.{part}", linear)

    @classmethod
    def from_tensors(cls, source: TensorSource, *, n_head: int, heads: Sequence[str]) -> Network:
        """The reverse of `tensors`. Not yet checked. Raises: what `source` raises."""
        take = source.take

        def linear(name: str) -> Linear:
            bias = f"{name}.bias"
            return Linear(take(f"{name}.weight"), take(bias) if source.has(bias) else None)

        def chain(name: str) -> tuple[Linear, ...]:
            length = count(f"network.{name}.{{}}.weight")
            return tuple(linear(f"network.{name}.{index}") for index in range(length))

        def layer(where: str) -> AttentionLayer:
            return AttentionLayer(
                query=linear(f"{where}.query"),
                key=linear(f"{where}.key"),
                value=linear(f"{where}.value"),
                concat=linear(f"{where}.concat"),
                norm1_gamma=take(f"{where}.norm1_gamma"),
                norm1_beta=take(f"{where}.norm1_beta"),
                norm2_gamma=take(f"{where}.norm2_gamma"),
                norm2_beta=take(f"{where}.norm2_beta"),
                ffn=(linear(f"{where}.ffn.0"), linear(f"{where}.ffn.1")),
            )

        def plane_level(where: str) -> tuple[FloatArray, FloatArray, FloatArray]:
            return take(f"{where}.xy"), take(f"{where}.xz"), take(f"{where}.yz")

        def count(pattern: str) -> int:
            """How many consecutive indices the source has under a name."""
            return next(i for i in itertools.count() if not source.has(pattern.format(i)))

        return cls(
            aabb=take("network.aabb"),
            planes=tuple(
                plane_level(f"network.planes.{level}")
                for level in range(count("network.planes.{}.xy"))
            ),
            **{name: chain(name) for name in _CHAINS},
            attention_fc=linear("network.attention_fc"),
            null_token=take("network.null_token"),
            layers=tuple(
                layer(f"network.layers.{index}")
                for index in range(count("network.layers.{}.query.weight"))
            ),
            n_head=n_head,
            heads={
                name: (linear(f"network.heads.{name}.0"), linear(f"network.heads.{name}.1"))
                for name in heads
            },
        )


class TensorSource(Protocol):
    """Where `Network.from_tensors` finds its arrays, by name."""

    def has(self, name: str) -> bool: ...

    def take(self, name: str) -> FloatArray: ...


_CHAINS = (
    "audio_conv",
    "audio_fc",
    "attention_conv",
    "audio_mlp",
    "eye_mlp",
    "camera_mlp",
)
_LAYER_MAPS = ("query", "key", "value", "concat")
_LAYER_NORMS = ("norm1_gamma", "norm1_beta", "norm2_gamma", "norm2_beta")


def _linear_tensors(name: str, linear: Linear) -> Iterator[tuple[str, FloatArray]]:
    yield f"{name}.weight", linear.weight
    if linear.bias is not None:
        yield f"{name}.bias", linear.bias


class _NetworkCheck(Checklist):
    """The rules between a network's shapes (MODEL section 1)."""

    def __init__(self, network: Network, sh_coefficients: int) -> None:
        super().__init__()
        self._network = network
        self.array("network.aabb", network.aabb, 2, 3)
        if network.aabb.shape == (2, 3) and np.any(network.aabb[0] == network.aabb[1]):
            self.refuse("network.aabb", "maximum and minimum are equal on an axis")
        width = None
        if self.array("network.null_token", network.null_token, None):
            width = network.d_model or None
            if width is None:
                self.refuse("network.null_token", "is empty")
        self._planes(width)
        if width is not None and (network.n_head < 1 or width % network.n_head):
            self.refuse(
                "n_head",
                f"{network.n_head} does not divide d_model = {width}. It comes from the "
                "checkpoint's cfg_args, or from gt-export --n-head.",
            )
        self._audio(width)
        self._chain("camera_mlp", CAMERA_WIDTH, width, bias=False)
        if not network.layers:
            self.refuse("network.layers.0", "is missing: one attention layer is the least")
        for index, layer in enumerate(network.layers):
            self._layer(f"network.layers.{index}", layer, width)
        for name, pair in network.heads.items():
            if name not in HEAD_WIDTHS:
                self.refuse(f"network.heads.{name}", f"not known, expected {list(HEAD_WIDTHS)}")
                continue
            out = HEAD_WIDTHS[name] or 3 * sh_coefficients
            self._pair(f"network.heads.{name}", pair, width, out)

    def _linear(
        self,
        name: str,
        linear: Linear,
        in_width: int | None,
        out_width: int | None,
        *,
        bias: bool,
        taps: tuple[int, ...] = (),
    ) -> int | None:
        """Check one map; return its output width, None when that is not known."""
        weight = linear.weight
        fits = self.array(f"{name}.weight", weight, out_width, in_width, *taps)
        out = int(weight.shape[0]) if fits and weight.size else None
        if fits and not weight.size:
            self.refuse(f"{name}.weight", f"empty, shape {list(weight.shape)}")
        if bias != (linear.bias is not None):
            self.refuse(f"{name}.bias", "is missing" if bias else "is not expected")
        elif linear.bias is not None:
            self.array(f"{name}.bias", linear.bias, out_width if out is None else out)
        return out

    def _planes(self, d_model: int | None) -> None:
        levels = self._network.planes
        channels = None
        if d_model is not None and levels:
            channels = d_model // len(levels)
            if d_model % len(levels):
                self.refuse("network.null_token", f"{d_model} wide for {len(levels)} plane levels")
                channels = None
        if not levels:
            self.refuse("network.planes.0.xy", "is missing: one level is the least")
        for level, planes in enumerate(levels):
            pixels = planes[0].shape[-1] if planes[0].ndim else None
            for axes, plane in zip(PLANE_AXES, planes, strict=True):
                self.array(f"network.planes.{level}.{axes}", plane, channels, pixels, pixels)
            if pixels is not None and pixels < 2:
                self.refuse(f"network.planes.{level}.xy", f"{pixels} pixels wide, 2 is the least")

    def _audio(self, d_model: int | None) -> None:
        network = self._network
        steps = TIMING.steps_per_window
        channels = self._chain("audio_conv", None, None, bias=True, taps=(3,))
        for _ in network.audio_conv:
            steps = (steps + 1) // 2
        if steps != 1:
            self.refuse(
                "network.audio_conv",
                f"{len(network.audio_conv)} layers leave {steps} of {TIMING.steps_per_window} "
                "steps, exactly 1 must be left",
            )
        audio_width = self._chain("audio_fc", channels, None, bias=True)
        self._chain("attention_conv", audio_width, 1, bias=True, taps=(3,))
        windows = TIMING.windows_per_frame
        self._linear("network.attention_fc", network.attention_fc, windows, windows, bias=True)
        for name, in_width in (("audio_mlp", audio_width), ("eye_mlp", EYE_ENCODING_WIDTH)):
            if getattr(network, name):
                self._chain(name, in_width, d_model, bias=False)
            elif in_width != d_model:
                self.refuse(
                    f"network.{name}.0.weight",
                    f"is missing: it can only be left out when its {in_width} inputs are already "
                    f"d_model = {d_model}",
                )

    def _layer(self, where: str, layer: AttentionLayer, d_model: int | None) -> None:
        for name in _LAYER_MAPS:
            self._linear(f"{where}.{name}", getattr(layer, name), d_model, d_model, bias=True)
        for name in _LAYER_NORMS:
            self.array(f"{where}.{name}", getattr(layer, name), d_model)
        self._pair(f"{where}.ffn", layer.ffn, d_model, d_model)

    def _pair(
        self, where: str, pair: tuple[Linear, Linear], in_width: int | None, out_width: int | None
    ) -> None:
        hidden = self._linear(f"{where}.0", pair[0], in_width, None, bias=True)
        self._linear(f"{where}.1", pair[1], hidden, out_width, bias=True)

    def _chain(
        self,
        name: str,
        in_width: int | None,
        out_width: int | None,
        *,
        bias: bool,
        taps: tuple[int, ...] = (),
    ) -> int | None:
        """Check that each layer takes what the one before gives; return what the last gives."""
        chain: tuple[Linear, ...] = getattr(self._network, name)
        if not chain:
            self.refuse(f"network.{name}.0.weight", "is missing")
        width = in_width
        for index, linear in enumerate(chain):
            out = out_width if index == len(chain) - 1 else None
            width = self._linear(
                f"network.{name}.{index}", linear, width, out, bias=bias, taps=taps
            )
        return width if chain else None
