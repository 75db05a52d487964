"""A synthesizer's speech at 24 kHz, as it comes, with frames on time and barge-in.

    python examples/tts.py examples/hello.wav --barge-in 3

`synthesize` stands for a network TTS: it gives a sound file in uneven pieces, faster than it would
be spoken. After some seconds somebody talks over it: what was not yet shown is dropped at once, the
head listens for a moment, and then it speaks again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

import gt_infer
from gt_infer.audio import SoundReader

RATE = 24_000  # Hz, of the synthesizer


async def synthesize(path: Path) -> AsyncIterator[npt.NDArray[np.int16]]:
    """Speech in pieces of 50 to 400 ms, each after a fifth of that time."""
    import soxr

    with SoundReader(path) as reader:
        sound = np.concatenate(list(reader.blocks())).mean(axis=1)
    speech = (soxr.resample(sound, reader.sample_rate, RATE) * 32767).astype(np.int16)
    pieces = random.Random(0)
    start = 0
    while start < len(speech):
        n = round(pieces.uniform(0.05, 0.4) * RATE)
        await asyncio.sleep(n / RATE / 5)
        yield speech[start : start + n]
        start += n


@dataclass
class Screen:
    """Stands for a window and a sound card, and notes what it was given."""

    indices: list[int] = field(default_factory=list)
    samples: int = 0
    latest: float = 0.0  # the longest that a frame was late, seconds

    def show(self, frame: gt_infer.Frame, late: float) -> None:
        self.indices.append(frame.index)
        self.samples += len(frame.sound)
        self.latest = max(self.latest, late)


async def show_frames(session: gt_infer.Session, pacer: gt_infer.Pacer, screen: Screen) -> None:
    """Draws each frame and shows it when it is due; ends when a flushed clip has been shown.

    One frame is drawn ahead at most, so an interruption has little to throw away. With a real sound
    card, the clock is what it has played: Pacer(lambda: card.samples_played / RATE).
    """
    async for frame in session:
        late = await pacer.wait_async(frame.pts)
        screen.show(frame, late)


async def speak(session: gt_infer.Session, path: Path) -> None:
    async for piece in synthesize(path):
        session.push(piece, RATE)
    session.flush()


async def listen(session: gt_infer.Session, seconds: float) -> None:
    """A head that hears silence breathes and blinks: give it some, in real time."""
    for _ in range(round(seconds * 25)):
        session.push(np.zeros(RATE // 25, np.int16), RATE)
        await asyncio.sleep(0.04)


async def talk(avatar: str, path: Path, barge_in: float, listening: float = 1.0) -> Screen:
    screen = Screen()
    with gt_infer.Renderer(avatar) as renderer:
        session = renderer.session()
        pacer = gt_infer.Pacer()
        showing = asyncio.create_task(show_frames(session, pacer, screen))

        speaking = asyncio.create_task(speak(session, path))
        await asyncio.wait(
            [showing, speaking], timeout=barge_in, return_when=asyncio.FIRST_EXCEPTION
        )
        if speaking.done():
            await speaking  # raises what went wrong
        if not showing.done():
            speaking.cancel()
            session.interrupt()
            print(f"interrupted after frame {screen.indices[-1] if screen.indices else None}")
            pacer.restart()  # what comes next has nothing to do with the sound that was dropped
            await listen(session, listening)
            session.interrupt()  # an answer need not wait for the end of silence
            pacer.restart()
            await speak(session, path)
            await showing
    seconds = screen.samples / RATE
    print(
        f"{len(screen.indices)} frames and {seconds:.2f} s of sound shown, "
        f"a frame was at most {screen.latest * 1000:.0f} ms late"
    )
    return screen


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sound", type=Path)
    parser.add_argument("--avatar", default="demo")
    parser.add_argument("--barge-in", type=float, default=3.0, metavar="SECONDS")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(talk(arguments.avatar, arguments.sound, arguments.barge_in))
    except gt_infer.GtError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
