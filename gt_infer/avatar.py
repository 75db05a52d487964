"""The avatar: one person's head in one .safetensors file. Read, validated, written here.

An `Avatar` that exists is valid: every shape was checked against every other, every number is
finite and in range. Files come from strangers; nothing in them is unpickled or evaluated.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .avatar_file import Section, TensorFile, short, write_tensor_file
from .avatar_network import HEAD_WIDTHS, AttentionLayer, Linear, Network
from .avatar_parts import (
    AudioFrontend,
    CanonicalGaussians,
    Checklist,
    LogMelConstants,
    SpeechEncoder,
    TrainingPoses,
    check_quaternions,
)
from .config import TIMING, RasterConfig
from .errors import AvatarError, GtError
from .types import Camera, FloatArray

__all__ = [
    "AttentionLayer",
    "AudioFrontend",
    "Avatar",
    "CanonicalGaussians",
    "Linear",
    "LogMelConstants",
    "Network",
    "SpeechEncoder",
    "TrainingPoses",
    "resolve",
    "save_avatar",
]

Storage = Literal["fp32", "fp16"]
ByteArray = npt.NDArray[np.uint8]

FORMAT_VERSION = 2
_ENCODER_VERSION = 2  # brought speech encoders; everything else is still written as 1
_MAX_PICTURE = 8192  # pixels a side
# Pixels: a fisheye's and a telescope's. In between, a camera of any picture size is one too.
_FOCAL_RANGE = (1.0, 1e6)
# Positions are a head's geometry: half precision would move them by up to 1/1000 of its size.
_ALWAYS_FP32 = {"gaussians.means", "network.aabb"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Avatar:
    """One head, ready for any engine. Immutable: a loaded one's arrays are read-only.

    Attributes:
        name: for people.
        gaussians, network: the trained head.
        camera: as trained; the size that a picture has by default.
        raster: thresholds that the head was trained with.
        backdrop: [H, W, 3] uint8, of the camera's size.
        torso: [K, H, W, 4] uint8, straight alpha; K may be 0.
        torso_poses: [K, 3] float32, euler of the frame that each torso was taken from.
        poses: the training frames' poses, None when the dataset was not at hand.
        frontend: the sound features.
        provenance: what it was made from; JSON values only.
        licence: under which its owner gives it, as text; may be empty.
        storage: how the file holds numbers; in memory all are float32.
        sha256: of the file it was read from, hex; empty when it was not.

    Raises: AvatarError when two parts do not fit, or a number is not finite or out of range.
    """

    name: str
    gaussians: CanonicalGaussians
    network: Network
    camera: Camera
    raster: RasterConfig
    backdrop: ByteArray
    torso: ByteArray
    torso_poses: FloatArray
    poses: TrainingPoses | None
    frontend: AudioFrontend
    provenance: Mapping[str, Any]
    licence: str = ""
    storage: Storage = "fp32"
    sha256: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        """Number of Gaussians."""
        return int(self.gaussians.means.shape[0])

    def describe(self) -> dict[str, Any]:
        """What the avatar is, JSON values only; angles in degrees. For people and programs."""
        poses = None
        if self.poses is not None:
            degrees = np.degrees(self.poses.euler.astype(np.float64))
            poses = {
                "frames": len(degrees),
                "degrees": {
                    axis: {"min": low, "mean": mean, "max": high}
                    for axis, low, mean, high in zip(
                        ("pitch", "yaw", "roll"),
                        degrees.min(axis=0).tolist(),
                        degrees.mean(axis=0).tolist(),
                        degrees.max(axis=0).tolist(),
                        strict=True,
                    )
                },
                "mean_trans": list(self.poses.mean_trans),
                "max_blink": float(self.poses.blink.max()),
            }
        return {
            "name": self.name,
            "licence": self.licence,
            "format_version": _version(self),
            "storage": self.storage,
            "sha256": self.sha256,
            "gaussians": len(self),
            "sh_degree": math.isqrt(self.gaussians.sh.shape[1]) - 1,
            "network": self.network.describe(),
            "frontend": {"kind": self.frontend.kind, "channels": self.frontend.channels},
            "camera": dataclasses.asdict(self.camera),
            "raster": dataclasses.asdict(self.raster),
            "torsos": len(self.torso),
            "poses": poses,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Avatar:
        """Read and validate an avatar file.

        Raises: AvatarError, one line: the file, what is wrong with it, what to do.
        """
        with TensorFile(path) as file:
            try:
                return _read(file)
            except GtError as err:
                message = str(err)
                if message.startswith(f"{file.path}: "):
                    raise
                raise AvatarError(f"{file.path}: {message}") from err


def save_avatar(avatar: Avatar, path: str | os.PathLike[str], storage: Storage = "fp32") -> str:
    """Write an avatar file, whole or not at all; equal avatars give equal bytes.

    Args:
        storage: "fp32" is exact. "fp16" halves the file: positions stay float32, everything else
            that was trained is rounded to float16.

    Returns: hex sha256 of the file.
    Raises: AvatarError when a value does not fit float16, or the file cannot be written.
    """
    if storage not in get_args(Storage):
        raise AvatarError(f'storage = {storage!r}: must be "fp32" or "fp16"')
    tensors = dict(_tensors(avatar))
    if storage == "fp16":
        tensors = {name: _stored_half(name, array) for name, array in tensors.items()}
    return write_tensor_file(path, tensors, _manifest(avatar, storage))


def resolve(path: str | os.PathLike[str]) -> Path:
    """The file that a user's `path` means: "demo" is the avatar inside the package.

    Raises: AvatarError when the package was built without it.
    """
    if path != "demo":
        return Path(path)
    demo = Path(__file__).with_name("assets") / "demo.safetensors"
    if not demo.is_file():
        raise AvatarError(
            f"{demo}: the built-in demo avatar is not part of this installation. Install gt-infer "
            "again, or pass the path of an avatar file."
        )
    return demo


def _tensors(avatar: Avatar) -> list[tuple[str, npt.NDArray[Any]]]:
    """Every array that a file holds, with its name there."""
    gaussians = avatar.gaussians
    tensors: list[tuple[str, npt.NDArray[Any]]] = [
        (f"gaussians.{field.name}", getattr(gaussians, field.name))
        for field in dataclasses.fields(gaussians)
    ]
    tensors += avatar.network.tensors()
    tensors.append(("image.backdrop", avatar.backdrop))
    if len(avatar.torso):
        tensors += [("image.torso", avatar.torso), ("image.torso_poses", avatar.torso_poses)]
    if avatar.poses is not None:
        tensors += [
            ("poses.euler", avatar.poses.euler),
            ("poses.trans", avatar.poses.trans),
            ("poses.blink", avatar.poses.blink),
        ]
    if avatar.frontend.constants is not None:
        constants = avatar.frontend.constants
        tensors += [("frontend.mean", constants.mean), ("frontend.std", constants.std)]
    if avatar.frontend.encoder is not None:
        tensors.append(("frontend.encoder", avatar.frontend.encoder.model))
    return tensors


def _is_halved(name: str) -> bool:
    """Whether fp16 storage rounds this tensor: what was trained, but for positions."""
    return name.startswith(("gaussians.", "network.")) and name not in _ALWAYS_FP32


def _stored_half(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not _is_halved(name):
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise AvatarError(
            f"{name}: its largest magnitude {np.abs(array).max():.4g} is beyond float16 (65504): "
            "use storage fp32"
        )
    if name == "gaussians.quats":
        check_quaternions(half.astype(np.float32), " after rounding to float16: use storage fp32")
    return half


def _version(avatar: Avatar) -> int:
    """The oldest format that can say what the avatar is, so that older readers still read it."""
    return 1 if avatar.frontend.encoder is None else _ENCODER_VERSION


def _frontend_constants(frontend: AudioFrontend) -> dict[str, Any] | None:
    """What of a front-end stands in the manifest; arrays are tensors."""
    if frontend.encoder is not None:
        names = ("left_context", "right_context")
        return {name: getattr(frontend.encoder, name) for name in names}
    if frontend.constants is None:
        return None
    return {
        field.name: getattr(frontend.constants, field.name)
        for field in dataclasses.fields(frontend.constants)
        if field.name not in ("mean", "std")
    }


def _manifest(avatar: Avatar, storage: Storage) -> dict[str, Any]:
    return {
        "version": _version(avatar),
        "name": avatar.name,
        "licence": avatar.licence,
        "storage": storage,
        "gaussians": len(avatar),
        "network": avatar.network.describe(),
        "timing": dataclasses.asdict(TIMING),
        "camera": dataclasses.asdict(avatar.camera),
        "raster": dataclasses.asdict(avatar.raster),
        "frontend": {
            "kind": avatar.frontend.kind,
            "channels": avatar.frontend.channels,
            "constants": _frontend_constants(avatar.frontend),
        },
        "provenance": dict(avatar.provenance),
    }


class _Weights:
    """A file's trained tensors, rounded or not."""

    def __init__(self, file: TensorFile, storage: str) -> None:
        self._file = file
        self._halved = storage == "fp16"

    def has(self, name: str) -> bool:
        return self._file.has(name)

    def take(self, name: str) -> FloatArray:
        return self._file.take_floats(name, half=self._halved and _is_halved(name))


def _read(file: TensorFile) -> Avatar:
    manifest = Section(file.manifest, "manifest")
    version = manifest.integer("version")
    if not 1 <= version <= FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        raise AvatarError(
            f"manifest.version = {version}: this gt_infer reads versions 1 to {FORMAT_VERSION}. "
            + ("Update gt_infer." if newer else "Export the avatar again.")
        )
    storage = manifest.text("storage")
    if storage not in ("fp32", "fp16"):
        raise AvatarError(f"manifest.storage = {short(storage)}: expected fp32 or fp16")
    count = manifest.integer("gaussians")
    widths = manifest.take("network")
    timing = manifest.take("timing")
    if timing != dataclasses.asdict(TIMING):
        raise AvatarError(f"manifest.timing = {short(timing)}: this gt_infer needs {TIMING}")

    weights = _Weights(file, storage)
    gaussians = CanonicalGaussians(
        *(weights.take(f"gaussians.{f.name}") for f in dataclasses.fields(CanonicalGaussians))
    )
    names = Section(widths, "manifest.network")
    heads = names.take("heads")
    network = Network.from_tensors(
        weights,
        n_head=names.integer("n_head"),
        heads=[name for name in HEAD_WIDTHS if isinstance(heads, dict) and name in heads],
    )
    camera = _read_camera(manifest.section("camera"))
    torso = np.zeros((0, camera.height, camera.width, 4), np.uint8)
    torso_poses = np.zeros((0, 3), np.float32)
    if file.has("image.torso"):
        torso = file.take_bytes("image.torso")
        torso_poses = file.take_floats("image.torso_poses")
    poses = None
    if file.has("poses.euler"):
        poses = TrainingPoses(
            *(file.take_floats(f"poses.{n}") for n in ("euler", "trans", "blink"))
        )
    provenance = manifest.take("provenance")
    if not isinstance(provenance, dict):
        raise AvatarError("manifest.provenance: expected a JSON object")
    avatar = Avatar(
        name=manifest.text("name"),
        gaussians=gaussians,
        network=network,
        camera=camera,
        raster=_read_raster(manifest.section("raster")),
        backdrop=file.take_bytes("image.backdrop"),
        torso=torso,
        torso_poses=torso_poses,
        poses=poses,
        frontend=_read_frontend(manifest.section("frontend"), file, version),
        provenance=provenance,
        licence=manifest.text("licence"),
        storage="fp16" if storage == "fp16" else "fp32",
        sha256=file.sha256,
    )
    manifest.finish()
    file.finish()
    if count != len(avatar):
        raise AvatarError(f"manifest.gaussians = {count}, but gaussians.means has {len(avatar)}")
    if widths != network.describe():
        raise AvatarError(
            f"manifest.network = {short(widths)}, but the tensors say {network.describe()}"
        )
    for _, array in _tensors(avatar):
        array.flags.writeable = False
    return avatar


def _read_camera(section: Section) -> Camera:
    width, height = section.integer("width"), section.integer("height")
    focal = section.number("focal")
    section.finish()
    try:
        camera = Camera(width, height, focal)
    except ValueError as err:
        raise AvatarError(f"manifest.camera: {err}") from err
    _check_camera(camera)
    return camera


def _read_raster(section: Section) -> RasterConfig:
    values = {field.name: section.number(field.name) for field in dataclasses.fields(RasterConfig)}
    section.finish()
    return RasterConfig(**values)


def _read_frontend(section: Section, file: TensorFile, version: int) -> AudioFrontend:
    kind, channels = section.text("kind"), section.integer("channels")
    constants = section.take("constants")
    section.finish()
    if kind == "features" and constants is None:
        return AudioFrontend("features", channels)
    if kind == "encoder" and version >= _ENCODER_VERSION:
        fields = Section(constants, "manifest.frontend.constants")
        encoder = SpeechEncoder(
            file.take_bytes("frontend.encoder"),
            channels,
            left_context=fields.integer("left_context"),
            right_context=fields.integer("right_context"),
        )
        fields.finish()
        return AudioFrontend("encoder", channels, encoder=encoder)
    if kind != "logmel29":
        raise AvatarError(
            f"manifest.frontend.kind = {short(kind)}: expected logmel29, encoder or, without "
            "constants, features. Update gt_infer."
        )
    fields = Section(constants, "manifest.frontend.constants")
    read = LogMelConstants(
        mean=file.take_floats("frontend.mean"),
        std=file.take_floats("frontend.std"),
        sample_rate=fields.integer("sample_rate"),
        hop=fields.integer("hop"),
        window=fields.integer("window"),
        n_fft=fields.integer("n_fft"),
        f_min=fields.number("f_min"),
        f_max=fields.number("f_max"),
        eps=fields.number("eps"),
    )
    fields.finish()
    return AudioFrontend("logmel29", channels, read)


def _check(avatar: Avatar) -> None:
    avatar.gaussians.check()
    avatar.network.check(sh_coefficients=avatar.gaussians.sh.shape[1]).raise_first()
    _check_pictures(avatar)
    if avatar.poses is not None:
        avatar.poses.check()
    avatar.frontend.check()
    if avatar.frontend.channels != avatar.network.audio_channels:
        raise AvatarError(
            f"frontend.channels = {avatar.frontend.channels}, but network.audio_conv.0 takes "
            f"{avatar.network.audio_channels}"
        )
    for name in ("name", "licence"):
        if not isinstance(getattr(avatar, name), str):
            raise AvatarError(f"{name} = {getattr(avatar, name)!r}: expected text")


def _check_pictures(avatar: Avatar) -> None:
    _check_camera(avatar.camera)
    width, height = avatar.camera.width, avatar.camera.height
    count = len(avatar.torso)
    for name, array, shape in (
        ("image.backdrop", avatar.backdrop, (height, width, 3)),
        ("image.torso", avatar.torso, (count, height, width, 4)),
    ):
        if array.shape != shape or array.dtype != np.uint8:
            raise AvatarError(
                f"{name}: expected uint8 {list(shape)} (the camera's size), got {array.dtype} "
                f"{list(array.shape)}"
            )
    checks = Checklist()
    checks.array("image.torso_poses", avatar.torso_poses, count, 3)
    checks.raise_first()


def _check_camera(camera: Camera) -> None:
    if max(camera.width, camera.height) > _MAX_PICTURE:
        raise AvatarError(
            f"camera size {short(camera.width)}x{short(camera.height)}: at most {_MAX_PICTURE} "
            "pixels a side"
        )
    low, high = _FOCAL_RANGE
    if not low <= camera.focal <= high:
        raise AvatarError(f"camera focal = {camera.focal}: expected {low:g} to {high:g} pixels")
