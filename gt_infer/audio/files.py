"""Sound files, read in blocks: nothing here grows with the length of the file."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..config import TIMING
from ..errors import AudioError
from ..types import FloatArray
from .resample import SAMPLE_RATES, Resampler
from .samples import is_sound

__all__ = ["SoundReader", "stream_mono16k"]

_BLOCK_VALUES = 1 << 15  # values (samples times channels) per block: 0.7 s of 48 kHz mono
_LEAST_MISSING = 0.01  # seconds; some writers count a few bytes too many
_MAX_CHUNKS = 100  # of a wav, before its sound
_OPEN_LENGTH = 0x7FFF_0000  # bytes; who writes a wav to a pipe claims that, or up to 4 GiB
_UNKNOWN_SAMPLES = 1 << 62  # libsndfile says at least that much when a header leaves the length out


class SoundReader:
    """A sound file that libsndfile reads (wav, flac, ogg, mp3, aiff, ...), opened for streaming.

    Args:
        path: the file.

    Attributes:
        path: the file.
        sample_rate: Hz.
        channels: how many.
        samples: per channel, as the header says (or, of an mp3 without one, as its frames add
            up); reading checks it.

    Raises:
        AudioError: no such file, not sound, a damaged header, or no samples.

    Warns:
        UserWarning: a wav that was cut short; what is left of it is the sound.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import soundfile

        self.path = Path(path)
        self._bytes: io.FileIO | None = None
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise AudioError(f"{self.path}: {error.strerror or error}") from error
        if self.path.is_dir():
            raise AudioError(f"{self.path}: is a folder, not a sound file")
        if size == 0:
            raise AudioError(f"{self.path}: the file is empty")
        try:
            self._file: Any = soundfile.SoundFile(os.fspath(self.path))
            if self._file.format == "MP3":
                self._file.close()
                self._bytes = _Unmeasured(self.path)
                self._file = soundfile.SoundFile(self._bytes)
        except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
            # TypeError: soundfile takes the suffix .raw for headerless samples.
            reason = str(getattr(error, "error_string", error)).rstrip(".")
            raise AudioError(
                f"{self.path}: cannot be read as sound ({reason}). Wav, flac, ogg and mp3 work; "
                "convert others, for example with ffmpeg -i IN out.wav"
            ) from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.samples = int(self._file.frames)
        try:
            if self.sample_rate not in SAMPLE_RATES:
                raise AudioError(
                    f"{self.path}: claims {self.sample_rate} Hz, outside {SAMPLE_RATES[0]} to "
                    f"{SAMPLE_RATES[-1]}. The header is damaged."
                )
            if self.samples < 1:
                raise AudioError(f"{self.path}: holds 0 samples")
            if self.samples >= _UNKNOWN_SAMPLES:
                raise AudioError(
                    f"{self.path}: its header does not say how long it is, as happens when sound "
                    "is written to a pipe. Convert it, for example with ffmpeg -i IN out.wav"
                )
        except AudioError:
            self.close()
            raise
        seconds = self.samples / self.sample_rate
        promised = seconds * _promised_part(self.path)
        if promised > seconds + _LEAST_MISSING:
            warnings.warn(
                f"{self.path}: the file was cut short: its header promises {promised:.2f} s of "
                f"sound, and {seconds:.2f} s are there",
                stacklevel=2,
            )

    @property
    def n_frames(self) -> int:
        """Video frames this sound lasts: ceil(samples * 25 / rate), in integers."""
        return -(-self.samples * TIMING.fps // self.sample_rate)

    def blocks(self) -> Iterator[FloatArray]:
        """The sound from its start, in order: float32 [n, channels], full scale 1.

        Raises:
            AudioError: NaN, inf or beyond 1e35, or less sound than the header promised.
        """
        import soundfile

        length = max(1, _BLOCK_VALUES // self.channels)
        done = 0
        try:
            if self._file.tell() > 0:
                self._file.seek(0)
            while True:
                block: FloatArray = self._file.read(length, dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                self._check(block, done)
                done += len(block)
                yield block
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(
                f"{self.path}: damaged after sample {done} ({done / self.sample_rate:.3f} s): "
                f"{str(error).rstrip('.')}. Save it again, or convert what is left, for "
                "example with ffmpeg -i IN out.wav"
            ) from error
        if done != self.samples:
            raise AudioError(
                f"{self.path}: ends after {done} of the {self.samples} samples its header "
                "promises. The file was cut short; save it again, or convert what is left, for "
                "example with ffmpeg -i IN out.wav"
            )

    def close(self) -> None:
        self._file.close()
        if self._bytes is not None:
            self._bytes.close()

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, block: FloatArray, start: int) -> None:
        fine = is_sound(block)
        if not fine.all():
            row, channel = (int(k) for k in np.argwhere(~fine)[0])
            raise AudioError(
                f"{self.path}: sample {start + row} of channel {channel} "
                f"({(start + row) / self.sample_rate:.3f} s) is {block[row, channel]}: sound must "
                "be finite, and its full scale is 1.0"
            )


class _Unmeasured(io.FileIO):
    """An mp3 whose size only libsndfile learns, not its decoder.

    Files without a length header (speech services send such) have no length but the sum of their
    frames. mpg123 would guess it from the size and the first frame, and libsndfile would cut the
    sound there, or miss its end. Told 0, mpg123 does not guess, and libsndfile scans the frames.
    """

    _is_measured = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_END:
            return super().seek(offset, whence)
        if self._is_measured:
            return super().seek(0)
        self._is_measured = True
        return super().seek(offset, whence)


def _promised_part(path: Path) -> float:
    """How much sound a wav's header promises, in units of what the file holds. libsndfile takes
    what is there without a word. 1 where the header leaves the length open, as writers to a pipe
    do, and for other files.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) != b"RIFF":
            return 1.0
        file.seek(12)
        for _ in range(_MAX_CHUNKS):
            name, length = file.read(4), int.from_bytes(file.read(4), "little")
            if name == b"data":
                held = size - file.tell()
                return length / held if 0 < held < length < _OPEN_LENGTH else 1.0
            file.seek(length + length % 2, os.SEEK_CUR)
    return 1.0


def stream_mono16k(path: str | os.PathLike[str]) -> Iterator[FloatArray]:
    """A sound file of any rate and channel count as blocks of 16 kHz mono float32, in all exactly
    ceil(samples * 16000 / rate).

    Raises:
        AudioError: see `SoundReader`.
    """
    with SoundReader(path) as sound:
        resampler = Resampler(sound.sample_rate, sound.channels)
        for block in sound.blocks():
            yield resampler.push(block)
        yield resampler.flush()
