"""Session: one speaker's stream on a shared renderer. Sound in any pieces, frames with theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from .behaviour import Behaviour
from .clip import Clip, DueFrame, Sound
from .config import TIMING
from .errors import BacklogError, InputError
from .pose import Pose
from .types import Frame

if TYPE_CHECKING:
    from .renderer import Renderer

__all__ = ["BlinkSource", "Overflow", "PoseSource", "Session", "read_together"]

Overflow = Literal["error", "drop"]
# A fixed value for every frame, a function of the frame's index, or None for the avatar's own.
PoseSource = Pose | Callable[[int], Pose | None] | None
BlinkSource = float | Callable[[int], float | None] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Due:
    """A frame that can be drawn, and what it shows."""

    clip: Clip
    frame: DueFrame
    index: int
    pose: Pose
    eye: float


class Session:
    """Made by `Renderer.session`.

        session = renderer.session()
        for piece in speech_synthesizer():                     # any length, any rate
            session.push(piece, sample_rate=24_000)
            for frame in session.frames():
                show(frame.image, frame.sound)
        session.flush()
        for frame in session.frames():
            ...

    A clip of S samples gives exactly ceil(S * 25 / sample_rate) frames, whatever the pieces. What
    they show does not depend on the pieces either. Sound waits as it was pushed until its frames
    are read; drawing happens in `frames`, in the caller's thread.

    Different sessions may be used from different threads at the same time. Of one session, `push`,
    `flush`, `interrupt` and `reset` may come from another thread than the one that reads frames.
    """

    def __init__(
        self,
        renderer: Renderer,
        behaviour: Behaviour,
        *,
        alpha: bool,
        depth: bool,
        attention: bool,
        max_unread: int,
        overflow: Overflow,
    ) -> None:
        if not (isinstance(max_unread, int) and max_unread >= 1):
            raise InputError(f"max_unread = {max_unread!r}: must be a whole number >= 1 (frames)")
        if overflow not in get_args(Overflow):
            raise InputError(f'overflow = {overflow!r}: must be "error" or "drop"')
        self._renderer = renderer
        self._behaviour = behaviour
        self._alpha = alpha
        self._depth = depth
        self._attention = attention
        self._max_unread = max_unread
        self._overflow = overflow
        self._lock = threading.Lock()
        self._readers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._windows = renderer.windows()
        self._clip = Clip(self._windows)
        self._next_index = 0  # of the next frame to be read

    # Sound in.

    def push(self, samples: Sound, sample_rate: int = TIMING.sample_rate) -> None:
        """Adds sound; the first push after the start, `flush` or `interrupt` starts a clip.

        Args:
            samples: int16 or float32 (full scale 1), [n] or [n, channels], any n.
            sample_rate: Hz, 1 kHz to 768 kHz; the same throughout a clip.

        Raises:
            InputError: wrong dtype, shape or rate; the session is as before.
            AudioError: NaN or inf; the session is as before.
            BacklogError: the limit on unread frames, and overflow is "error"; nothing was taken.
        """
        with self._lock:
            if self._clip.is_over:
                self._start_clip()
            clip = self._clip
            if clip.is_flushed:
                raise InputError(
                    "push after flush: read the clip's last frames first, or call interrupt()"
                )
            clip.check(samples, sample_rate)
            unread = clip.frames_after(len(samples), sample_rate) - clip.n_read
            if unread > self._max_unread and self._overflow == "error":
                raise BacklogError(
                    f"{unread} frames would wait to be read, max_unread is {self._max_unread}. "
                    "Read frames() between pushes, push less at a time, or use "
                    'overflow="drop".'
                )
            clip.push(samples, sample_rate)
            # What is not due yet waits for its lookahead, not for its reader: it stays.
            while clip.n_unread > self._max_unread and clip.peek() is not None:
                self._take()
        self._wake()

    def flush(self) -> None:
        """Ends the clip: `frames` will give all the rest of it."""
        with self._lock:
            self._clip.flush()
        self._wake()

    def interrupt(self) -> None:
        """Drops the sound that waits and the frames that it would have given, at once. The next
        push starts a clip whose first frame follows the last one read, so that head and eyes go
        on moving without a jump."""
        with self._lock:
            self._start_clip()
        self._wake()

    def reset(self) -> None:
        """As new: drops everything and starts again at index 0."""
        with self._lock:
            self._next_index = 0
            self._start_clip()
        self._wake()

    # Frames out.

    @property
    def unread(self) -> int:
        """Frames of the sound pushed so far that were not read yet, due or not."""
        with self._lock:
            return self._clip.n_unread

    def frames(self, pose: PoseSource = None, blink: BlinkSource = None) -> Iterator[Frame]:
        """Draws and yields the frames that are due, and ends when more sound is needed.

        Args:
            pose: of these frames: one for all, a function of the frame's index, or None for the
                avatar's idle motion.
            blink: likewise, 0 open to 1 shut; None for natural blinking.

        Raises:
            InputError: a pose or blink is wrong; the frame stays due.
            ClosedError: the renderer was closed.
        """
        while True:
            frame = self._read_frame(pose, blink)
            if frame is None:
                return
            yield frame

    async def stream(
        self, pose: PoseSource = None, blink: BlinkSource = None
    ) -> AsyncIterator[Frame]:
        """`frames` for asyncio: waits for sound that another task or thread pushes, draws in a
        worker thread, and ends after `flush` with the clip's last frame. `async for frame in
        session` is the same without arguments."""
        awake = asyncio.Event()
        reader = (asyncio.get_running_loop(), awake)
        self._readers.add(reader)
        try:
            while True:
                awake.clear()
                frame = await asyncio.to_thread(self._read_frame, pose, blink)
                if frame is not None:
                    yield frame
                elif self._is_over():
                    return
                else:
                    await awake.wait()
        finally:
            self._readers.discard(reader)

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self.stream()

    def _read_frame(self, pose: PoseSource, blink: BlinkSource) -> Frame | None:
        while True:
            due = self._next_due(pose, blink)
            if due is None:
                return None
            drawn = self._renderer._draw_frame(
                due.frame.window,
                due.pose,
                due.eye,
                alpha=self._alpha,
                depth=self._depth,
                attention=self._attention,
            )
            frame = self._finished(due, drawn)
            if frame is not None:
                return frame

    def _next_due(self, pose: PoseSource, blink: BlinkSource) -> _Due | None:
        with self._lock:
            clip, frame = self._clip, self._clip.peek()
            index = self._next_index
        if frame is None:
            return None
        view = self._behaviour.pose(index, pose(index) if callable(pose) else pose)
        eye = self._behaviour.blink(index, blink(index) if callable(blink) else blink)
        return _Due(clip, frame, index, view, eye)

    def _finished(self, due: _Due, drawn: dict[str, Any]) -> Frame | None:
        """The frame; None when it was interrupted or dropped while it was drawn."""
        with self._lock:
            if due.clip is not self._clip or due.clip.peek() is not due.frame:
                return None
            self._take()
        return Frame(
            index=due.index,
            pts=due.index / TIMING.fps,
            sound=due.frame.sound,
            sample_rate=due.frame.sample_rate,
            **drawn,
        )

    def _is_over(self) -> bool:
        with self._lock:
            return self._clip.is_over

    def _wake(self) -> None:
        for loop, awake in list(self._readers):
            loop.call_soon_threadsafe(awake.set)

    # The lock is held.

    def _start_clip(self) -> None:
        self._clip = Clip(self._windows)

    def _take(self) -> None:
        self._clip.take()
        self._next_index += 1


def read_together(
    renderer: Renderer, sessions: Sequence[Session], pose: PoseSource, blink: BlinkSource
) -> list[Frame | None]:
    """See `Renderer.render_many`."""
    for position, session in enumerate(sessions):
        if not isinstance(session, Session) or session._renderer is not renderer:
            raise InputError(f"sessions[{position}]: not a session of this renderer")
    if len(set(map(id, sessions))) < len(sessions):
        raise InputError("sessions: each may be given once")
    frames: list[Frame | None] = [None] * len(sessions)
    left = list(enumerate(sessions))
    while left:
        due = [(at, session, session._next_due(pose, blink)) for at, session in left]
        drawn = [
            (at, session, next_due, renderer._targets(alpha=session._alpha, depth=session._depth))
            for at, session, next_due in due
            if next_due is not None
        ]
        renderer._draw_many([(d.frame.window, d.pose, d.eye, t) for _, _, d, t in drawn])
        left = []
        for at, session, next_due, targets in drawn:
            if session._attention:
                targets["attention"] = renderer._attention(
                    next_due.frame.window, next_due.pose, next_due.eye, targets["image"]
                )
            frames[at] = session._finished(next_due, targets)
            if frames[at] is None:  # interrupted meanwhile: its next one, if there is one
                left.append((at, session))
    return frames
