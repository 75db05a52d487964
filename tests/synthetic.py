"""Small random avatars by seed, without torch or a trained checkpoint."""

from __future__ import annotations

import itertools

import numpy as np

from gt_infer.avatar import (
    AttentionLayer,
    AudioFrontend,
    Avatar,
    CanonicalGaussians,
    Linear,
    LogMelConstants,
    Network,
    TrainingPoses,
)
from gt_infer.config import RasterConfig
from gt_infer.types import Camera, FloatArray

AUDIO_WIDTH = 32
HEAD_WIDTH = 48


def make_avatar(
    n: int = 700,
    layers: int = 1,
    channels: int = 29,
    d_model: int = 64,
    size: int = 64,
    seed: int = 0,
    *,
    n_head: int = 2,
    sh_degree: int = 3,
    heads: tuple[str, ...] = ("means", "scales", "quats", "opacities", "sh"),
    torsos: int = 1,
) -> Avatar:
    """A head-sized cloud of `n` Gaussians with random networks that move it visibly.

    Every number comes from `seed`. About a third of the Gaussians lie outside the aabb, as in
    trained heads. 29 channels get the log-mel front-end, others precomputed features.
    """
    rng = np.random.default_rng(seed)
    coefficients = (sh_degree + 1) ** 2

    def normal(*shape: int, scale: float = 1.0) -> FloatArray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def linear(out: int, inputs: int, *taps: int, bias: bool = True, gain: float = 1.4) -> Linear:
        scale = gain / np.sqrt(inputs * int(np.prod(taps, dtype=int)))
        return Linear(
            normal(out, inputs, *taps, scale=scale), normal(out, scale=0.1) if bias else None
        )

    def chain(*widths: int, taps: tuple[int, ...] = (), bias: bool = True) -> tuple[Linear, ...]:
        return tuple(
            linear(out, inputs, *taps, bias=bias) for inputs, out in itertools.pairwise(widths)
        )

    def layer() -> AttentionLayer:
        maps = {name: linear(d_model, d_model) for name in ("query", "key", "value", "concat")}
        return AttentionLayer(
            **maps,
            norm1_gamma=1 + normal(d_model, scale=0.1),
            norm1_beta=normal(d_model, scale=0.1),
            norm2_gamma=1 + normal(d_model, scale=0.1),
            norm2_beta=normal(d_model, scale=0.1),
            ffn=(linear(2 * d_model, d_model), linear(d_model, 2 * d_model)),
        )

    widths = {"means": 3, "scales": 3, "quats": 4, "opacities": 1, "sh": 3 * coefficients}
    gains = {"means": 0.02, "scales": 0.1, "quats": 0.1, "opacities": 0.5, "sh": 0.1}
    head_maps = {
        name: (
            linear(HEAD_WIDTH, d_model),
            linear(widths[name], HEAD_WIDTH, gain=gains[name]),
        )
        for name in heads
    }
    plane_channels = d_model // 2
    network = Network(
        aabb=np.array([[1.0, 1.1, 0.9], [-1.0, -1.2, -0.9]], np.float32),
        planes=tuple(
            (
                1 + normal(plane_channels, pixels, pixels, scale=0.3),
                1 + normal(plane_channels, pixels, pixels, scale=0.3),
                1 + normal(plane_channels, pixels, pixels, scale=0.3),
            )
            for pixels in (16, 32)
        ),
        audio_conv=chain(channels, 32, 32, 64, 64, taps=(3,)),
        audio_fc=chain(64, 64, AUDIO_WIDTH),
        attention_conv=chain(AUDIO_WIDTH, 16, 8, 4, 2, 1, taps=(3,)),
        attention_fc=linear(8, 8),
        audio_mlp=() if d_model == AUDIO_WIDTH else chain(AUDIO_WIDTH, 64, d_model, bias=False),
        eye_mlp=() if d_model == AUDIO_WIDTH else chain(32, 64, d_model, bias=False),
        camera_mlp=chain(12, 64, d_model, bias=False),
        null_token=normal(d_model),
        layers=tuple(layer() for _ in range(layers)),
        n_head=n_head,
        heads=head_maps,
    )
    sh = normal(n, coefficients, 3, scale=0.1)
    sh[:, 0] += 0.5
    gaussians = CanonicalGaussians(
        means=normal(n, 3, scale=0.6),
        log_scales=normal(n, 3, scale=0.4) - np.float32(2.8),
        quats=normal(n, 4),
        logit_opacities=normal(n, scale=2.0),
        sh=sh,
    )
    poses = TrainingPoses(
        euler=normal(8, 3, scale=0.1),
        trans=(rng.standard_normal((8, 3)) * 0.05 + [0.0, 0.0, -10.8]).astype(np.float32),
        blink=rng.random(8, dtype=np.float32),
    )
    frontend = AudioFrontend("features", channels)
    if channels == 29:
        frontend = AudioFrontend(
            "logmel29",
            29,
            LogMelConstants(mean=normal(29) - np.float32(4), std=normal(29, scale=0.1) + 4),
        )
    return Avatar(
        name=f"synthetic-{seed}",
        gaussians=gaussians,
        network=network,
        camera=Camera(size, size, 2.34 * size),
        raster=RasterConfig(),
        backdrop=rng.integers(0, 256, (size, size, 3), np.uint8),
        torso=rng.integers(0, 256, (torsos, size, size, 4), np.uint8),
        torso_poses=normal(torsos, 3, scale=0.05),
        poses=poses,
        frontend=frontend,
        provenance={"made_by": "tests", "seed": seed},
        licence="none",
    )
