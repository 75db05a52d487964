"""Made-up head tracks by seed, smooth as a person's."""

from __future__ import annotations

import numpy as np

from gt_infer.avatar import TrainingPoses


def make_poses(count: int = 1500, seed: int = 0, *, jitter: float = 0.0) -> TrainingPoses:
    """`count` frames of a head that turns and nods; x follows yaw, as a head on a neck does.

    Args:
        jitter: standard deviation of a tracker's noise on the angles, radians.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(count) / 25

    def wander(size: float) -> np.ndarray:
        periods = (23.0, 11.0, 7.3, 3.1, 1.2)
        shares = (1.0, 0.7, 0.4, 0.15, 0.03)
        return size * sum(
            share * np.sin(2 * np.pi * (t / period + rng.random()))
            for share, period in zip(shares, periods, strict=True)
        )

    pitch, yaw, roll = wander(0.03), wander(0.12), wander(0.03)
    euler = np.stack([pitch + 0.02, yaw, roll], axis=1) + jitter * rng.standard_normal((count, 3))
    x = 0.25 * yaw + wander(0.008)
    trans = np.stack([x, wander(0.01) - 0.2, wander(0.03) - 10.9], axis=1)
    blink = np.zeros(count)
    for start in range(20, count, 90):
        lid = (0.2, 0.85, 1.0, 1.0, 0.9, 0.6, 0.25, 0.03)
        blink[start : start + 8] = lid[: len(blink[start : start + 8])]
    return TrainingPoses(
        euler.astype(np.float32), trans.astype(np.float32), blink.astype(np.float32)
    )
