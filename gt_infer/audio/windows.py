"""The network's audio input, frame by frame, from a stream of sound (MODEL section 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TIMING
from ..errors import AudioError, InputError
from ..types import FloatArray
from .frontend import FeatureFrontend
from .samples import LOUDEST, as_float32

__all__ = ["FrameWindows"]

_STEPS_PER_FRAME = TIMING.chunk_samples // TIMING.hop_samples
_WINDOWS_BEFORE = TIMING.windows_per_frame // 2  # frame i uses windows i-4 .. i+3
# Frame i sees steps 2i-16 .. 2i+13: window j holds steps 2j-8 .. 2j+7.
_STEPS_BEFORE = _STEPS_PER_FRAME * _WINDOWS_BEFORE + TIMING.steps_per_window // 2
_STEPS_SEEN = _STEPS_PER_FRAME * (TIMING.windows_per_frame - 1) + TIMING.steps_per_window
_STEPS_OF_WINDOWS = np.add.outer(
    _STEPS_PER_FRAME * np.arange(TIMING.windows_per_frame), np.arange(TIMING.steps_per_window)
)


class FrameWindows:
    """One stream's feature history: sound in, one window [8, C, 16] per 40 ms frame out.

        for chunk in sound:
            for i in windows.push(chunk):
                draw(windows.window(i))
        for i in range(windows.n_ready, windows.flush()):
            draw(windows.window(i))

    Frame i of a clip of S samples comes out when the samples before 640 (i + L + 1) have arrived
    (L = `lookahead_frames`), or at `flush`, which leaves exactly ceil(S / 640) frames. What it sees
    is a function of the stream and i alone, however the sound is cut:

    - due while sound arrives, it uses just the samples before 640 (i + L + 1). As trained (L = 6)
      that is all it needs. With less, steps that are not known yet repeat the newest known one.
    - due at `flush`, it sees the clip's true end: steps past it and windows past the last frame
      are zeros, as in training, and nothing is repeated.

    Memory does not grow with the stream: the windows of frames that a push (or flush) makes due
    can be had until the next push.

    Args:
        frontend: a fresh one, owned by this object from here on.
        lookahead_frames: L, 0 to 6.

    Raises:
        InputError: lookahead_frames out of range.
    """

    def __init__(
        self, frontend: FeatureFrontend, *, lookahead_frames: int = TIMING.lookahead_frames
    ) -> None:
        if not (
            isinstance(lookahead_frames, int) and 0 <= lookahead_frames <= TIMING.lookahead_frames
        ):
            raise InputError(
                f"lookahead_frames = {lookahead_frames!r}: must be 0 to {TIMING.lookahead_frames}"
            )
        self._frontend = frontend
        self._lookahead = lookahead_frames
        frontend.reset()
        second = frontend.push(np.zeros(TIMING.sample_rate, np.float32))
        self._resting_step = second[-1].copy()

        self._samples = 0
        self._n_frames: int | None = None  # known once the clip has ended
        self._first = self._next = -lookahead_frames  # frames due and kept: first .. next - 1
        self._steps = np.zeros((0, frontend.channels), np.float32)
        self._base = 0  # index of the step in the first row
        frontend.reset()

    @property
    def lookahead_frames(self) -> int:
        return self._lookahead

    @property
    def channels(self) -> int:
        return self._frontend.channels

    @property
    def n_ready(self) -> int:
        """How many frames (0, 1, ...) have come due so far."""
        return max(0, self._next)

    def push(self, samples: npt.NDArray[Any]) -> range:
        """Adds sound; gives the frames that it makes due.

        Args:
            samples: float32 or int16 [n], 16 kHz mono, any n.

        Returns:
            Indices of frames. The first are -L .. -1: what is shown before the first sound.

        Raises:
            InputError: wrong dtype or shape, or the clip was flushed.
            AudioError: NaN or inf.
        """
        if self._n_frames is not None:
            raise InputError("push after flush: call reset() to start a new clip")
        # Filters overshoot: what comes from a resampler may be a little louder than what went in.
        sound = as_float32(samples, loudest=2 * LOUDEST)
        if sound.ndim != 1:
            raise InputError(f"samples: expected [n], mono, got {list(sound.shape)}")
        self._first = self._next
        self._drop_old_steps()
        self._samples += sound.size
        self._append(self._frontend.push(sound))
        self._next = self._samples // TIMING.chunk_samples - self._lookahead
        return range(self._first, self._next)

    def flush(self) -> int:
        """Ends the clip: its remaining frames are due now. Gives the number of frames in all,
        ceil(samples / 640)."""
        if self._n_frames is None:
            self._append(self._frontend.flush())
            if self._n_steps != -(-self._samples // TIMING.hop_samples):
                raise AudioError(
                    f"{type(self._frontend).__name__} gave {self._n_steps} steps for "
                    f"{self._samples} samples: a front-end must give ceil(samples / "
                    f"{TIMING.hop_samples})"
                )
            self._n_frames = -(-self._samples // TIMING.chunk_samples)
            self._next = self._n_frames
        return self._n_frames

    def reset(self) -> None:
        """Forgets the clip and starts a new one."""
        self._frontend.reset()
        self._samples = 0
        self._n_frames = None
        self._first = self._next = -self._lookahead
        self._steps = self._steps[:0]
        self._base = 0

    def rest_window(self) -> FloatArray:
        """The window of endless digital silence, float32 [8, C, 16]."""
        shape = (TIMING.windows_per_frame, self.channels, TIMING.steps_per_window)
        return np.broadcast_to(self._resting_step[:, np.newaxis], shape).copy()

    def window(self, frame: int) -> FloatArray:
        """The network's audio input for a frame, float32 [8, C, 16], C-contiguous, the caller's.

        Frames below 0, which come before the first sound, get `rest_window`.

        Raises:
            InputError: the frame is not due yet, or was due before the last push.
        """
        if frame < 0:
            return self.rest_window()
        if not self._first <= frame < self._next:
            when = "not due yet" if frame >= self._next else "gone since the last push"
            raise InputError(
                f"frame {frame} is {when}: now there are {self._first} to {self._next - 1}"
            )
        start = _STEPS_PER_FRAME * frame - _STEPS_BEFORE
        at_end = self._due_samples(frame) > self._samples
        known = self._n_steps if at_end else self._known_steps(frame)

        seen = np.zeros((_STEPS_SEEN, self.channels), np.float32)
        first, stop = max(start, 0), min(start + _STEPS_SEEN, known)
        if stop > first:
            seen[first - start : stop - start] = self._steps[first - self._base : stop - self._base]
        if known > 0 and not at_end:
            seen[max(known - start, 0) :] = self._steps[known - 1 - self._base]

        window = np.ascontiguousarray(seen[_STEPS_OF_WINDOWS].transpose(0, 2, 1))
        # Windows that would belong to frames before the first or after the last one are zeros.
        window[: max(0, _WINDOWS_BEFORE - frame)] = 0.0
        if at_end and self._n_frames is not None:
            window[max(0, _WINDOWS_BEFORE - frame + self._n_frames) :] = 0.0
        return window

    @property
    def _n_steps(self) -> int:
        return self._base + len(self._steps)

    def _due_samples(self, frame: int) -> int:
        return TIMING.chunk_samples * (frame + self._lookahead + 1)

    def _known_steps(self, frame: int) -> int:
        """How many steps the samples before the frame's due time make known."""
        after_first = self._due_samples(frame) - self._frontend.right_context_samples
        return max(0, after_first // TIMING.hop_samples + 1)

    def _append(self, steps: FloatArray) -> None:
        self._steps = np.concatenate([self._steps, steps])

    def _drop_old_steps(self) -> None:
        """Keeps what frames from `_first` on can see, or would repeat."""
        oldest = _STEPS_PER_FRAME * self._first - _STEPS_BEFORE
        oldest = max(0, min(oldest, self._known_steps(self._first) - 1))
        if oldest > self._base:
            self._steps = self._steps[oldest - self._base :]
            self._base = oldest
