"""Writing an avatar, in both storages, against writing its arrays as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar
from gt_infer.avatar import save_avatar


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def bench_save_avatar(race: Any, avatar: Avatar, tmp_path: Path, storage: Any) -> None:
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "avatar.safetensors"
    save_avatar(avatar, path, storage)
    np.testing.assert_array_equal(Avatar.load(path).gaussians.means, avatar.gaussians.means)
    tensors = load_file(path)
    race(
        lambda: save_avatar(avatar, path, storage),
        lambda: save_file(tensors, tmp_path / "plain.safetensors"),
        "safetensors' save_file",
    )
