"""What is fuzzed: for each kind of file valid seeds, ways to damage them, and the reader.

A reader returns when what it read is valid by its own documentation, and raises otherwise: a
`GtError` for what it refused, AssertionError when it gave something that it should not.
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gt_infer import Avatar, EngineConfig, LifeConfig, Pose, Renderer
from gt_infer.audio import PrecomputedFeatures, SoundReader, stream_mono16k
from gt_infer.avatar import save_avatar
from gt_infer.media import read_image
from gt_infer.tracking import read_blink, read_poses
from tests import official_layout
from tests.fuzz import mutations as m
from tests.synthetic import make_avatar

Reader = Callable[[Path], object]
Seeds = Callable[[], list[bytes]]


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        suffix: of the file, which some readers look at.
        seeds: valid files.
        mutations: how they are damaged, each as likely.
        read: see above.
        share: of a run's cases.
        constant: bytes that reading may take beyond twice the file: decoders' tables and blocks.
        unpacked: bytes that the file's content takes where it is packed more than that.
    """

    suffix: str
    seeds: Seeds
    mutations: tuple[m.Mutation, ...]
    read: Reader
    share: float
    constant: int
    unpacked: Callable[[bytes], int] = lambda data: 0


MIB = 1 << 20


def small_avatar() -> Avatar:
    return make_avatar(n=6, d_model=32, size=16)


# Avatars.


def avatar_seeds() -> list[bytes]:
    avatars = (
        (small_avatar(), "fp32"),
        (small_avatar(), "fp16"),
        (make_avatar(n=3, d_model=32, size=16, channels=5, heads=("means",), torsos=2), "fp16"),
    )
    return [_written(lambda path, a=a, s=s: save_avatar(a, path, s)) for a, s in avatars]


def read_avatar(path: Path) -> None:
    avatar = Avatar.load(path)
    json.dumps(avatar.describe(), allow_nan=False)  # what gt-info prints
    # What loads renders: numbers may be absurd, the picture is one.
    life = LifeConfig(idle_motion=False, blinking=False)
    config = EngineConfig(threads=1)
    with Renderer(avatar, size=64, output="float32", life=life, config=config) as renderer:
        shape = (8, avatar.network.audio_channels, 16)
        picture = renderer.render_window(
            np.zeros(shape, np.float32), Pose((0.1, 0.0, 0.0), (0.0, 0.0, -10.0))
        )
    assert np.isfinite(picture).all(), "a picture with NaN or inf"


# Sound.


def sound_seeds() -> list[bytes]:
    import soundfile

    def encoded(rate: int, channels: int, format: str, subtype: str) -> bytes:
        rng = np.random.default_rng(rate)
        sound = rng.uniform(-0.5, 0.5, (rate // 8, channels))
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, rate, format=format, subtype=subtype)
        return buffer.getvalue()

    return [
        encoded(16_000, 1, "WAV", "PCM_16"),
        encoded(16_000, 1, "WAV", "PCM_16"),
        encoded(48_000, 2, "WAV", "FLOAT"),
        encoded(22_050, 1, "WAVEX", "PCM_24"),
        encoded(8_000, 1, "WAV", "IMA_ADPCM"),
        encoded(16_000, 1, "AIFF", "PCM_16"),
        encoded(16_000, 2, "FLAC", "PCM_16"),
        encoded(16_000, 1, "OGG", "VORBIS"),
        encoded(16_000, 1, "MP3", "MPEG_LAYER_III"),
    ]


def read_sound(path: Path) -> None:
    with SoundReader(path) as sound:
        samples, rate = sound.samples, sound.sample_rate
    given = 0
    for block in stream_mono16k(path):
        assert np.isfinite(block).all()
        given += len(block)
    assert given == -(-samples * 16_000 // rate), f"{given} samples of {samples} at {rate} Hz"


def feature_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(7, 16, 29))
    arrays = [features.astype(kind) for kind in ("<f4", "<f2", ">f8")]
    arrays.append(np.asfortranarray(arrays[0]))
    return [_written(lambda path, a=a: np.save(path, a), ".npy") for a in arrays]


def read_features(path: Path) -> None:
    features = PrecomputedFeatures(path)
    for frame in (0, features.n_frames - 1):
        window = features.window(frame)
        assert window.shape == (8, features.channels, 16)
        assert np.isfinite(window).all()


# What gt-export reads.


def cfg_args_seeds() -> list[bytes]:
    def text(**settings: object) -> bytes:
        return _written(lambda path: official_layout.write_cfg_args(path, settings))

    return [text(), text(n_head=4, source_path="a'b", bounds=1.6, net_width=(1, 2.5, None))]


def read_cfg_args(path: Path) -> None:
    from gt_export import cfg_args

    settings = cfg_args.read_cfg_args(path)
    assert all(isinstance(key, str) for key in settings)
    cfg_args.take_bool(settings, "no_dx", path)
    cfg_args.take_int(settings, "n_head", path)


def ply_seeds() -> list[bytes]:
    def cloud(n: int, degree: int) -> bytes:
        gaussians = make_avatar(n=n, sh_degree=degree).gaussians
        return _written(lambda path: official_layout.write_ply(path, gaussians))

    return [cloud(9, 3), cloud(40, 1)]


def read_ply(path: Path) -> None:
    from gt_export import checkpoint

    checkpoint._read_gaussians(path).check()


def checkpoint_seeds() -> list[bytes]:
    import torch

    state = official_layout.state_dict(small_avatar().network)
    older = {name: value.half() for name, value in state.items()}
    return [
        _written(lambda path: torch.save(state, path), ".pth"),
        _written(lambda path: torch.save(older, path), ".pth"),
    ]


def read_networks(path: Path) -> None:
    """The networks of a model directory whose other files are fine."""
    from gt_export import checkpoint

    found = checkpoint.read_checkpoint(_model_directory(path))
    problems = found.network.check(found.gaussians.sh.shape[1]).problems
    assert not problems, problems


@functools.cache
def _model_directory(path: Path) -> Path:
    """A model directory whose deformation.pth is `path`."""
    root = path.with_name(f"{path.name}.model")
    shutil.rmtree(root, ignore_errors=True)
    step = official_layout.write_model(root, small_avatar())
    (step / "deformation.pth").unlink()
    (step / "deformation.pth").symlink_to(path)
    return root


# Recordings.


def track_params_seeds() -> list[bytes]:
    import torch

    rng = np.random.default_rng(0)
    tensors = {
        "euler": torch.tensor(rng.normal(0, 0.1, (6, 3)), dtype=torch.float32),
        "trans": torch.tensor(rng.normal(0, 0.1, (6, 3))),
        "focal": torch.tensor([1200.0]),
    }
    return [_written(lambda path: torch.save(tensors, path), ".pt")]


def transforms_seeds() -> list[bytes]:
    matrix = official_layout.transform_matrix(np.array([0.1, -0.2, 0.05]), np.array([0, 0, -10.0]))
    frame = {"img_id": 0, "aud_id": 0, "transform_matrix": matrix}
    content = {"focal_len": 1200.0, "cx": 256.0, "cy": 256.0, "frames": [frame, frame]}
    return [json.dumps(content).encode()]


def read_tracked(path: Path) -> None:
    for pose in read_poses(path):
        assert np.isfinite(pose.viewmat()).all()
        assert np.isfinite(pose.camera_vector()).all()


def blink_seeds() -> list[bytes]:
    rows = [f"{i}, {i * 0.04:.3f}, {i * 0.1:.2f}" for i in range(30)]
    return ["\n".join(["frame, timestamp, AU45_r", *rows]).encode()]


def read_blinks(path: Path) -> None:
    blink = read_blink(path)
    assert ((blink >= 0) & (blink <= 1)).all()


# Pictures.


def picture_seeds() -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(24), 3 * np.arange(40)).astype(np.uint8)
    noise = rng.integers(0, 256, (24, 40, 4), np.uint8)

    def encoded(image: Any, format: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    grey, color = Image.fromarray(smooth), Image.fromarray(noise)
    return [
        encoded(color, "PNG"),
        encoded(color.convert("RGB"), "PNG"),
        encoded(grey.convert("P"), "PNG"),
        encoded(grey, "PNG"),
        encoded(color.convert("RGB"), "JPEG", quality=85),
        encoded(grey, "JPEG", progressive=True),
    ]


def read_picture(path: Path) -> None:
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] in (3, 4)


def unpacked_picture(data: bytes) -> int:
    """Bytes of the picture that the header claims, up to 16 a pixel while it is converted; no more
    pixels than a file of its length can have."""
    if data.startswith(b"\x89PNG"):
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        return 16 * min(width * height, 8 * 1032 * len(data))
    sizes = re.findall(rb"\xff[\xc0-\xc3].{3}(.{4})", data, re.DOTALL)
    claimed = max((math.prod(struct.unpack(">HH", size)) for size in sizes), default=0)
    return 16 * min(claimed, 64 * 8 * len(data))


def mutate_picture(data: bytes, rng: Any) -> bytes:
    return m.png(data, rng) if data.startswith(b"\x89PNG") else m.anything(data, rng)


TARGETS: Mapping[str, Target] = {
    "avatar": Target(
        ".safetensors",
        avatar_seeds,
        (m.anything, m.safetensors, m.safetensors, m.safetensors, m.floats),
        read_avatar,
        share=0.22,
        constant=8 * MIB,
    ),
    "sound": Target(
        ".wav",
        sound_seeds,
        (m.anything, m.near_start(64)),
        read_sound,
        share=0.22,
        constant=4 * MIB,
    ),
    "features": Target(
        ".npy",
        feature_seeds,
        (m.anything, m.near_start(128), m.numerals),
        read_features,
        share=0.05,
        constant=4 * MIB,
    ),
    "cfg_args": Target(
        "",
        cfg_args_seeds,
        (m.anything, m.numerals, m.near_start(200)),
        read_cfg_args,
        share=0.2,
        constant=4 * MIB,
    ),
    "ply": Target(
        ".ply",
        ply_seeds,
        (m.anything, m.near_start(1500), m.lines, m.numerals, m.floats),
        read_ply,
        share=0.2,
        constant=4 * MIB,
    ),
    "networks": Target(
        ".pth",
        checkpoint_seeds,
        (m.anything, m.zipped, m.zipped),
        read_networks,
        share=0.02,
        constant=8 * MIB,
    ),
    "track_params": Target(
        ".pt",
        track_params_seeds,
        (m.anything, m.zipped, m.zipped),
        read_tracked,
        share=0.03,
        constant=4 * MIB,
    ),
    "transforms": Target(
        ".json",
        transforms_seeds,
        (m.anything, m.json_text, m.numerals),
        read_tracked,
        share=0.02,
        constant=4 * MIB,
    ),
    "blink": Target(
        ".csv",
        blink_seeds,
        (m.anything, m.lines, m.numerals),
        read_blinks,
        share=0.02,
        constant=4 * MIB,
    ),
    "picture": Target(
        ".png",
        picture_seeds,
        (m.anything, mutate_picture),
        read_picture,
        share=0.02,
        constant=4 * MIB,
        unpacked=unpacked_picture,
    ),
}


def _written(write: Callable[[Path], object], suffix: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"seed{suffix}"
        write(path)
        return path.read_bytes()
