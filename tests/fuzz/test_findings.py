"""What fuzzing found, each once: made small, and named."""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from gt_infer import AudioError, Avatar, AvatarError, EngineConfig, MediaError, Renderer
from gt_infer.audio import PrecomputedFeatures, stream_mono16k
from gt_infer.media import read_image
from gt_infer.types import Camera
from tests.fuzz.harness import _memory, _start_peak
from tests.fuzz.targets import small_avatar

MIB = 1 << 20


def png(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(64))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_a_tiny_picture_that_claims_to_be_huge_costs_nothing(tmp_path: Path) -> None:
    read = tmp_path / "warm.png"
    read.write_bytes(png(8, 8))
    read_image(read)  # FFmpeg's own tables are not what is measured
    path = tmp_path / "bomb.png"
    path.write_bytes(png(16_000, 16_000))  # FFmpeg alone would take 256 MB to find out
    before = _start_peak()
    with pytest.raises(MediaError, match=r"bomb\.png: damaged, or it claims more than \d+ pixels"):
        read_image(path)
    assert _memory("VmHWM") - before < 8 * MIB


def test_a_picture_as_small_as_its_format_can_pack_it_is_read(tmp_path: Path) -> None:
    """The limit is the format's own: a white page in black and white is all but nothing."""
    image = pytest.importorskip("PIL.Image", reason="writes the pictures")
    for name, mode in (("white.png", "1"), ("white.png", "L"), ("white.jpg", "L")):
        image.new(mode, (4000, 3000), 1 if mode == "1" else 255).save(
            tmp_path / name, optimize=True
        )
        assert read_image(tmp_path / name).shape == (3000, 4000, 3)
    image.new("L", (4000, 3000)).save(tmp_path / "white.jpg", progressive=True, optimize=True)
    assert read_image(tmp_path / "white.jpg").shape == (3000, 4000, 3)


def test_what_a_library_quotes_from_a_file_is_harmless_in_a_terminal(tmp_path: Path) -> None:
    header = json.dumps({"tensor": {"dtype": "\x1b[31m", "shape": [], "data_offsets": [0, 0]}})
    path = tmp_path / "red.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(AvatarError, match="not a safetensors file") as refused:
        Avatar.load(path)
    assert str(refused.value).isprintable()


def test_torchs_advice_to_trust_the_file_is_not_passed_on(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="reads checkpoints")
    from gt_export import checkpoint

    from gt_infer import CheckpointError
    from tests import official_layout

    step = official_layout.write_model(tmp_path / "model", small_avatar())
    torch.save({"null_vector": small_avatar}, step / "deformation.pth")
    with pytest.raises(CheckpointError) as refused:
        checkpoint.read_checkpoint(tmp_path / "model")
    message = str(refused.value)
    assert "small_avatar" in message
    assert "weights_only" not in message
    assert "option" not in message
    assert message.isprintable()


def test_numpys_advice_to_trust_the_file_is_not_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    np.save(path, np.zeros((2, 16, 29), np.float32))
    stored = path.read_bytes()
    header = stored[10:128].rstrip() + b" " * 20_000 + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(AudioError, match="not a plain") as refused:
        PrecomputedFeatures(path)
    assert "pickle" not in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_rate_that_no_float_holds_is_refused() -> None:
    avatar = small_avatar()
    assert avatar.frontend.constants is not None
    constants = dataclasses.replace(avatar.frontend.constants, sample_rate=10**400)
    with pytest.raises(AvatarError, match="sample_rate, hop = "):
        dataclasses.replace(
            avatar, frontend=dataclasses.replace(avatar.frontend, constants=constants)
        )


def test_names_in_a_track_params_are_harmless_in_a_terminal(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes the file")
    from gt_infer import InputError
    from gt_infer.tracking import read_poses

    saved, path = tmp_path / "saved.pt", tmp_path / "track_params.pt"
    torch.save({"euler": torch.zeros(2, 3), "trans": torch.zeros(2, 3)}, saved)
    with zipfile.ZipFile(saved) as entries, zipfile.ZipFile(path, "w") as changed:
        for name in entries.namelist():
            content = entries.read(name)
            changed.writestr(name, content.replace(b"FloatStorage", b"Float\x1b[31mge"))
    with pytest.raises(InputError, match="expected float32 or float64") as refused:
        read_poses(path)
    assert str(refused.value).isprintable()


def test_sound_beyond_all_scale_is_refused_before_filters_overflow(tmp_path: Path) -> None:
    import soundfile

    loud = np.full((4800, 2), 3e38, np.float32)
    path = tmp_path / "loud.wav"
    soundfile.write(path, loud, 48_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav: sample 0 .* its full scale is 1\.0"):
        list(stream_mono16k(path))
    with Renderer(small_avatar(), size=64, config=EngineConfig(threads=1)) as renderer:
        session = renderer.session()
        with pytest.raises(AudioError, match=r"its full scale is 1\.0"):
            session.push(loud, 48_000)
        session.push(np.full((4800, 2), 1e35, np.float32) * np.float32(0.99), 48_000)
        session.flush()
        assert len(list(session.frames())) == 3


@pytest.mark.parametrize("focal", [1e308, 1e-320, 0.5, 2e6])
def test_a_camera_that_cannot_be_scaled_is_refused(focal: float) -> None:
    avatar = small_avatar()
    with pytest.raises(AvatarError, match=r"camera focal = .*: expected 1 to 1e"):
        dataclasses.replace(avatar, camera=Camera(16, 16, focal))
