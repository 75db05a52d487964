"""A checkpoint and its dataset, put together as an avatar."""

from __future__ import annotations

import numpy as np

from gt_infer import __version__
from gt_infer.avatar import AudioFrontend, Avatar
from gt_infer.config import RasterConfig
from gt_infer.types import Camera

from .checkpoint import Checkpoint
from .dataset import Dataset

__all__ = ["DEFAULT_CAMERA", "build_avatar"]

# Of the published recordings; a checkpoint does not hold its own.
DEFAULT_CAMERA = Camera(512, 512, 1200.0)


def build_avatar(
    checkpoint: Checkpoint,
    dataset: Dataset | None,
    frontend: AudioFrontend,
    *,
    name: str,
    licence: str = "",
) -> Avatar:
    """All parts in one.

    Args:
        dataset: None gives the default camera before a plain white or black backdrop, as
            cfg_args says, without torso and training poses.

    Raises: AvatarError: two parts do not fit together.
    """
    camera = DEFAULT_CAMERA if dataset is None else dataset.camera
    if dataset is None:
        shade = 255 if checkpoint.white_background else 0
        backdrop = np.full((camera.height, camera.width, 3), shade, np.uint8)
        torso = np.zeros((0, camera.height, camera.width, 4), np.uint8)
        torso_poses = np.zeros((0, 3), np.float32)
    else:
        backdrop, torso, torso_poses = dataset.backdrop, dataset.torso, dataset.torso_poses
    return Avatar(
        name=name,
        gaussians=checkpoint.gaussians,
        network=checkpoint.network,
        camera=camera,
        raster=RasterConfig(),
        backdrop=backdrop,
        torso=torso,
        torso_poses=torso_poses,
        poses=None if dataset is None else dataset.poses,
        frontend=frontend,
        # No times and no paths beyond the model's own name: equal input, equal file.
        provenance={
            "exporter": f"gt_export {__version__}",
            "layout": "GaussianTalker",
            "model": checkpoint.directory.resolve().name,
            "iteration": checkpoint.iteration,
            "sha256": dict(checkpoint.hashes),
            "dataset": None if dataset is None else dataset.summary,
        },
        licence=licence,
    )
