"""The deformation network in float64 (MODEL section 2), on any object with the right attributes.

`network` and `gaussians` are read by attribute (`planes`, `audio_conv`, ..., `means`,
`log_scales`, ...), so an avatar's Network and CanonicalGaussians fit, and so does a namespace that
a test fills by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEAKY_SLOPE = 0.02
NORM_EPS = 1e-12
EYE_CHANNELS = 32
EYE_BASE = 10_000.0


@dataclass(frozen=True)
class Deformed:
    """One frame's Gaussians, raw (canonical + offset) and activated, and what led there."""

    means: Array  # [N, 3]
    log_scales: Array  # [N, 3]
    raw_quats: Array  # [N, 4] wxyz, any length
    logit_opacities: Array  # [N]
    sh: Array  # [N, K, 3]
    scales: Array  # [N, 3]
    quats: Array  # [N, 4] unit length
    opacities: Array  # [N]
    attention: Array  # [L, N, 4], mean over heads
    tokens: Array  # [4, d]: audio, eye, camera, null


def deform(
    network: Any,
    gaussians: Any,
    window: npt.ArrayLike,
    eye: float,
    camera: npt.ArrayLike,
    *,
    features: Array | None = None,
    eye_product: Any = np.float32,
) -> Deformed:
    """All of MODEL section 2 but the splatting.

    Args:
        network, gaussians: see the module's docstring.
        window: [8, C, 16] audio features.
        eye: blink in [0, 1].
        camera: [12].
        features: `triplane_features` of these Gaussians, if known; they are the same every frame.
        eye_product: see `eye_encoding`.
    """
    means = f64(gaussians.means)
    x = triplane_features(network, means) if features is None else features
    tokens = np.stack(
        [
            audio_token(network, window),
            mlp(eye_encoding(eye, eye_product), network.eye_mlp),
            mlp(f64(camera), network.camera_mlp),
            f64(network.null_token).reshape(-1),
        ]
    )
    attention = []
    for layer in network.layers:
        mixed, weights = cross_attention(x, tokens, layer, network.n_head)
        x = layer_norm(x + mixed, layer.norm1_gamma, layer.norm1_beta)
        hidden = relu(linear(x, layer.ffn[0]))
        x = layer_norm(x + linear(hidden, layer.ffn[1]), layer.norm2_gamma, layer.norm2_beta)
        attention.append(weights)

    def moved(head: str, raw: npt.ArrayLike) -> Array:
        """The canonical attribute plus its head's offset, if the head is switched on."""
        raw = f64(raw)
        if head not in network.heads:
            return raw
        first, second = network.heads[head]
        return raw + linear(relu(linear(relu(x), first)), second).reshape(raw.shape)

    log_scales = moved("scales", gaussians.log_scales)
    raw_quats = moved("quats", gaussians.quats)
    logit_opacities = moved("opacities", gaussians.logit_opacities)
    return Deformed(
        means=moved("means", means),
        log_scales=log_scales,
        raw_quats=raw_quats,
        logit_opacities=logit_opacities,
        sh=moved("sh", gaussians.sh),
        scales=np.exp(log_scales),
        quats=raw_quats / np.linalg.norm(raw_quats, axis=1, keepdims=True),
        opacities=1.0 / (1.0 + np.exp(-logit_opacities)),
        attention=np.stack(attention),
        tokens=tokens,
    )


def triplane_features(network: Any, means: npt.ArrayLike) -> Array:
    """f [N, d]: per level the product over three planes, levels concatenated (step 1)."""
    first, second = f64(network.aabb)
    # Row 0 is the maximum, so p runs downwards. That is how the planes were trained.
    p = (f64(means) - first) * (2.0 / (second - first)) - 1.0
    levels = []
    for planes in network.planes:
        product: Array | float = 1.0
        for plane, (a, b) in zip(planes, [(0, 1), (0, 2), (1, 2)], strict=True):
            product = product * bilinear(f64(plane), p[:, a], p[:, b])
        levels.append(product)
    return np.concatenate(levels, axis=1)


def bilinear(plane: Array, x: Array, y: Array) -> Array:
    """[N, C] samples of a plane [C, R, R] at x (last axis), y in [-1, 1]: corners at +-1, the
    border's value outside."""
    rows, columns = plane.shape[1:]
    column = np.clip((x + 1.0) / 2.0 * (columns - 1), 0, columns - 1)
    row = np.clip((y + 1.0) / 2.0 * (rows - 1), 0, rows - 1)
    c0 = np.minimum(np.floor(column).astype(int), columns - 2)
    r0 = np.minimum(np.floor(row).astype(int), rows - 2)
    wc, wr = column - c0, row - r0
    top = plane[:, r0, c0] * (1 - wc) + plane[:, r0, c0 + 1] * wc
    bottom = plane[:, r0 + 1, c0] * (1 - wc) + plane[:, r0 + 1, c0 + 1] * wc
    return (top * (1 - wr) + bottom * wr).T


def audio_token(network: Any, window: npt.ArrayLike) -> Array:
    """[d] from the 8 windows [8, C, 16] of a frame (step 2)."""
    encoded = np.stack([audio_code(network, one) for one in f64(window)])  # [8, 32]
    x = encoded.T
    for layer in network.attention_conv:
        x = leaky(conv1d(x, layer, stride=1))
    weights = softmax(linear(x[0], network.attention_fc))
    return mlp(weights @ encoded, network.audio_mlp)


def audio_code(network: Any, window: Array) -> Array:
    """[32] from one window [C, 16]."""
    x = window
    for layer in network.audio_conv:
        x = leaky(conv1d(x, layer, stride=2))
    x = x.reshape(-1)
    for layer in network.audio_fc[:-1]:
        x = leaky(linear(x, layer))
    return linear(x, network.audio_fc[-1])


def eye_encoding(eye: float, product: Any = np.float32) -> Array:
    """[32]: sin and cos of the blink times frequencies up to 5623 (step 3).

    The authors multiply in float32. At 5623 rad a float32 has steps of 4.9e-4, so the product's
    rounding is part of the encoding that the network was trained on; `product=np.float64` is
    the unrounded one.
    """
    i = np.arange(EYE_CHANNELS)
    frequency = (EYE_BASE ** (2.0 * (i // 2) / EYE_CHANNELS)).astype(product)
    angle = (product(eye) * frequency).astype(np.float64)
    return np.where(i % 2 == 0, np.sin(angle), np.cos(angle))


def cross_attention(x: Array, tokens: Array, layer: Any, n_head: int) -> tuple[Array, Array]:
    """What the tokens [4, d] add to x [N, d], and the weights [N, 4] averaged over heads."""
    q = linear(x, layer.query)
    k = linear(tokens, layer.key)
    v = linear(tokens, layer.value)
    width = q.shape[1] // n_head
    mixes, weights = [], []
    for h in range(n_head):
        head = slice(h * width, (h + 1) * width)
        weight = softmax(q[:, head] @ k[:, head].T / np.sqrt(width))
        weights.append(weight)
        mixes.append(weight @ v[:, head])
    return linear(np.concatenate(mixes, axis=1), layer.concat), np.mean(weights, axis=0)


def conv1d(x: Array, layer: Any, stride: int) -> Array:
    """[out, T'] from x [in, T], kernel 3, one zero on each side."""
    weight = f64(layer.weight)  # [out, in, 3]
    padded = np.pad(x, ((0, 0), (1, 1)))
    steps = (padded.shape[1] - 3) // stride + 1
    out = np.stack(
        [np.tensordot(weight, padded[:, stride * t : stride * t + 3], 2) for t in range(steps)],
        axis=1,
    )
    return out + f64(layer.bias)[:, None]


def linear(x: Array, layer: Any) -> Array:
    y = x @ f64(layer.weight).T
    return y if layer.bias is None else y + f64(layer.bias)


def mlp(x: Array, layers: Any) -> Array:
    """Linear layers with ReLU between; none at all leaves x as it is."""
    for i, layer in enumerate(layers):
        x = linear(relu(x) if i else x, layer)
    return x


def layer_norm(x: Array, gamma: npt.ArrayLike, beta: npt.ArrayLike) -> Array:
    mean = x.mean(axis=1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=1, keepdims=True)
    return f64(gamma) * (x - mean) / np.sqrt(variance + NORM_EPS) + f64(beta)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, LEAKY_SLOPE * x)


def f64(x: npt.ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)
