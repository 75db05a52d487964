"""Trained checkpoints in the authors' official layout (MODEL section 1).

The one place that knows state-dict names. Files come from strangers: `.pth` is loaded with
`weights_only=True`, `cfg_args` is parsed and never evaluated, and every failure is one sentence.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gt_infer.avatar import CanonicalGaussians, Network
from gt_infer.avatar_file import short
from gt_infer.avatar_network import PLANE_AXES
from gt_infer.errors import AvatarError, CheckpointError
from gt_infer.types import FloatArray

from .cfg_args import read_cfg_args, take_bool, take_int
from .ply import read_ply

__all__ = ["Checkpoint", "Dropped", "read_checkpoint"]

_DEFAULT_N_HEAD = 2  # of both published configurations
_UNPROJECTED_WIDTH = 32  # at this d_model the audio and eye vectors are tokens as they are
_NAMED_PROBLEMS = 4  # in one message; the rest is counted

_ROOT = "deformation_net."
# Our chain of maps -> the official modules, in order. Only convolutions and `fc` have biases.
_CHAINS: Mapping[str, Sequence[str]] = {
    "audio_conv": [f"audio_net.encoder_conv.{i}" for i in (0, 2, 4, 6)],
    "audio_fc": [f"audio_net.encoder_fc1.{i}" for i in (0, 2)],
    "attention_conv": [f"audio_att_net.attentionConvNet.{i}" for i in (0, 2, 4, 6, 8)],
    "audio_mlp": [f"audio_mlp.net.{i}" for i in (0, 1)],
    "eye_mlp": [f"eye_mlp.net.{i}" for i in (0, 1)],
    "camera_mlp": [f"cam_mlp.net.{i}" for i in (0, 1)],
}
_SKIPPABLE = ("audio_mlp", "eye_mlp")
_LAYER = {
    "query": "enc_dec_attention.w_q",
    "key": "enc_dec_attention.w_k",
    "value": "enc_dec_attention.w_v",
    "concat": "enc_dec_attention.w_concat",
    "ffn.0": "ffn.linear1",
    "ffn.1": "ffn.linear2",
}
_NORMS = {
    "norm1_gamma": "norm1.gamma",
    "norm1_beta": "norm1.beta",
    "norm2_gamma": "norm2.gamma",
    "norm2_beta": "norm2.beta",
}
# Our head -> the official module, and the flag that switches it off.
_HEADS = {
    "means": ("pos_deform", "no_dx"),
    "scales": ("scales_deform", "no_ds"),
    "quats": ("rotations_deform", "no_dr"),
    "opacities": ("opacity_deform", "no_do"),
    "sh": ("shs_deform", "no_dshs"),
}
_UNSUPPORTED_FLAGS = ("static_mlp", "empty_voxel", "apply_rotation")
# Key prefixes that every official file has and no frame uses.
_UNUSED = (
    (
        tuple(
            f"{_ROOT}tri_plane.{part}."
            for part in ("feature_out", "scales", "rotations", "opacity", "shs")
        ),
        "F_can predicts canonical attributes in training stage 1; the PLY has the trained ones",
    ),
    (
        tuple(f"{_ROOT}{part}." for part in ("aud_ch_att_net", "eye_att_net", "enc_x_mlp")),
        "modules that the published model never calls",
    ),
    (("pos_poc", "rotation_scaling_poc", "opacity_poc"), "encodings that nothing reads"),
)
_LEFTOVERS = ("deformation_table.pth", "deformation_accum.pth")
# Our Gaussian attribute -> its properties in the PLY.
_PROPERTIES = {
    "means": ("x", "y", "z"),
    "log_scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
    "logit_opacities": ("opacity",),
}
_SH_DC = ("f_dc_0", "f_dc_1", "f_dc_2")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Part of a checkpoint that an avatar does not need: how many tensors, and why."""

    what: str
    tensors: int
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained model, read and checked.

    Attributes:
        directory: as given. iteration: which one was read.
        gaussians, network: as trained, float32.
        white_background: whether training composited over white where no backdrop was known.
        dropped: what was left out. warnings: what a user should look at.
        hashes: file name -> hex sha256, for provenance.
    """

    directory: Path
    iteration: int
    gaussians: CanonicalGaussians
    network: Network
    white_background: bool
    dropped: tuple[Dropped, ...]
    warnings: tuple[str, ...]
    hashes: Mapping[str, str]


def read_checkpoint(
    directory: str | os.PathLike[str], *, iteration: int | None = None, n_head: int | None = None
) -> Checkpoint:
    """Read MODEL_DIR of a finished training run.

    Args:
        iteration: which `point_cloud/iteration_N`, None = the highest.
        n_head: attention heads; None = as cfg_args says, 2 with a warning when it does not.

    Raises: CheckpointError naming the file and what is wrong: not this layout, missing keys,
        shapes that do not fit, NaN or inf, zero quaternions, unsupported flags, a file that holds
        pickled code.
    """
    root = Path(directory)
    number, folder = _find_iteration(root, iteration)
    notes: list[str] = []
    settings = _read_settings(root / "cfg_args", notes)
    cfg_path = root / "cfg_args"
    for flag in _UNSUPPORTED_FLAGS:
        if take_bool(settings, flag, cfg_path):
            raise CheckpointError(
                f"{cfg_path}: {flag} = True: this variant of the model is not supported. Train "
                f"with {flag} = False."
            )
    heads = [name for name, (_, flag) in _HEADS.items() if not take_bool(settings, flag, cfg_path)]
    n_head = _choose_n_head(take_int(settings, "n_head", cfg_path), n_head, notes)

    ply = folder / "point_cloud.ply"
    gaussians = _read_gaussians(ply)
    pth = folder / "deformation.pth"
    state = _load_state(pth)
    network, dropped = _read_network(pth, state, heads, n_head, gaussians, notes)
    stored_layers = take_int(settings, "n_layer", cfg_path)
    if stored_layers not in (None, len(network.layers)):
        notes.append(
            f"cfg_args says n_layer = {stored_layers}, {pth.name} has {len(network.layers)}; the "
            "latter is used"
        )
    leftovers = [name for name in _LEFTOVERS if (folder / name).exists()]
    if leftovers:
        dropped.append(Dropped(", ".join(leftovers), len(leftovers), "training leftovers"))
    return Checkpoint(
        directory=root,
        iteration=number,
        gaussians=gaussians,
        network=network,
        white_background=take_bool(settings, "white_background", cfg_path),
        dropped=tuple(dropped),
        warnings=tuple(notes),
        hashes={path.name: _sha256(path) for path in (ply, pth)},
    )


def _find_iteration(root: Path, wanted: int | None) -> tuple[int, Path]:
    parent = root / "point_cloud"
    if not parent.is_dir():
        hint = "expected MODEL_DIR/point_cloud/iteration_N/point_cloud.ply and deformation.pth"
        what = "no such directory" if not root.is_dir() else "not a trained model directory"
        raise CheckpointError(f"{root}: {what}; {hint}")
    found = {
        int(match[1]): entry
        for entry in parent.iterdir()
        if (match := re.fullmatch(r"iteration_(\d{1,9})", entry.name)) and entry.is_dir()
    }
    if not found:
        coarse = any(entry.name.startswith("coarse_iteration_") for entry in parent.iterdir())
        hint = " Only stage 1 (coarse) was trained; train stage 2." if coarse else ""
        raise CheckpointError(f"{parent}: no iteration_N inside.{hint}")
    if wanted is not None and wanted not in found:
        raise CheckpointError(f"{parent}: no iteration_{wanted}; there is {sorted(found)}")
    number = max(found) if wanted is None else wanted
    return number, found[number]


def _read_settings(path: Path, notes: list[str]) -> dict[str, object]:
    try:
        return read_cfg_args(path)
    except FileNotFoundError:
        notes.append(f"{path} is missing: its flags are taken as the published ones (all off)")
        return {}


def _choose_n_head(stored: int | None, asked: int | None, notes: list[str]) -> int:
    if asked is not None:
        if stored not in (None, asked):
            notes.append(f"cfg_args says n_head = {stored}; {asked} is used as asked")
        return asked
    if stored is None:
        notes.append(
            f"n_head is taken as {_DEFAULT_N_HEAD}: cfg_args does not say it and no tensor shows "
            "it. A wrong one distorts the face; pass --n-head to set it."
        )
        return _DEFAULT_N_HEAD
    return stored


def _read_gaussians(path: Path) -> CanonicalGaussians:
    vertices = read_ply(path)
    names = vertices.dtype.names or ()
    rest = sum(name.startswith("f_rest_") for name in names)
    rest_names = [f"f_rest_{i}" for i in range(rest)]
    needed = [name for group in _PROPERTIES.values() for name in group]
    missing = [name for name in (*needed, *_SH_DC, *rest_names) if name not in names]
    if missing:
        raise CheckpointError(f"{path}: vertex properties are missing: {_listed(missing)}")
    if rest % 3:
        raise CheckpointError(f"{path}: {rest} f_rest properties: expected a multiple of 3")

    # Column by column into place: a hundred megabytes of vertices are not copied a third time.
    count = len(vertices)

    def columns(group: Sequence[str]) -> FloatArray:
        values = np.empty((count, len(group)), np.float32)
        for column, name in enumerate(group):
            values[:, column] = vertices[name]
        return values

    sh = np.empty((count, 1 + rest // 3, 3), np.float32)
    for channel, name in enumerate(_SH_DC):
        sh[:, 0, channel] = vertices[name]
    for column, name in enumerate(rest_names):
        channel, coefficient = divmod(column, rest // 3)  # stored channel-major
        sh[:, 1 + coefficient, channel] = vertices[name]
    gaussians = CanonicalGaussians(
        means=columns(_PROPERTIES["means"]),
        log_scales=columns(_PROPERTIES["log_scales"]),
        quats=columns(_PROPERTIES["quats"]),
        logit_opacities=columns(_PROPERTIES["logit_opacities"])[:, 0].copy(),
        sh=sh,
    )
    try:
        gaussians.check()
    except AvatarError as err:
        message = str(err)
        for ours, group in {**_PROPERTIES, "sh": ("f_dc_*", "f_rest_*")}.items():
            message = message.replace(f"gaussians.{ours}", f"{', '.join(group)} ({ours})")
        raise CheckpointError(f"{path}: {message}") from err
    return gaussians


def _load_state(path: Path) -> dict[str, Any]:
    """The state dict as torch tensors by name."""
    import torch

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; it holds the networks of the same iteration")
    try:
        with warnings.catch_warnings():  # what torch thinks of the file's pickle protocol
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises about anything on damaged files
        raise CheckpointError(
            f"{path}: not a readable state dict of tensors: truncated, damaged, or it holds "
            f"pickled code, which is never run ({_reason(err)})"
        ) from err
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: holds {short(type(state))}, expected a state dict")
    return state


def _reason(err: Exception) -> str:
    """The one sentence of torch's that says what is wrong; around it, it advises to trust the file
    and colours that."""
    text = str(err).rpartition("WeightsUnpickler error: ")[2].partition(". Please")[0].strip()
    line = text.splitlines()[0] if text else type(err).__name__
    return ascii(line[:120])[1:-1]


def _read_network(
    path: Path,
    state: Mapping[str, Any],
    heads: Sequence[str],
    n_head: int,
    gaussians: CanonicalGaussians,
    notes: list[str],
) -> tuple[Network, list[Dropped]]:
    null = state.get(f"{_ROOT}null_vector")
    skips = getattr(null, "shape", (0,))[-1:] == (_UNPROJECTED_WIDTH,)
    names = _official_names(
        levels=_count(state, rf"{_ROOT}tri_plane\.grid\.grids\.(\d+)\."),
        layers=_count(state, rf"{_ROOT}transformer\.layers\.(\d+)\."),
        heads=heads,
        skipped=_SKIPPABLE if skips else (),
    )
    missing = [key for key in names.values() if key not in state]
    if missing:
        raise CheckpointError(
            f"{path}: missing keys ({len(missing)}): {_listed(missing)}. The file is incomplete, "
            "or not a GaussianTalker deformation.pth."
        )
    network = Network.from_tensors(_Source(path, state, names), n_head=n_head, heads=heads)
    problems = network.check(gaussians.sh.shape[1]).problems
    if problems:
        described = [f"{names.get(name, name)}: {what}" for name, what in problems]
        several = f"{len(problems)} tensors are wrong: " if len(problems) > 1 else ""
        raise CheckpointError(f"{path}: {several}{_listed(described, '; ')}")
    return network, _dropped(state, names, heads, skips, notes)


def _official_names(
    *, levels: int, layers: int, heads: Iterable[str], skipped: Sequence[str]
) -> dict[str, str]:
    """Our tensor name -> state-dict key, for everything that inference needs."""
    names = {"aabb": "tri_plane.grid.aabb", "null_token": "null_vector"}

    def add(ours: str, official: str, *, bias: bool = True) -> None:
        names[f"{ours}.weight"] = f"{official}.weight"
        if bias:
            names[f"{ours}.bias"] = f"{official}.bias"

    for level in range(levels):
        for plane, axes in enumerate(PLANE_AXES):
            names[f"planes.{level}.{axes}"] = f"tri_plane.grid.grids.{level}.{plane}"
    for ours, modules in _CHAINS.items():
        if ours not in skipped:
            for index, module in enumerate(modules):
                add(f"{ours}.{index}", module, bias=not ours.endswith("_mlp"))
    add("attention_fc", "audio_att_net.attentionNet.0")
    for layer in range(layers):
        for ours, module in _LAYER.items():
            add(f"layers.{layer}.{ours}", f"transformer.layers.{layer}.{module}")
        for ours, parameter in _NORMS.items():
            names[f"layers.{layer}.{ours}"] = f"transformer.layers.{layer}.{parameter}"
    for head in heads:
        for part, index in enumerate((1, 3)):
            add(f"heads.{head}.{part}", f"{_HEADS[head][0]}.{index}")
    return {f"network.{ours}": f"{_ROOT}{official}" for ours, official in names.items()}


class _Source:
    """The state dict under our names, as float32 without the leading axes of size 1."""

    def __init__(self, path: Path, state: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._path, self._state, self._names = path, state, names

    def has(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str) -> FloatArray:
        key = self._names[name]
        array = _to_numpy(self._path, key, self._state[key])
        if name.startswith("network.planes.") and array.shape[:1] == (1,):
            return array.reshape(array.shape[1:])
        if name == "network.null_token" and array.shape[:-1] == (1, 1):
            return array.reshape(-1)
        return array


def _to_numpy(path: Path, key: str, value: Any) -> npt.NDArray[np.float32]:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise CheckpointError(f"{path}: {key} is no tensor of floating-point numbers")
    # An expanded view can claim any size while the file holds one number.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {key} claims more values than the file holds")
    array: npt.NDArray[np.float32] = value.detach().to(torch.float32).contiguous().numpy()
    return array


def _dropped(
    state: Mapping[str, Any],
    names: Mapping[str, str],
    heads: Sequence[str],
    skips: bool,
    notes: list[str],
) -> list[Dropped]:
    """What of the state dict is left out and why; keys that nobody knows become a warning."""
    left = [key for key in state if key not in set(names.values())]
    reasons = list(_UNUSED)
    if skips:
        prefixes = tuple(f"{_ROOT}{name}." for name in _SKIPPABLE)
        reasons.append((prefixes, f"skipped by the model at d_model = {_UNPROJECTED_WIDTH}"))
    for head, (module, flag) in _HEADS.items():
        if head not in heads:
            reasons.append(((f"{_ROOT}{module}.",), f"switched off: {flag} = True in cfg_args"))
    dropped = []
    for prefixes, why in reasons:
        hits = [key for key in left if key.startswith(prefixes)]
        if hits:
            what = ", ".join(sorted({_module(key) for key in hits}))
            dropped.append(Dropped(what, len(hits), why))
            left = [key for key in left if key not in hits]
    if left:
        notes.append(
            f"{len(left)} tensors are not known and not used: {_listed([short(k) for k in left])}. "
            "If this model is a fork that needs them, the avatar will not look right."
        )
    return dropped


def _module(key: str) -> str:
    parts = key.removeprefix(_ROOT).split(".")
    return ".".join(parts[: 2 if parts[0] == "tri_plane" else 1])


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """How many indices the pattern finds; at least 1, so that a missing first one is named."""
    return max(1, len({match[1] for key in state if (match := re.match(pattern, key))}))


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(items[:_NAMED_PROBLEMS])
    rest = len(items) - _NAMED_PROBLEMS
    return f"{shown} (and {rest} more)" if rest > 0 else shown


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
