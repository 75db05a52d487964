"""Features that were computed elsewhere: the official aud_ds.npy and its variants."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..config import TIMING
from ..errors import AudioError, InputError
from ..types import FloatArray

__all__ = ["PrecomputedFeatures"]

_BLOCK_FRAMES = 4096


class PrecomputedFeatures:
    """The windows of a clip from a `.npy` [frames, 16, C] of float16, float32 or float64.

    The file is mapped, not read: an hour of features takes no memory of its own.

    Args:
        path: the file. Pickled content is refused, never loaded.
        channels: C that the avatar's networks take; None accepts any.

    Raises:
        AudioError: not such a file, another C, or a value that is NaN or inf.
    """

    def __init__(self, path: str | os.PathLike[str], *, channels: int | None = None) -> None:
        self.path = Path(path)
        if self.path.is_fifo():  # opening it would wait for a writer
            raise AudioError(f"{self.path}: is a pipe, expected a .npy file")
        try:
            # Not numpy.load: a mapping cannot hold pickles, whatever the file says.
            stored = np.lib.format.open_memmap(self.path, mode="r")
        except OSError as error:
            raise AudioError(f"{self.path}: {error.strerror or error}") from error
        except Exception as error:  # a damaged header raises whatever Python's tokenizer does
            # The first line says what is wrong; numpy's next ones advise to trust the file.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise AudioError(
                f"{self.path}: not a plain .npy array, or cut short ({reason}). Expected the "
                f"features of a clip, [frames, {TIMING.steps_per_window}, channels]."
            ) from error
        if (
            stored.ndim != 3
            or stored.shape[0] < 1
            or stored.shape[1] != TIMING.steps_per_window
            or stored.shape[2] < 1
            or stored.dtype.kind != "f"
        ):
            raise AudioError(
                f"{self.path}: holds {stored.dtype} {list(stored.shape)}, expected floats "
                f"[frames, {TIMING.steps_per_window}, channels]"
            )
        if channels is not None and stored.shape[2] != channels:
            raise AudioError(
                f"{self.path}: has {stored.shape[2]} channels, but this avatar was trained on "
                f"features with {channels}. Extract them with the avatar's own extractor."
            )
        for start in range(0, len(stored), _BLOCK_FRAMES):
            # As float32: what a float64 file holds must still be finite there.
            with np.errstate(over="ignore"):
                finite = np.isfinite(stored[start : start + _BLOCK_FRAMES].astype(np.float32))
            if not finite.all():
                frame, step, channel = (int(k) for k in np.argwhere(~finite)[0])
                at = (start + frame, step, channel)
                raise AudioError(f"{self.path}: the value at {list(at)} is {stored[at]}")
        self._stored = stored

    @property
    def n_frames(self) -> int:
        return len(self._stored)

    @property
    def channels(self) -> int:
        return int(self._stored.shape[2])

    def window(self, frame: int) -> FloatArray:
        """The network's audio input for a frame >= 0, float32 [8, C, 16]: stored windows
        frame-4 .. frame+3, zeros where the file has none."""
        if frame < 0:
            raise InputError(f"frame = {frame}: must be >= 0")
        before = TIMING.windows_per_frame // 2
        shape = (TIMING.windows_per_frame, self.channels, TIMING.steps_per_window)
        window = np.zeros(shape, np.float32)
        first, stop = max(frame - before, 0), min(frame + before, self.n_frames)
        if stop > first:
            stored = self._stored[first:stop]
            window[first - frame + before : stop - frame + before] = stored.transpose(0, 2, 1)
        return window
