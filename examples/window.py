"""A live window: the head speaks a sound file, or what the microphone hears.

    pip install pygame sounddevice        (on Debian also: apt-get install libportaudio2)
    python examples/window.py speech.wav
    python examples/window.py             microphone

The sound card is the clock: pictures are drawn a few frames ahead and shown when their sound is
heard. Without sounddevice a file is shown silently. Esc or closing the window ends it.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import numpy.typing as npt

import gt_infer
from gt_infer.audio import SoundReader

AHEAD = 5  # frames drawn before their sound begins: a slow one is not heard as a gap


class Window:
    """Shows pictures until the user has seen enough."""

    def __init__(self, width: int, height: int, title: str) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError as err:
            raise SystemExit("error: this example needs pygame: pip install pygame") from err
        self._pygame = pygame
        pygame.display.init()
        self._surface = pygame.display.set_mode((width, height))
        pygame.display.set_caption(title)

    @property
    def is_open(self) -> bool:
        for event in self._pygame.event.get():
            is_escape = event.type == self._pygame.KEYDOWN and event.key == self._pygame.K_ESCAPE
            if event.type == self._pygame.QUIT or is_escape:
                return False
        return True

    def show(self, image: npt.NDArray[np.uint8]) -> None:
        height, width, _ = image.shape
        picture = self._pygame.image.frombuffer(image, (width, height), "RGB")  # no copy
        self._surface.blit(picture, (0, 0))
        self._pygame.display.flip()

    def close(self) -> None:
        self._pygame.quit()


def sound_device() -> Any:
    """The sounddevice module, or None with a word on why."""
    try:
        import sounddevice
    except ImportError:
        print("no sound: pip install sounddevice")
    except OSError as err:  # its library is not there
        print(f"no sound: {err} (on Debian: apt-get install libportaudio2)")
    else:
        return sounddevice
    return None


class Speaker:
    """Plays sound as it is given, and knows how much of it was heard: the clock of the pictures.
    Pauses that it makes for want of sound do not count, so the pictures wait for those too."""

    def __init__(self, device: Any, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._queue: deque[npt.NDArray[np.float32]] = deque()
        self._lock = threading.Lock()
        self._taken = 0  # samples given to the card
        self._heard = 0
        self._will_be_heard: deque[tuple[float, int]] = deque()  # when, and samples by then
        self._stream = device.OutputStream(
            samplerate=sample_rate,
            channels=channels,
            blocksize=sample_rate // 100,
            callback=self._fill,
        )

    def play(self, sound: npt.NDArray[np.float32]) -> None:
        with self._lock:
            self._queue.append(sound)

    def start(self) -> None:
        self._stream.start()

    def seconds_heard(self) -> float:
        now = monotonic()
        while self._will_be_heard and self._will_be_heard[0][0] <= now:
            self._heard = self._will_be_heard.popleft()[1]
        return self._heard / self._rate

    def _fill(self, out: npt.NDArray[np.float32], n: int, time: Any, status: Any) -> None:
        """Called by the sound card's thread for the next n samples."""
        done = 0
        with self._lock:
            while done < n and self._queue:
                sound = self._queue.popleft()
                fits = sound[: n - done]
                out[done : done + len(fits)] = fits
                done += len(fits)
                if len(fits) < len(sound):
                    self._queue.appendleft(sound[len(fits) :])
        out[done:] = 0
        if done > 0:
            self._taken += done
            self._will_be_heard.append((monotonic() + self._stream.latency, self._taken))

    def finish(self) -> None:
        """Waits until all was heard."""
        while self._queue or self._will_be_heard:
            sleep(0.01)
            self.seconds_heard()

    def close(self) -> None:
        self._stream.close()


def speak_file(session: gt_infer.Session, reader: SoundReader) -> Iterator[gt_infer.Frame]:
    """The file's frames; it is read no further than they are asked for."""
    for block in reader.blocks():
        session.push(block, reader.sample_rate)
        yield from session.frames()
    session.flush()
    yield from session.frames()


def on_time(frames: Iterable[gt_infer.Frame], speaker: Speaker | None) -> Iterator[gt_infer.Frame]:
    """The frames, each when its sound is heard."""
    pacer = gt_infer.Pacer(speaker.seconds_heard if speaker else None)
    waiting: deque[gt_infer.Frame] = deque()

    def next_shown() -> gt_infer.Frame:
        frame = waiting.popleft()
        if speaker and frame.index == 0:
            speaker.start()
        pacer.wait(frame.pts)
        return frame

    for frame in frames:
        if speaker:
            speaker.play(frame.sound)
        waiting.append(frame)
        if len(waiting) > AHEAD:
            yield next_shown()
    while waiting:
        yield next_shown()


def show_file(renderer: gt_infer.Renderer, window: Window, path: Path) -> int:
    """Shows a sound file; gives the number of frames shown."""
    shown = 0
    with SoundReader(path) as reader:
        speaker = None
        if device := sound_device():
            try:
                speaker = Speaker(device, reader.sample_rate, reader.channels)
            except device.PortAudioError as err:
                print(f"no sound: {err}")
        try:
            for frame in on_time(speak_file(renderer.session(), reader), speaker):
                window.show(frame.image)
                shown += 1
                if not window.is_open:
                    break
            else:
                if speaker:
                    speaker.finish()
        finally:
            if speaker:
                speaker.close()
    return shown


def show_microphone(renderer: gt_infer.Renderer, window: Window) -> int:
    """Shows what is heard as soon as it can be drawn: the microphone is the clock."""
    device = sound_device()
    if device is None:
        raise SystemExit("error: without it there is no microphone. Name a sound file instead.")
    session = renderer.session(overflow="drop")
    try:
        rate = int(device.query_devices(kind="input")["default_samplerate"])
        microphone = device.InputStream(
            samplerate=rate,
            channels=1,
            callback=lambda sound, n, time, status: session.push(sound, rate),
        )
    except (device.PortAudioError, ValueError) as err:
        raise SystemExit(f"error: no microphone: {err}") from err
    shown = 0
    with microphone:
        while window.is_open:
            for frame in session.frames():
                window.show(frame.image)
                shown += 1
            sleep(0.005)
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sound", nargs="?", type=Path, help="default: the microphone")
    parser.add_argument("--avatar", default="demo")
    arguments = parser.parse_args(argv)
    try:
        with gt_infer.Renderer(arguments.avatar) as renderer:
            window = Window(renderer.width, renderer.height, renderer.avatar.name)
            try:
                if arguments.sound:
                    shown = show_file(renderer, window, arguments.sound)
                else:
                    shown = show_microphone(renderer, window)
            finally:
                window.close()
    except gt_infer.GtError as err:
        raise SystemExit(f"error: {err}") from err
    print(f"{shown} frames shown")


if __name__ == "__main__":
    main()
