"""Does the avatar file say what the checkpoint says, and does the engine compute it?

Four parties answer the same inputs: the golden vectors (where the model directory has some), the
reference network with the checkpoint's weights, the reference network with the file's weights, and
the native engine on the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gt_infer import EngineConfig, Renderer
from gt_infer.avatar import Avatar
from gt_infer.config import TIMING
from gt_infer.errors import CheckpointError
from gt_infer.pose import Pose
from gt_infer.types import FloatArray

from .checkpoint import Checkpoint
from .reference import ReferenceNetwork

__all__ = [
    "ATTENTION_TOLERANCE",
    "TOLERANCE",
    "Comparison",
    "FrameInput",
    "golden_inputs",
    "random_inputs",
    "verify",
]

# Largest absolute difference allowed, activated attributes. Float32 in another order of summation
# stays ten times below (opacity is the largest: its logits come from sums of 10 and more).
TOLERANCE = 2e-4
ATTENTION_TOLERANCE = 1e-4

_RANDOM_INPUTS = 3
_SEED = 20240
_PORTRAIT_DISTANCE = 10.8  # head-space units, of the published recordings

Attributes = Mapping[str, FloatArray]
# What the golden vectors call our attributes.
_GOLDEN_NAMES = {
    "means": "means",
    "scales": "scales",
    "quats": "rotations",
    "opacities": "opacity",
    "sh": "shs",
    "attention": "attention",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two parties over all inputs of one kind.

    Attributes:
        title: who is compared, on what.
        differences: attribute -> largest absolute difference, activated values.
        decides: whether the tolerance applies; a rounded file's distance from the checkpoint is
            for information.
    """

    title: str
    differences: Mapping[str, float]
    decides: bool

    @property
    def passed(self) -> bool:
        """Within the tolerance, or not asked to be. NaN never passes."""
        return not self.decides or all(
            value <= (ATTENTION_TOLERANCE if name == "attention" else TOLERANCE)
            for name, value in self.differences.items()
        )


@dataclass(frozen=True, slots=True, eq=False)
class FrameInput:
    """One frame's network inputs, and what the authors' code gave for it where that is known."""

    window: FloatArray
    eye: float
    camera: FloatArray
    golden: Attributes | None = None


def verify(
    checkpoint: Checkpoint, path: Path, *, golden: Path | None = None
) -> Iterator[Comparison]:
    """Compare on random inputs, and on golden ones when there are some.

    Args:
        path: the avatar file that was made from the checkpoint.
        golden: a `golden_deform.npz`.

    Raises: CheckpointError: the golden file is damaged or of another checkpoint. AvatarError.
    """
    avatar = Avatar.load(path)
    exact = avatar.storage == "fp32"
    from_checkpoint = ReferenceNetwork.from_checkpoint(checkpoint)
    from_file = ReferenceNetwork.from_avatar(avatar)
    with Renderer(avatar, engine="cpu", config=EngineConfig(precision="fp32")) as renderer:
        kinds = {"random": random_inputs(checkpoint.network.audio_channels)}
        subset = None
        if golden is not None:
            subset, kinds["golden"] = golden_inputs(golden, avatar)
        for kind, inputs in kinds.items():
            worst: dict[str, dict[str, float]] = {}
            for item in inputs:
                reference = _run(from_checkpoint, item)
                rounded = _run(from_file, item)
                deformed = renderer.deform(item.window, item.eye, item.camera, attention=True)
                engine = {name: getattr(deformed, name) for name in _GOLDEN_NAMES}
                _update(worst, "avatar file - checkpoint", rounded, reference)
                _update(worst, "engine - avatar file", engine, rounded)
                if item.golden is not None:
                    shown = {name: _pick(reference, name, subset) for name in _GOLDEN_NAMES}
                    _update(worst, "checkpoint - golden vectors", shown, item.golden)
                    shown = {name: _pick(engine, name, subset) for name in _GOLDEN_NAMES}
                    _update(worst, "engine - golden vectors", shown, item.golden)
            for title, differences in worst.items():
                from_rounding = title in ("avatar file - checkpoint", "engine - golden vectors")
                yield Comparison(f"{kind}: {title}", differences, exact or not from_rounding)


def _run(network: ReferenceNetwork, item: FrameInput) -> Attributes:
    with torch.inference_mode():
        deformed = network(
            torch.from_numpy(item.window)[None],
            torch.tensor([item.eye]),
            torch.from_numpy(item.camera)[None],
        )
    return {name: getattr(deformed, name)[0].detach().numpy() for name in _GOLDEN_NAMES}


def _update(
    worst: dict[str, dict[str, float]], title: str, ours: Attributes, theirs: Attributes
) -> None:
    differences = worst.setdefault(title, dict.fromkeys(_GOLDEN_NAMES, 0.0))
    for name in _GOLDEN_NAMES:
        assert ours[name].shape == theirs[name].shape, name
        # np.maximum, not max: a NaN must stay.
        largest = np.maximum(differences[name], np.abs(ours[name] - theirs[name]).max())
        differences[name] = float(largest)


def _pick(attributes: Attributes, name: str, subset: npt.NDArray[np.int64] | None) -> FloatArray:
    """The golden vectors' Gaussians of one attribute; attention has a leading layer axis."""
    array = attributes[name]
    return array[:, subset] if name == "attention" else array[subset]


def random_inputs(channels: int) -> list[FrameInput]:
    """Features of unit variance, as normalised front-ends give them, and plausible poses."""
    rng = np.random.default_rng(_SEED)
    shape = (TIMING.windows_per_frame, channels, TIMING.steps_per_window)
    inputs = []
    for index in range(_RANDOM_INPUTS):
        window = rng.standard_normal(shape, np.float32)
        if index == 0:  # before a clip, all windows are zero
            window[:] = 0
        euler = 0.2 * rng.standard_normal(3)
        trans = 0.3 * rng.standard_normal(3) - [0.0, 0.0, _PORTRAIT_DISTANCE]
        camera = Pose.from_tracking(euler, trans).camera_vector()
        inputs.append(FrameInput(window, float(rng.random()), camera))
    return inputs


def golden_inputs(path: Path, avatar: Avatar) -> tuple[npt.NDArray[np.int64], list[FrameInput]]:
    """The Gaussians that the golden vectors hold, and every frame's input and output."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            data = {name: archive[name] for name in ("N", *_golden_shapes(avatar, 0, 0))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
        raise CheckpointError(f"{path}: not golden vectors ({err})") from err
    subset = data["subset"]
    for name, shape in _golden_shapes(avatar, len(data["audio"]), subset.size).items():
        if data[name].shape != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(data[name].shape)}, expected {list(shape)}: made "
                "for another model"
            )
    if data["N"] != len(avatar) or subset.min() < 0 or subset.max() >= len(avatar):
        raise CheckpointError(
            f"{path}: made for {data['N']} Gaussians, the checkpoint has {len(avatar)}"
        )
    inputs = []
    for frame in range(len(data["audio"])):
        golden = {ours: data[theirs][frame] for ours, theirs in _GOLDEN_NAMES.items()}
        golden["opacities"] = golden["opacities"][:, 0]
        window, camera = data["audio"][frame], data["cam"][frame]
        inputs.append(FrameInput(window, float(data["eye"][frame, 0]), camera, golden))
    return subset, inputs


def _golden_shapes(avatar: Avatar, frames: int, count: int) -> dict[str, tuple[int, ...]]:
    channels, layers = avatar.network.audio_channels, len(avatar.network.layers)
    return {
        "subset": (count,),
        "audio": (frames, TIMING.windows_per_frame, channels, TIMING.steps_per_window),
        "eye": (frames, 1),
        "cam": (frames, 12),
        "means": (frames, count, 3),
        "scales": (frames, count, 3),
        "rotations": (frames, count, 4),
        "opacity": (frames, count, 1),
        "shs": (frames, count, *avatar.gaussians.sh.shape[1:]),
        "attention": (frames, layers, count, 4),
    }
