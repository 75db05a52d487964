"""Pictures and video: PNG and JPEG in, PNG and MP4 out.

A file appears under its name only when it is complete: it is written beside it as
`NAME.xxxxxxxx.part` and renamed at the end. Where the name is a symbolic link, what it points to is
written, as by `open`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .audio.resample import RateConverter, check_sample_rate
from .audio.samples import as_float32, mix_to_mono
from .config import TIMING
from .destination import destination
from .errors import ClosedError, InputError, MediaError
from .types import FloatArray

__all__ = ["PngFolderWriter", "VideoWriter", "read_image", "write_png"]

Image = npt.NDArray[np.uint8]

_X264 = {"crf": "18", "preset": "veryfast"}
_X264_THREADS = 2  # one encodes faster than any CPU engine renders; the engine needs the cores
_AAC_RATES = (
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
)  # fmt: skip
_AAC_FRAME = 1024  # samples
_X264_SIDE = 16_384  # pixels, the encoder's own limit
_MAX_FPS = 1000
_MAX_CHANNELS = 1024  # libsndfile's, so that any sound file's fit
_BT709 = 1  # ITU-T H.273: primaries, transfer and matrix of BT.709 are all code 1
_MAX_PIXELS = 1 << 26
# FFmpeg's demuxers by a file's first bytes. Naming them keeps a file from choosing one itself:
# some fetch what the file says from the network.
_IMAGE_FORMATS = {b"\x89PNG\r\n\x1a\n": "png_pipe", b"\xff\xd8\xff": "jpeg_pipe"}
# No picture has more pixels per byte of its file: deflate packs 1032 to 1 and a PNG has a bit per
# pixel or more; a JPEG has a bit per block of 8x8 or more.
_PIXELS_PER_BYTE = {"png_pipe": 8 * 1032, "jpeg_pipe": 64 * 8}


class VideoWriter:
    """Writes an MP4: H.264 (4:2:0, BT.709) at a constant frame rate and, optionally, AAC sound.

    Frames and sound are encoded as they come; write them alternately, so that neither runs far
    ahead. What stays in memory is the file's index, 17 MB for an hour. Frame i is shown at exactly
    i / fps and sample j heard at exactly j / sample_rate: an edit list hides the encoder's priming.

        with VideoWriter("out.mp4", width=512, height=512, sample_rate=44100, channels=2) as video:
            video.write_sound(samples)
            video.write_frame(image)

    Leaving the block completes the file; leaving it by an exception removes it.

    Args:
        path: ends in .mp4. An existing file is replaced when the new one is complete.
        width, height: pixels, both even (4:2:0 stores colours for 2x2 pixels).
        fps: frames per second.
        sample_rate: of the sound, Hz; None writes no sound. A rate that AAC does not have is
            converted to 48 kHz.
        channels: of the sound; mono and stereo are kept, more are mixed to mono.

    Raises:
        InputError: a size that is odd or no size, a name that does not end in .mp4, or another
            argument out of range.
        MediaError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        fps: int = TIMING.fps,
        sample_rate: int | None = None,
        channels: int = 1,
    ) -> None:
        self.path = _checked_path(path)
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"{self.path}: the video's name must end in .mp4")
        for name, value, most in (
            ("width", width, _X264_SIDE),
            ("height", height, _X264_SIDE),
            ("fps", fps, _MAX_FPS),
            ("channels", channels, _MAX_CHANNELS),
        ):
            if not (isinstance(value, int | np.integer) and 1 <= value <= most):
                raise InputError(f"{name} = {value!r}: must be a whole number from 1 to {most}")
        if sample_rate is not None:
            check_sample_rate(sample_rate)
        if width % 2 or height % 2:
            raise InputError(
                f"{self.path}: {width}x{height} pixels cannot be stored as H.264, whose colours "
                "lie on 2x2 pixels: width and height must be even"
            )
        self._shape = (int(height), int(width), 3)
        self._frames = 0
        self._sound: _SoundTrack | None = None
        self._container: Any = None
        with _errors_name(self.path):
            self._target = destination(self.path)
        self._part = _part_beside(self._target)
        try:
            with _errors_name(self.path):
                self._open(int(fps), sample_rate, int(channels))
        except BaseException:
            self.discard()
            raise

    def _open(self, fps: int, sample_rate: int | None, channels: int) -> None:
        import av

        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder")
        if "libx264" not in av.codecs_available:
            raise MediaError(
                f"{self.path}: this build of PyAV {av.__version__} has no H.264 encoder (libx264). "
                "Its wheels on PyPI have: pip install --force-reinstall --only-binary :all: av"
            )
        # FFmpeg opens its output late; this says at once that it cannot be written.
        with open(self._part, "xb"):
            pass
        options = {"movflags": "+faststart"}
        if sample_rate is not None:
            self._sound = _SoundTrack(sample_rate, channels)
            # Of the edit list, which says how long each track is: at the default of 1 ms it would
            # not tell the sound's last sample. 40 ms is a whole number of any AAC rate's samples.
            options["movie_timescale"] = str(self._sound.rate)
        # "file:" keeps a name such as a:b.mp4 from being taken for a network protocol.
        self._container = av.open(f"file:{self._part}", "w", format="mp4", options=options)
        self._video = self._container.add_stream("libx264", rate=fps, options=dict(_X264))
        context = self._video.codec_context
        context.height, context.width, _ = self._shape
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, fps)
        context.thread_count = _X264_THREADS
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._time_base = context.time_base
        if self._sound is not None:
            self._sound.open(self._container)

    def write_frame(self, image: Image) -> None:
        """Appends one frame, uint8 [height, width, 3], RGB.

        Raises:
            InputError: another shape or dtype.
            ClosedError: the writer was closed.
            MediaError: the disk is full, or similar.
        """
        self._check_open()
        if not (
            isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == self._shape
        ):
            raise InputError(f"image: expected uint8 {list(self._shape)}, got {_kind(image)}")
        import av
        from av.video.reformatter import Colorspace

        with _errors_name(self.path):
            # The range is limited by default; PyAV 12 makes it full when asked for limited.
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709
            )
            picture.pts = self._frames
            picture.time_base = self._time_base
            self._container.mux(self._video.encode(picture))
        self._frames += 1

    def write_sound(self, samples: npt.NDArray[Any]) -> None:
        """Appends sound, float32 or int16 [n, channels] (or [n] when there is one channel).

        Raises:
            InputError: another shape or dtype, or the writer was opened without sound.
            AudioError: NaN or inf.
            ClosedError: the writer was closed.
            MediaError: the disk is full, or similar.
        """
        self._check_open()
        if self._sound is None:
            raise InputError("write_sound: give the VideoWriter a sample_rate")
        sound = self._sound.checked(samples)
        with _errors_name(self.path):
            self._container.mux(self._sound.encode(sound))

    def close(self) -> None:
        """Completes the file and gives it its name. Closing twice does nothing."""
        if self._container is None:
            return
        try:
            if self._frames == 0:
                raise InputError(f"{self.path}: no frame was written")
            with _errors_name(self.path):
                if self._sound is not None:
                    self._container.mux(self._sound.finish())
                self._container.mux(self._video.encode(None))
                self._container.close()
                os.replace(self._part, self._target)
            self._container = None
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes what was written, unless the file is complete already."""
        # First the name, so that nothing is left even if closing fails: it may, on a full disk.
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
        container, self._container = self._container, None
        if container is not None:
            with suppress(Exception):
                container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _check_open(self) -> None:
        if self._container is None:
            raise ClosedError(f"{self.path}: the video was closed")


class _SoundTrack:
    """Float samples of any rate to AAC packets, in frames of 1024 with exact time stamps."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.rate = sample_rate if sample_rate in _AAC_RATES else 48_000
        self._given_channels = channels
        self._channels = channels if channels <= 2 else 1
        self._converter = RateConverter(sample_rate, self.rate, self._channels)
        self._pending: FloatArray = np.zeros((0, self._channels), np.float32)
        self._samples = 0

    def open(self, container: Any) -> None:
        self._stream = container.add_stream("aac", rate=self.rate)
        context = self._stream.codec_context
        context.layout = "mono" if self._channels == 1 else "stereo"
        context.format = "fltp"
        context.time_base = Fraction(1, self.rate)
        # AAC has room for 6 bits per sample and channel; speech is clear well below 96 kbit/s.
        context.bit_rate = self._channels * min(4 * self.rate, 96_000)

    def checked(self, samples: npt.NDArray[Any]) -> FloatArray:
        """What was given as float32 [n, channels of the track]."""
        sound = as_float32(samples)
        if sound.ndim == 1:
            sound = sound[:, np.newaxis]
        if sound.shape[1] != self._given_channels:
            raise InputError(
                f"samples: expected [n, {self._given_channels}], got {list(samples.shape)}"
            )
        return sound if self._channels == self._given_channels else mix_to_mono(sound)

    def encode(self, sound: FloatArray) -> list[Any]:
        return self._packets(self._converter.push(sound), at_least=_AAC_FRAME)

    def finish(self) -> list[Any]:
        packets = self._packets(self._converter.flush(), at_least=1)
        packets += self._stream.encode(None)
        return packets

    def _packets(self, sound: FloatArray, *, at_least: int) -> list[Any]:
        import av

        packets: list[Any] = []
        pending = np.concatenate([self._pending, sound])
        while len(pending) >= at_least:
            # Louder than full scale cannot be played, and the encoder fails far beyond it.
            piece = np.clip(pending[:_AAC_FRAME].T, -1.0, 1.0)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(piece),
                format="fltp",
                layout="mono" if self._channels == 1 else "stereo",
            )
            frame.sample_rate = self.rate
            frame.pts = self._samples
            frame.time_base = Fraction(1, self.rate)
            packets += self._stream.encode(frame)
            self._samples += piece.shape[1]
            pending = pending[_AAC_FRAME:]
        self._pending = pending
        return packets


class PngFolderWriter:
    """Writes frames as DIR/000000.png, 000001.png, ...

    The folder has its name only when it is complete; until then it is `DIR.xxxxxxxx.part`. Leaving
    the block by an exception removes it.

    Raises:
        MediaError: DIR exists and is not an empty folder, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _checked_path(path)
        with _errors_name(self.path):
            self._target = target = destination(self.path)
            if target.exists() and not (target.is_dir() and not any(target.iterdir())):
                raise MediaError(f"{self.path}: exists and is not an empty folder")
            self._part = _part_beside(target)
            self._part.mkdir()
        self._frames = 0
        self._is_open = True

    def write_frame(self, image: Image) -> None:
        """Writes the next frame, uint8 [H, W, 3 or 4]. Raises: see `write_png`, ClosedError."""
        if not self._is_open:
            raise ClosedError(f"{self.path}: the folder is complete")
        write_png(self._part / f"{self._frames:06d}.png", image)
        self._frames += 1

    def close(self) -> None:
        """Gives the folder its name. Closing twice does nothing."""
        if not self._is_open:
            return
        try:
            with _errors_name(self.path):
                os.replace(self._part, self._target)
            self._is_open = False
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes what was written, unless the folder is complete already."""
        if self._is_open:
            self._is_open = False
            shutil.rmtree(self._part, ignore_errors=True)

    def __enter__(self) -> PngFolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def write_png(path: str | os.PathLike[str], image: Image) -> None:
    """Writes uint8 [H, W, 3] (RGB) or [H, W, 4] (RGBA, straight alpha) as PNG.

    Raises:
        InputError: another shape or dtype.
        MediaError: the file cannot be written.
    """
    import av

    formats = {3: "rgb24", 4: "rgba"}
    if not (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] in formats
        and image.size > 0
    ):
        raise InputError(f"image: expected uint8 [H, W, 3 or 4], got {_kind(image)}")
    path = _checked_path(path)
    with _errors_name(path):
        target = destination(path)
    part = _part_beside(target)
    try:
        with _errors_name(path):
            encoder: Any = av.CodecContext.create("png", "w")
            encoder.height, encoder.width = image.shape[:2]
            encoder.pix_fmt = formats[image.shape[2]]
            encoder.time_base = Fraction(1, 1)
            # Level 1 takes a quarter of the default's time for a quarter more bytes.
            encoder.options = {"compression_level": "1"}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), encoder.pix_fmt)
            packets = encoder.encode(frame) + encoder.encode(None)
            part.write_bytes(b"".join(bytes(packet) for packet in packets))
            os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Reads a PNG or JPEG: uint8 [H, W, 3], or [H, W, 4] (straight alpha) if it has alpha.

    Raises:
        MediaError: no such file, not PNG or JPEG, damaged, larger than 67 million pixels, or
            than a file of its length can be.
    """
    import av

    path = Path(path)
    with _errors_name(path, "read"):
        data = path.read_bytes()
    format_name = next((f for start, f in _IMAGE_FORMATS.items() if data.startswith(start)), None)
    if format_name is None:
        raise MediaError(f"{path}: not a PNG or JPEG picture")
    most = min(_MAX_PIXELS, _PIXELS_PER_BYTE[format_name] * len(data))
    # Opening decodes already: without a limit it takes the memory that any header claims.
    limit = {"max_pixels": str(most)}
    with (
        _errors_name(path, "read"),
        av.open(BytesIO(data), "r", format=format_name, options=limit) as container,
    ):
        context = container.streams.video[0].codec_context
        if context.width == 0:
            raise MediaError(
                f"{path}: damaged, or it claims more than {most} pixels, too many for "
                + ("gt_infer" if most == _MAX_PIXELS else f"a file of {len(data)} bytes")
            )
        # The inverse DCT that libjpeg uses: the default one differs in the last bit.
        context.options = limit | ({"idct": "int"} if format_name == "jpeg_pipe" else {})
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise MediaError(f"{path}: holds no picture; the file is damaged")
        has_alpha = any(component.is_alpha for component in frame.format.components)
        image = frame.to_ndarray(format="rgba" if has_alpha else "rgb24")
    return np.ascontiguousarray(image, np.uint8)


def _checked_path(path: str | os.PathLike[str]) -> Path:
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"path = {path!r}: expected a file's name")
    return Path(name)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def _part_beside(path: Path) -> Path:
    """A name for the unfinished file: in the same folder, so that renaming is atomic; random, so
    that two writers of one file do not mix."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")


@contextmanager
def _errors_name(path: Path, verb: str = "write") -> Iterator[None]:
    """Turns what the system and FFmpeg raise into a MediaError that names the file."""
    import av

    try:
        yield
    except MediaError:
        raise
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise MediaError(f"{path}: cannot {verb} it ({reason})") from error
