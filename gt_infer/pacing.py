"""Pacing: each frame is shown when its sound is heard, by a clock and never by adding up pauses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from time import monotonic, sleep

from .errors import InputError

__all__ = ["Pacer"]

_LONGEST_SLEEP = 0.01  # seconds; a sound card's clock may run slower than ours, or pause


class Pacer:
    """Holds frames back until they are due.

        pacer = Pacer(lambda: speaker.samples_played / 24_000)
        for frame in session.frames():
            speaker.play(frame.sound)
            pacer.wait(frame.pts)
            show(frame.image)

    A frame is due when the clock shows its `pts`. That is compared afresh for every frame, so a
    late frame, a slow sleep or a sound card that is not quite at its nominal rate moves no later
    frame: picture and sound cannot drift apart. A clock that stops (the sound ran out) holds the
    picture too.

    Args:
        clock: seconds of sound played: samples heard so far / sample rate, as the sound card's
            callback counts them. None: the time since the first wait, whose frame is due at once.

    Raises:
        InputError: `clock` cannot be called.

    One thread or task at a time.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        if clock is not None and not callable(clock):
            raise InputError(
                f"clock = {clock!r}: must be a function that gives seconds of sound played, or None"
            )
        self._clock = monotonic if clock is None else clock
        # What the clock shows at pts 0; None: whatever makes the next frame due at once.
        self._origin: float | None = None if clock is None else 0.0

    def restart(self) -> None:
        """The next frame is due at once, and those after it by its time: for the first frame after
        a pause, or after an interruption that threw away sound not yet played."""
        self._origin = None

    def wait(self, pts: float) -> float:
        """Sleeps until a frame is due.

        Args:
            pts: `Frame.pts`, seconds.

        Returns: seconds by which it is late, 0.0 or more. A caller may skip showing a frame that is
            very late; the next one is due at its own time all the same.

        Raises:
            InputError: `pts` is not a finite number.
        """
        due = self._due(pts)
        while (left := due - self._clock()) > 0.0:
            sleep(min(left, _LONGEST_SLEEP))
        return max(0.0, -left)

    async def wait_async(self, pts: float) -> float:
        """`wait` for asyncio: other tasks run meanwhile."""
        due = self._due(pts)
        while (left := due - self._clock()) > 0.0:
            await asyncio.sleep(min(left, _LONGEST_SLEEP))
        return max(0.0, -left)

    def _due(self, pts: float) -> float:
        """What the clock shows when the frame is due."""
        if not math.isfinite(pts):
            raise InputError(f"pts = {pts!r}: must be a finite number of seconds")
        if self._origin is None:
            self._origin = self._clock() - pts
        return self._origin + pts
