"""One clip of a session: pushed sound in, due frames with window and sound out. No drawing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .audio import FrameWindows, Resampler, check_sample_rate
from .audio.samples import check_samples, in_blocks
from .config import TIMING
from .errors import InputError
from .types import FloatArray

__all__ = ["Clip", "DueFrame", "Sound"]

Sound = npt.NDArray[Any]
_Layout = tuple[int, int, np.dtype[Any]]  # rate, channels, dtype


@dataclass(frozen=True, slots=True, eq=False)
class DueFrame:
    """A frame whose sound is complete.

    Attributes:
        frame: 0, 1, ... in the clip.
        window: [8, C, 16] float32.
        sound: the samples pushed for its 40 ms, as they were pushed.
        sample_rate: Hz.
    """

    frame: int
    window: FloatArray
    sound: Sound
    sample_rate: int


class Clip:
    """A stretch of sound of one rate and layout, known from its first push.

    Sound waits as it came; it is fed to the features one frame period at a time, when a frame is
    asked for. So a frame's window and sound depend on the stream alone, and what waits costs no
    more than its samples.

    Args:
        windows: reset, and owned by the clip from here on.
    """

    def __init__(self, windows: FrameWindows) -> None:
        windows.reset()
        self._windows = windows
        self._resampler: Resampler | None = None
        self._layout: _Layout | None = None
        self._pushed = 0  # samples
        self._original: deque[Sound] = deque()  # what unread frames will give back
        self._original_start = 0  # sample number of its first
        self._pending: deque[FloatArray] = deque()  # 16 kHz, not yet in `_windows`
        self._n_pending = 0  # samples
        self._coming: Iterator[int] = iter(())  # frames that the last push to `_windows` made due
        self._due: DueFrame | None = None
        self._is_at_end = False
        self.is_flushed = False
        self.n_read = 0

    @property
    def sample_rate(self) -> int:
        return TIMING.sample_rate if self._layout is None else self._layout[0]

    def frames_after(self, more: int, sample_rate: int) -> int:
        """How many frames the clip would have with so many more samples."""
        return -(-(self._pushed + more) * TIMING.fps // sample_rate)

    @property
    def n_unread(self) -> int:
        """Frames of the sound so far that were not taken, due or not."""
        return self.frames_after(0, self.sample_rate) - self.n_read

    @property
    def is_over(self) -> bool:
        """Whether it was flushed and every frame was taken."""
        return self.is_flushed and self.n_unread == 0

    def check(self, samples: Sound, sample_rate: int) -> None:
        """Refuses what `push` cannot take.

        Raises:
            InputError: wrong dtype, shape or rate, or another one than the clip began with.
            AudioError: NaN or inf.
        """
        check_samples(samples)
        check_sample_rate(sample_rate)
        layout = _layout(samples, sample_rate)
        if layout[1] == 0:
            raise InputError(f"samples: no channels, got shape {list(samples.shape)}")
        if self._layout is not None and layout != self._layout:
            raise InputError(
                f"samples: {_words(layout)}, but this clip began with {_words(self._layout)}. "
                "flush() or interrupt() ends it."
            )

    def push(self, samples: Sound, sample_rate: int) -> None:
        """Takes sound that `check` has passed."""
        if self._resampler is None:
            self._layout = _layout(samples, sample_rate)
            self._resampler = Resampler(sample_rate, self._layout[1])
        self._pushed += len(samples)
        for _, block in in_blocks(samples):
            block = block.copy()  # the caller may reuse its buffer
            self._original.append(block)
            self._wait(self._resampler.push(block))

    def flush(self) -> None:
        """Ends the clip."""
        if not self.is_flushed:
            self.is_flushed = True
            if self._resampler is not None:
                self._wait(self._resampler.flush())

    def peek(self) -> DueFrame | None:
        """The next frame, or None when it needs more sound."""
        while self._due is None:
            frame = next(self._coming, None)
            if frame is None:
                if not self._advance():
                    return None
            elif frame >= 0:  # those before the first sound are for `Renderer.render`
                window = self._windows.window(frame)
                self._due = DueFrame(frame, window, self._sound_of(frame), self.sample_rate)
        return self._due

    def take(self) -> None:
        """Done with the frame that `peek` gave."""
        self._due = None
        self.n_read += 1
        end = self.n_read * self.sample_rate // TIMING.fps
        while self._original and self._original_start + len(self._original[0]) <= end:
            self._original_start += len(self._original.popleft())

    def _advance(self) -> bool:
        """Feeds one frame period, or ends the features; whether there was something to do."""
        chunk = self._next_chunk()
        if chunk is not None:
            self._coming = iter(self._windows.push(chunk))
            return True
        if not self.is_flushed or self._is_at_end:
            return False
        self._is_at_end = True
        first = self._windows.n_ready
        self._coming = iter(range(first, self._windows.flush()))
        return True

    def _wait(self, samples: FloatArray) -> None:
        self._pending.append(samples)
        self._n_pending += len(samples)

    def _next_chunk(self) -> FloatArray | None:
        """640 pending samples or, at the clip's end, what is left of them."""
        wanted = TIMING.chunk_samples
        if self._n_pending < wanted and not (self.is_flushed and self._n_pending):
            return None
        parts: list[FloatArray] = []
        while wanted > 0 and self._pending:
            part = self._pending.popleft()
            if len(part) > wanted:
                self._pending.appendleft(part[wanted:])
                part = part[:wanted]
            parts.append(part)
            wanted -= len(part)
            self._n_pending -= len(part)
        return np.concatenate(parts)

    def _sound_of(self, frame: int) -> Sound:
        """The pushed samples from this frame's start to the next one's."""
        start, stop = (k * self.sample_rate // TIMING.fps for k in (frame, frame + 1))
        parts = []
        at = self._original_start
        for piece in self._original:
            if at >= stop:
                break
            parts.append(piece[max(0, start - at) : stop - at])
            at += len(piece)
        return np.concatenate(parts)


def _layout(samples: Sound, sample_rate: int) -> _Layout:
    return sample_rate, samples.shape[1] if samples.ndim == 2 else 1, samples.dtype


def _words(layout: _Layout) -> str:
    rate, channels, dtype = layout
    return f"{dtype} at {rate} Hz with {channels} channel(s)"
