"""The networks of an avatar as plain arrays: their shapes, their rules, their tensor names.

What they compute is MODEL section 2; who computes it is an engine, or the reference network of
gt_export. Every width is read off the shapes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .config import TIMING
from .errors import AvatarError
from .types import FloatArray

__all__ = ["HEAD_WIDTHS", "PLANE_AXES", "AttentionLayer", "Linear", "Network", "check_array"]

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

    def check(self, sh_coefficients: int) -> None:
        """Refuse anything that does not fit together. Raises: AvatarError naming the tensor."""
        _check_network(self, sh_coefficients)

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


def check_array(name: str, array: np.ndarray[Any, Any], *shape: int | None) -> None:
    """Refuse another shape (None = any size), another dtype than float32, NaN and inf.

    Raises: AvatarError naming the tensor and, for values, the first bad index.
    """
    fits = len(array.shape) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise AvatarError(f"{name}: expected shape [{wanted}], got {list(array.shape)}")
    if array.dtype != np.float32:
        raise AvatarError(f"{name}: expected float32, got {array.dtype}")
    # A sum is NaN or inf whenever a term is: one pass without a temporary of the same size. Only
    # a sum that overflows by itself needs the slow look, which then finds nothing.
    with np.errstate(all="ignore"):
        total = float(np.sum(array, dtype=np.float64))
    if not math.isfinite(total):
        bad = np.argwhere(~np.isfinite(array))
        index = ", ".join(str(i) for i in bad[0])
        raise AvatarError(
            f"{name}[{index}] = {array[tuple(bad[0])]}: {len(bad)} of {array.size} values are NaN "
            "or infinite. The training diverged, or the file is damaged."
        )


def _linear_tensors(name: str, linear: Linear) -> Iterator[tuple[str, FloatArray]]:
    yield f"{name}.weight", linear.weight
    if linear.bias is not None:
        yield f"{name}.bias", linear.bias


def _check_network(network: Network, sh_coefficients: int) -> None:
    check_array("network.aabb", network.aabb, 2, 3)
    if np.any(network.aabb[0] == network.aabb[1]):
        raise AvatarError(
            f"network.aabb = {network.aabb.tolist()}: maximum and minimum are equal on an axis"
        )
    check_array("network.null_token", network.null_token, None)
    width = network.d_model
    plane_width = _check_planes(network)
    if plane_width != width:
        raise AvatarError(
            f"network.planes give {plane_width} features (channels x levels), but "
            f"network.null_token has d_model = {width}: they must be equal"
        )
    if network.n_head < 1 or width % network.n_head:
        raise AvatarError(
            f"n_head = {network.n_head}: must divide d_model = {width}. It comes from the "
            "checkpoint's cfg_args, or from gt-export --n-head."
        )
    _check_audio(network)
    _check_chain(network, "camera_mlp", CAMERA_WIDTH, width, bias=False)
    if not network.layers:
        raise AvatarError("network.layers.0 is missing: at least one attention layer is needed")
    for index, layer in enumerate(network.layers):
        _check_layer(f"network.layers.{index}", layer, width)
    for name, pair in network.heads.items():
        if name not in HEAD_WIDTHS:
            raise AvatarError(f"network.heads.{name} is not known, expected {list(HEAD_WIDTHS)}")
        out = HEAD_WIDTHS[name] or 3 * sh_coefficients
        _check_pair(f"network.heads.{name}", pair, width, out)


def _check_planes(network: Network) -> int:
    """Returns the number of features that the planes give together."""
    if not network.planes:
        raise AvatarError("network.planes.0.xy is missing: at least one level is needed")
    channels = network.planes[0][0].shape[0] if network.planes[0][0].ndim == 3 else None
    for level, planes in enumerate(network.planes):
        size = planes[0].shape[-1]
        for axes, plane in zip(PLANE_AXES, planes, strict=True):
            check_array(f"network.planes.{level}.{axes}", plane, channels, size, size)
        if size < 2:
            raise AvatarError(f"network.planes.{level}.xy: {size} pixels wide, at least 2 needed")
    assert channels is not None
    return int(channels) * len(network.planes)


def _check_audio(network: Network) -> None:
    steps = TIMING.steps_per_window
    channels = _check_chain(network, "audio_conv", None, None, bias=True, taps=3)
    for _ in network.audio_conv:
        steps = (steps + 1) // 2
    if steps != 1:
        raise AvatarError(
            f"network.audio_conv: {len(network.audio_conv)} layers leave {steps} of "
            f"{TIMING.steps_per_window} steps, exactly 1 must be left"
        )
    audio_width = _check_chain(network, "audio_fc", channels, None, bias=True)
    _check_chain(network, "attention_conv", audio_width, 1, bias=True, taps=3)
    windows = TIMING.windows_per_frame
    _check_linear("network.attention_fc", network.attention_fc, windows, windows, bias=True)
    for name, in_width in (("audio_mlp", audio_width), ("eye_mlp", EYE_ENCODING_WIDTH)):
        if getattr(network, name):
            _check_chain(network, name, in_width, network.d_model, bias=False)
        elif in_width != network.d_model:
            raise AvatarError(
                f"network.{name} is missing: it can only be left out when its {in_width} inputs "
                f"are already d_model = {network.d_model}"
            )


def _check_layer(where: str, layer: AttentionLayer, width: int) -> None:
    for name in _LAYER_MAPS:
        _check_linear(f"{where}.{name}", getattr(layer, name), width, width, bias=True)
    for name in _LAYER_NORMS:
        check_array(f"{where}.{name}", getattr(layer, name), width)
    _check_pair(f"{where}.ffn", layer.ffn, width, width)


def _check_pair(where: str, pair: tuple[Linear, Linear], in_width: int, out_width: int) -> None:
    hidden = _check_linear(f"{where}.0", pair[0], in_width, None, bias=True)
    _check_linear(f"{where}.1", pair[1], hidden, out_width, bias=True)


def _check_chain(
    network: Network,
    name: str,
    in_width: int | None,
    out_width: int | None,
    *,
    bias: bool,
    taps: int | None = None,
) -> int:
    """Check that each layer takes what the one before gives; return what the last gives."""
    chain: tuple[Linear, ...] = getattr(network, name)
    if not chain:
        raise AvatarError(f"network.{name}.0.weight is missing")
    width = in_width
    for index, linear in enumerate(chain):
        out = out_width if index == len(chain) - 1 else None
        width = _check_linear(f"network.{name}.{index}", linear, width, out, bias=bias, taps=taps)
    assert width is not None
    return width


def _check_linear(
    where: str,
    linear: Linear,
    in_width: int | None,
    out_width: int | None,
    *,
    bias: bool,
    taps: int | None = None,
) -> int:
    """Check one map; return its output width."""
    taps_shape = () if taps is None else (taps,)
    check_array(f"{where}.weight", linear.weight, out_width, in_width, *taps_shape)
    out, width_in = linear.weight.shape[:2]
    if out < 1 or width_in < 1:
        raise AvatarError(f"{where}.weight: empty, shape {list(linear.weight.shape)}")
    if bias != (linear.bias is not None):
        raise AvatarError(f"{where}.bias {'is missing' if bias else 'is not expected'}")
    if linear.bias is not None:
        check_array(f"{where}.bias", linear.bias, out)
    return int(out)
