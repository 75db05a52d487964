"""Avatars that nobody trained, for curves over the number of Gaussians and layers.

They are made from a trained one, so that sizes, shapes, opacities, colours, the share outside the
tri-plane's box and the motion are those of a real head.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gt_infer.avatar import Avatar, CanonicalGaussians
from gt_infer.errors import InputError
from gt_infer.types import FloatArray

__all__ = ["resembling"]

_MOST_GAUSSIANS = 1_000_000
_MOST_LAYERS = 8


def resembling(
    avatar: Avatar, *, gaussians: int | None = None, layers: int | None = None, seed: int = 0
) -> Avatar:
    """A head like `avatar` with another number of Gaussians or attention layers.

    Fewer Gaussians are a random choice of the avatar's; more are copies, each displaced at random
    within the Gaussian it copies. Their sizes are scaled by sqrt(N / n): a head is a surface, so
    this keeps it covered as densely as before. Layers repeat the trained ones.

    Args:
        gaussians, layers: None as in the avatar.

    Returns: the avatar itself when it has as many of both already.
    Raises: InputError: a number out of range.
    """
    count = len(avatar) if gaussians is None else gaussians
    depth = len(avatar.network.layers) if layers is None else layers
    if not 1 <= count <= _MOST_GAUSSIANS:
        raise InputError(f"gaussians = {count}: must be 1 to {_MOST_GAUSSIANS:,}")
    if not 1 <= depth <= _MOST_LAYERS:
        raise InputError(f"layers = {depth}: must be 1 to {_MOST_LAYERS}")
    changes = []
    trained = avatar.network.layers
    network, cloud = avatar.network, avatar.gaussians
    if depth != len(trained):
        network = replace(network, layers=tuple(trained[i % len(trained)] for i in range(depth)))
        changes.append(f"{depth} layers")
    if count != len(avatar):
        cloud = _resampled(cloud, count, np.random.default_rng(seed))
        changes.append(f"{count} Gaussians")
    if not changes:
        return avatar
    return replace(
        avatar,
        name=f"synthetic: {avatar.name} with {' and '.join(changes)}",
        gaussians=cloud,
        network=network,
        provenance={"synthetic": {"from": avatar.sha256, "seed": seed}},
        sha256="",
    )


def _resampled(
    cloud: CanonicalGaussians, count: int, rng: np.random.Generator
) -> CanonicalGaussians:
    n = len(cloud.means)
    copies = np.arange(count) // n  # 0: the original, moved by nothing
    order = np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]
    means = cloud.means[order]
    is_copy = copies > 0
    means[is_copy] += _scatter(cloud, order[is_copy], rng)
    return CanonicalGaussians(
        means=means,
        log_scales=cloud.log_scales[order] + np.float32(0.5 * np.log(n / count)),
        quats=cloud.quats[order],
        logit_opacities=cloud.logit_opacities[order],
        sh=cloud.sh[order],
    )


def _scatter(cloud: CanonicalGaussians, which: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """Random points [n, 3] of those Gaussians, relative to their means."""
    local = rng.standard_normal((len(which), 3), np.float32) * np.exp(cloud.log_scales[which])
    quats = cloud.quats[which] / np.linalg.norm(cloud.quats[which], axis=1, keepdims=True)
    real, axis = quats[:, :1], quats[:, 1:]
    twist = 2 * np.cross(axis, local)  # rotation by a unit quaternion, w first
    return np.asarray(local + real * twist + np.cross(axis, twist), np.float32)
