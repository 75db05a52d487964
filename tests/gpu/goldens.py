"""Goldens of the demo avatar, for machines that have the repository alone.

    python -m tests.gpu.goldens        writes goldens.npz

They are the CPU engine's, which meets the published model's own vectors to 1e-6 (tests/parity).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gt_infer import Avatar, EngineConfig, Pose, Renderer
from gt_infer.avatar import resolve

GOLDENS = Path(__file__).with_name("goldens.npz")
_FRAMES = ((0, 0.0, 0.0, 0.0), (1, 6.0, 3.0, 0.5), (2, -6.0, -3.0, 1.0))  # seed, yaw, pitch, blink
_SUBSET = 500


def golden_inputs(avatar: Avatar) -> list[tuple[Any, Pose, float]]:
    """Audio window, absolute pose and blink of each."""
    assert avatar.poses is not None
    found = []
    for seed, yaw, pitch, blink in _FRAMES:
        rng = np.random.default_rng(seed)
        window = rng.standard_normal((8, avatar.network.audio_channels, 16), np.float32)
        pose = Pose.from_degrees(yaw=yaw, pitch=pitch)
        found.append(
            (window, pose.resolve(avatar.poses.mean_euler, avatar.poses.mean_trans), blink)
        )
    return found


def make_goldens(avatar: Avatar) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    subset = np.sort(rng.choice(len(avatar), _SUBSET, replace=False)).astype(np.int32)
    goldens: dict[str, Any] = {"subset": subset}
    with Renderer(avatar, engine="cpu", config=EngineConfig(precision="fp32")) as renderer:
        for index, (window, pose, blink) in enumerate(golden_inputs(avatar)):
            goldens[f"picture{index}"] = renderer.render_window(window, pose, blink=blink)
            gaussians = renderer.deform(window, blink, pose.camera_vector())
            for name in ("means", "scales", "quats", "opacities", "sh"):
                goldens[f"{name}{index}"] = getattr(gaussians, name)[subset]
    return goldens


if __name__ == "__main__":
    np.savez_compressed(GOLDENS, **make_goldens(Avatar.load(resolve("demo"))))
