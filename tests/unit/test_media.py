"""Video and pictures: what was written is what is seen and heard, and nothing half done is left."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gt_infer.audio.resample import RateConverter
from gt_infer.errors import AudioError, ClosedError, GtError, InputError, MediaError
from gt_infer.media import PngFolderWriter, VideoWriter, read_image, write_png

from ..stream.decoding import decode, lag

RNG = np.random.default_rng(2)
W, H = 64, 48
BLACK = np.zeros((H, W, 3), np.uint8)


def speech_like(samples: int, channels: int) -> np.ndarray:
    """Noise with the low frequencies of speech, which AAC keeps."""
    noise = RNG.standard_normal((samples + 30, channels))
    kernel = np.hanning(31) / 4
    return np.stack(
        [np.convolve(noise[:, c], kernel, "valid")[:samples] * 0.1 for c in range(channels)], axis=1
    ).astype(np.float32)


def flat(color: np.ndarray) -> np.ndarray:
    return np.broadcast_to(color, (H, W, 3)).copy()


def write_video(path: Path, images: np.ndarray) -> None:
    with VideoWriter(path, width=images.shape[2], height=images.shape[1]) as video:
        for image in images:
            video.write_frame(image)


def interrupt(writer: VideoWriter | PngFolderWriter) -> None:
    with writer:
        writer.write_frame(BLACK)
        raise KeyboardInterrupt


@pytest.fixture
def tiny_disk() -> Iterator[None]:
    """No file may grow beyond 20 kB: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestVideo:
    @pytest.mark.parametrize(
        ("rate", "samples", "channels"),
        [
            (16_000, 32_077, 1),
            (44_100, 44_100 + 7, 2),
            (48_000, 48_000 + 1023, 1),
            (8_000, 8_001, 1),
            (96_000, 96_000, 2),
            (12_345, 15_001, 1),  # not an AAC rate
            (192_000, 200_001, 2),  # nor this
            (22_050, 22_051, 6),
            (16_000, 1, 1),
            (48_000, 100, 2),
        ],
    )
    def test_sound_and_frames_come_back_in_sync(
        self, tmp_path: Path, rate: int, samples: int, channels: int
    ) -> None:
        path = tmp_path / "out.mp4"
        sound = speech_like(samples, channels)
        n_frames = -(-samples * 25 // rate)
        colors = RNG.integers(0, 256, (n_frames, 3), dtype=np.uint8)
        with VideoWriter(path, width=W, height=H, sample_rate=rate, channels=channels) as video:
            for i, pieces in enumerate(np.array_split(sound, n_frames)):
                video.write_sound(pieces)
                video.write_frame(flat(colors[i]))
            assert not path.exists()
        assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]

        seen = decode(path)
        assert len(seen.images) == n_frames
        assert seen.times == [Fraction(i, 25) for i in range(n_frames)]
        assert seen.video_seconds == Fraction(n_frames, 25)
        for image, color in zip(seen.images, colors, strict=True):
            # 8-bit YUV rounds three times; crf 18 keeps a flat colour to a level or two.
            np.testing.assert_allclose(image[H // 2, W // 2].astype(int), color, atol=5)

        expected = sound if channels <= 2 else sound.mean(axis=1, keepdims=True)
        if seen.sample_rate != rate:
            assert seen.sample_rate == 48_000
            converter = RateConverter(rate, 48_000, expected.shape[1])
            expected = np.concatenate([converter.push(expected), converter.flush()])
        assert seen.sound is not None
        assert seen.sound_seconds == Fraction(len(expected), seen.sample_rate)  # to the sample
        assert seen.sound.shape == expected.T.shape
        if len(expected) > 5000:
            for heard, given in zip(seen.sound, expected.T, strict=True):
                assert lag(given, heard) == 0
                assert np.corrcoef(given, heard)[0, 1] > 0.95

    def test_without_sound(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "out.mp4", width=W, height=H) as video:
            for _ in range(3):
                video.write_frame(BLACK)
            with pytest.raises(InputError, match="sample_rate"):
                video.write_sound(np.zeros(640, np.float32))
        seen = decode(tmp_path / "out.mp4")
        assert len(seen.images) == 3
        assert seen.sound is None

    def test_starts_playing_before_it_is_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "out.mp4"
        with VideoWriter(path, width=W, height=H, sample_rate=16_000) as video:
            for _ in range(30):
                video.write_sound(speech_like(640, 1))
                video.write_frame(BLACK)
        content = path.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")

    def test_loud_sound_is_clipped(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.mp4", width=W, height=H, sample_rate=16_000) as video:
            video.write_frame(BLACK)
            video.write_sound(np.full(4000, 1e30, np.float32))
            video.write_sound(np.full(4000, -32_768, np.int16))
        sound = decode(tmp_path / "a.mp4").sound
        assert sound is not None
        assert np.isfinite(sound).all()

    def test_replaces_only_when_complete(self, tmp_path: Path) -> None:
        path = tmp_path / "out.mp4"
        path.write_bytes(b"old")
        video = VideoWriter(path, width=W, height=H)
        (part,) = set(tmp_path.iterdir()) - {path}
        assert part.name.startswith("out.mp4.")
        assert part.suffix == ".part"
        with pytest.raises(KeyboardInterrupt):
            interrupt(video)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
        with VideoWriter(path, width=W, height=H) as video:
            video.write_frame(BLACK)
        assert len(decode(path).images) == 1
        assert list(tmp_path.iterdir()) == [path]

    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        link, real = tmp_path / "out.mp4", tmp_path / "real" / "speech.mp4"
        link.symlink_to("real/speech.mp4")  # a relative one; first it points to nothing
        for frames in (1, 2):
            with VideoWriter(link, width=W, height=H) as video:
                assert list(real.parent.glob("*.part")), "written beside what will be replaced"
                for _ in range(frames):
                    video.write_frame(BLACK)
            assert link.is_symlink()
            assert len(decode(real).images) == frames
        assert list(real.parent.iterdir()) == [real]

    def test_a_device_is_not_replaced(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp4")
        (tmp_path / "link.mp4").symlink_to("pipe.mp4")
        for name in ("pipe.mp4", "link.mp4"):
            with pytest.raises(MediaError, match=rf"{name}: cannot write it \(not a file, but"):
                VideoWriter(tmp_path / name, width=W, height=H)
        assert (tmp_path / "pipe.mp4").is_fifo()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"path": 7}, "path = 7: expected a file's name"),
            ({"path": "nul\0.mp4"}, "path = .*: expected a file's name"),
            ({"path": b"a.mp4"}, "path = b'a.mp4': expected a file's name"),
            ({"width": 0}, "width = 0: must be a whole number from 1 to 16384"),
            ({"width": 64.0}, r"width = 64\.0: must be a whole number"),
            ({"height": "48"}, "height = '48': must be a whole number"),
            ({"height": 20_000}, "height = 20000: must be a whole number"),
            ({"fps": 0}, "fps = 0: must be a whole number from 1 to 1000"),
            ({"fps": None}, "fps = None: must be"),
            ({"sample_rate": 0}, "sample_rate = 0: must be"),
            ({"sample_rate": 16e3}, r"sample_rate = 16000\.0: must be"),
            ({"sample_rate": 16_000, "channels": 0}, "channels = 0: must be"),
        ],
    )
    def test_wrong_arguments(self, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
        arguments: dict[str, Any] = {"path": tmp_path / "out.mp4", "width": W, "height": H} | wrong
        with pytest.raises(InputError, match=message):
            VideoWriter(arguments.pop("path"), **arguments)
        assert list(tmp_path.iterdir()) == []

    def test_two_writers_of_one_file_do_not_mix(self, tmp_path: Path) -> None:
        path = tmp_path / "out.mp4"
        with (
            VideoWriter(path, width=W, height=H) as first,
            VideoWriter(path, width=W, height=H) as second,
        ):
            first.write_frame(BLACK)
            for _ in range(2):
                second.write_frame(BLACK)
        assert len(decode(path).images) == 1
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("frames", [30, 3])
    def test_disk_full(self, tmp_path: Path, frames: int, tiny_disk: None) -> None:
        path = tmp_path / "out.mp4"
        noise = RNG.integers(0, 256, (frames, 128, 128, 3), dtype=np.uint8)
        with pytest.raises(MediaError, match=r"out\.mp4: cannot write it \(File too large\)"):
            write_video(path, noise)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "error", "message"),
        [
            ("missing/out.mp4", MediaError, "No such file or directory"),
            ("file/out.mp4", MediaError, "Not a directory"),
            ("folder.mp4", MediaError, "is a folder"),
            ("x" * 300 + ".mp4", MediaError, "File name too long"),
            ("out.avi", InputError, r"must end in \.mp4"),
            ("out", InputError, r"must end in \.mp4"),
        ],
    )
    def test_unwritable(
        self, tmp_path: Path, name: str, error: type[GtError], message: str
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "folder.mp4").mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(error, match=message) as caught:
            VideoWriter(tmp_path / name, width=W, height=H)
        assert str(tmp_path) in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["http:a.mp4", "-o.mp4", "a%03d.mp4", "ä b.MP4"])
    def test_odd_names_are_just_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with VideoWriter(name, width=W, height=H) as video:
            video.write_frame(BLACK)
        assert [file.name for file in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47)])
    def test_odd_sizes(self, tmp_path: Path, width: int, height: int) -> None:
        with pytest.raises(InputError, match=f"{width}x{height} pixels .* must be even"):
            VideoWriter(tmp_path / "out.mp4", width=width, height=height)
        assert list(tmp_path.iterdir()) == []

    def test_wrong_frames_and_sound(self, tmp_path: Path) -> None:
        with VideoWriter(
            tmp_path / "out.mp4", width=W, height=H, sample_rate=8_000, channels=2
        ) as video:
            video.write_frame(BLACK)
            wrong: list[Any] = [BLACK[:-2], BLACK.astype(np.float32), np.dstack([BLACK, BLACK])]
            for image in [*wrong, BLACK.tolist(), None]:
                with pytest.raises(InputError, match=r"image: expected uint8 \[48, 64, 3\], got"):
                    video.write_frame(image)
            with pytest.raises(InputError, match=r"expected \[n, 2\], got \[10\]"):
                video.write_sound(np.zeros(10, np.float32))
            with pytest.raises(AudioError, match=r"samples\[1\]"):
                video.write_sound(np.array([[0, 0], [0, np.nan]], np.float32))
            video.write_frame(np.asfortranarray(BLACK))
        assert len(decode(tmp_path / "out.mp4").images) == 2

    def test_closing(self, tmp_path: Path) -> None:
        video = VideoWriter(tmp_path / "out.mp4", width=W, height=H)
        video.write_frame(BLACK)
        video.close()
        video.close()
        video.discard()
        assert len(decode(tmp_path / "out.mp4").images) == 1
        with pytest.raises(ClosedError, match=r"out\.mp4"):
            video.write_frame(BLACK)

    def test_no_frame_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no frame was written"):
            VideoWriter(tmp_path / "out.mp4", width=W, height=H).close()
        assert list(tmp_path.iterdir()) == []


class TestPngFolder:
    def test_frames(self, tmp_path: Path) -> None:
        images = RNG.integers(0, 256, (3, H, W, 3), dtype=np.uint8)
        with PngFolderWriter(tmp_path / "frames") as folder:
            for image in images:
                folder.write_frame(image)
            assert not (tmp_path / "frames").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["frames"]
        names = sorted(path.name for path in (tmp_path / "frames").iterdir())
        assert names == ["000000.png", "000001.png", "000002.png"]
        for name, image in zip(names, images, strict=True):
            np.testing.assert_array_equal(read_image(tmp_path / "frames" / name), image)
        with pytest.raises(ClosedError):
            folder.write_frame(BLACK)

    def test_an_interrupted_one_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            interrupt(PngFolderWriter(tmp_path / "frames"))
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_folder_may_be_there(self, tmp_path: Path) -> None:
        (tmp_path / "frames").mkdir()
        with PngFolderWriter(tmp_path / "frames") as folder:
            folder.write_frame(BLACK)
        with pytest.raises(MediaError, match="frames: exists and is not an empty folder"):
            PngFolderWriter(tmp_path / "frames")
        assert len(list((tmp_path / "frames").iterdir())) == 1

    def test_a_link_to_an_empty_folder_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "frames").symlink_to("real")
        with PngFolderWriter(tmp_path / "frames") as folder:
            folder.write_frame(BLACK)
        assert (tmp_path / "frames").is_symlink()
        assert [path.name for path in (tmp_path / "real").iterdir()] == ["000000.png"]

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "frames").write_bytes(b"")
        with pytest.raises(MediaError, match="not an empty folder"):
            PngFolderWriter(tmp_path / "frames")
        with pytest.raises(MediaError, match="Not a directory"):
            PngFolderWriter(tmp_path / "frames" / "deeper")


class TestPictures:
    @pytest.mark.parametrize("channels", [3, 4])
    @pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 17), (64, 100)])
    def test_png_round_trip(self, tmp_path: Path, height: int, width: int, channels: int) -> None:
        image = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
        write_png(tmp_path / "a.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_jpeg(self, tmp_path: Path) -> None:
        """Baseline JPEG, 4:4:4, written by FFmpeg at its best quality: smooth colours survive."""
        y, x = np.mgrid[0:64, 0:64]
        image = np.stack([x * 4, y * 4, (x + y) * 2], axis=-1).astype(np.uint8)
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width = encoder.height = 64
        encoder.pix_fmt = "yuvj444p"
        encoder.time_base = Fraction(1, 1)
        encoder.options = {"qmin": "1", "qmax": "1"}
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj444p")
        (packet,) = encoder.encode(frame)
        (tmp_path / "a.jpg").write_bytes(bytes(packet))
        seen = read_image(tmp_path / "a.jpg")
        assert seen.shape == (64, 64, 3)
        assert np.abs(seen.astype(int) - image).max() <= 6

    def test_pictures_of_a_dataset(self, shared: Path) -> None:
        dataset = shared / "dataset" / "anna"
        assert read_image(dataset / "bc.jpg").shape == (512, 512, 3)
        torso = read_image(dataset / "torso_imgs" / "0.png")
        assert torso.shape == (512, 512, 4)
        assert {0, 255} <= set(np.unique(torso[..., 3]).tolist())

    def test_not_a_picture(self, tmp_path: Path) -> None:
        write_png(tmp_path / "whole.png", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        whole = (tmp_path / "whole.png").read_bytes()
        huge = whole[:16] + b"\0\0\xff\xff\0\0\xff\xff" + whole[24:]
        path = tmp_path / "picture.png"
        for content in (
            b"",
            b"\x89PNG",
            whole[:30],
            whole[: len(whole) // 2],
            huge,
            b"\xff\xd8\xff",
            b"\xff\xd8\xff\xe0" + bytes(200),
            b"#EXTM3U\nhttp://example.invalid/a.ts\n",
        ):
            path.write_bytes(content)
            with pytest.raises(MediaError, match=r"picture\.png: "):
                read_image(path)
        for missing in (tmp_path / "missing.png", tmp_path):
            with pytest.raises(MediaError, match=r"No such file|Is a directory"):
                read_image(missing)

    def test_unwritable(self, tmp_path: Path, tiny_disk: None) -> None:
        noise = RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        with pytest.raises(MediaError, match=r"a\.png: cannot write it \(File too large\)"):
            write_png(tmp_path / "a.png", noise)
        with pytest.raises(MediaError, match="No such file or directory"):
            write_png(tmp_path / "missing" / "a.png", BLACK)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "image",
        [BLACK.astype(np.float32), BLACK[..., 0], BLACK[..., :2], BLACK[:0], BLACK.tolist(), None],
        ids=["float", "2-D", "2 channels", "empty", "list", "None"],
    )
    def test_wrong_arrays(self, tmp_path: Path, image: Any) -> None:
        with pytest.raises(InputError, match=r"image: expected uint8 \[H, W, 3 or 4\], got"):
            write_png(tmp_path / "a.png", image)

    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real.png").write_bytes(b"old")
        (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
        write_png(tmp_path / "link.png", BLACK)
        assert (tmp_path / "link.png").is_symlink()
        np.testing.assert_array_equal(read_image(tmp_path / "real.png"), BLACK)
        with pytest.raises(InputError, match="path = 3: expected a file's name"):
            write_png(3, BLACK)  # type: ignore[arg-type]
