"""Opening an avatar: what validation and packing cost over reading the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gt_infer import Avatar, Renderer


def bench_load_avatar(race: Any, avatar_path: Path) -> None:
    from safetensors.numpy import load_file

    assert len(Avatar.load(avatar_path)) == load_file(avatar_path)["gaussians.means"].shape[0]
    race(
        lambda: Avatar.load(avatar_path),
        lambda: load_file(avatar_path),
        "safetensors' load_file",
    )


def bench_open_renderer(race: Any, avatar: Avatar, avatar_path: Path) -> None:
    """Of a loaded avatar: packing weights, sampling the tri-plane, composing the background."""
    race(
        lambda: Renderer(avatar).close(),
        lambda: Avatar.load(avatar_path),
        "Avatar.load alone",
    )
