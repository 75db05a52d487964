"""Hours of speech through several sessions at once, as fast as they go, while memory is watched.

    scripts/soak.py soak.csv --audio-hours 2
    scripts/soak_report.py soak.csv --plot docs/images/soak.png

Each speaker is a thread with a session of its own on one shared renderer. Its clips have random
rates, layouts, lengths and pieces; some are interrupted, reset, dropped from or left behind. Every
frame's index, time and sound are checked against what was pushed. Rows are written as it goes: what
an interrupted run wrote can be reported. docs/soak.md has the method and the results.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import sys
import threading
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from gt_infer import Avatar, EngineConfig, Frame, Renderer, Session
from gt_infer.audio import SoundReader
from gt_infer.audio.resample import RateConverter
from gt_infer.avatar import CanonicalGaussians, resolve

ROOT = Path(__file__).resolve().parents[1]
FPS = 25
RATES = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)
# How a clip ends, and how often.
ENDINGS = {"flush": 0.70, "interrupt": 0.18, "reset": 0.06, "new session": 0.06}
COUNTS = ("frames", "clips", "interrupts", "resets", "sessions", "dropped")
COLUMNS = ("wall_s", "audio_s", "rss_kib", "heap_kib", *COUNTS, "threads", "files")

Sounds = dict[tuple[int, str, int], np.ndarray]  # (rate, dtype, channels) -> samples


@dataclass
class Speaker:
    """One thread's work. Counts are its own: nobody waits for them."""

    renderer: Renderer
    sounds: Sounds
    seed: int
    stop: threading.Event
    longest_piece: float  # seconds
    is_cold: bool
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self._speak()
        except BaseException as error:
            self.error = error
            self.stop.set()

    def _speak(self) -> None:
        rng = np.random.default_rng(self.seed)
        session = self._new_session(rng)
        next_index = 0
        # The most that any clip can hold at once comes first, so that later ones set no record.
        for _ in range(0 if self.is_cold else 2):
            next_index = self._clip(rng, session, next_index, "flush", largest=True)
        while not self.stop.is_set():
            ending = str(rng.choice(list(ENDINGS), p=list(ENDINGS.values())))
            next_index = self._clip(rng, session, next_index, ending)
            if ending == "reset":
                session.reset()
                next_index = 0
            elif ending == "new session":
                session = self._new_session(rng)
                next_index = 0

    def _new_session(self, rng: np.random.Generator) -> Session:
        self.counts["sessions"] += 1
        return self.renderer.session(
            seed=int(rng.integers(1000)),
            alpha=bool(rng.random() < 0.2),
            depth=bool(rng.random() < 0.2),
            max_unread=int(rng.choice([15, 100])),
            overflow="drop",
        )

    def _clip(
        self,
        rng: np.random.Generator,
        session: Session,
        first_index: int,
        ending: str,
        *,
        largest: bool = False,
    ) -> int:
        """Pushes and reads one clip; returns the index of the next frame."""
        rate = int(rng.choice(RATES))
        dtype = str(rng.choice(["int16", "float32"]))
        channels = 2 if rng.random() < 0.1 else 1
        if largest:
            rate, dtype, channels = max(RATES), "float32", 2
        source = self.sounds[rate, dtype, channels]
        length = min(len(source), int(rate * min(30.0, rng.exponential(12.0))) + 1)
        length = len(source) if largest else length
        start = int(rng.integers(len(source) - length + 1))
        sound = source[start : start + length]
        self.counts["clips"] += 1

        def read() -> None:
            for frame in session.frames():
                _check(frame, first_index, sound, rate)
                self.counts["frames"] += 1

        pushed = 0
        typical = rate * float(rng.choice([0.01, 0.04, 0.2, 1.0, 6.0]))
        stop_at = length if ending == "flush" else int(length * rng.random())
        while pushed < stop_at and not self.stop.is_set():
            size = length if largest else 1 + int(rng.exponential(typical))
            size = min(size, int(rate * self.longest_piece), length - pushed)
            before = session.unread
            session.push(sound[pushed : pushed + size], rate)
            gained = _frames(pushed + size, rate) - _frames(pushed, rate)
            self.counts["dropped"] += before + gained - session.unread
            pushed += size
            if rng.random() < 0.9:
                read()
        if self.stop.is_set():
            return first_index  # the clip is not what its length said: no more checks
        if ending == "flush":
            session.flush()
            read()
        taken = _frames(pushed, rate) - session.unread
        if ending != "flush":
            session.interrupt()
            self.counts["interrupts"] += ending == "interrupt"
            self.counts["resets"] += ending == "reset"
        return first_index + taken


def _frames(samples: int, rate: int) -> int:
    return -(-samples * FPS // rate)


def _check(frame: Frame, first_index: int, sound: np.ndarray, rate: int) -> None:
    at = frame.index - first_index
    want = sound[at * rate // FPS : (at + 1) * rate // FPS]
    if frame.pts != frame.index / FPS or not 0 <= at < _frames(len(sound), rate):
        raise AssertionError(f"frame {frame.index}, {at} in its clip, pts {frame.pts}")
    if not np.array_equal(frame.sound, want):
        raise AssertionError(f"frame {frame.index}: another sound than was pushed for it")


def load_sounds(path: Path) -> Sounds:
    """The file's sound, repeated to at least half a minute, at every rate and layout."""
    with SoundReader(path) as reader:
        mono = np.concatenate(list(reader.blocks()))[:, :1]
        rate = reader.sample_rate
    mono = np.tile(mono, (-(-30 * rate // len(mono)), 1))
    sounds: Sounds = {}
    for wanted in RATES:
        converter = RateConverter(rate, wanted, 1)
        floats = np.clip(np.concatenate([converter.push(mono), converter.flush()]), -1, 1)
        for dtype, scale in (("float32", 1), ("int16", 32767)):
            one = (floats * scale).astype(dtype)
            sounds[wanted, dtype, 1] = one[:, 0]
            sounds[wanted, dtype, 2] = np.concatenate([one, one[::-1]], axis=1)
    return sounds


def open_avatar(name: str, thin: int) -> Avatar:
    if name == "synthetic":
        sys.path.insert(0, str(ROOT))
        from tests.synthetic import make_avatar

        return make_avatar()
    avatar = Avatar.load(resolve(name))
    kept = {
        field.name: np.ascontiguousarray(getattr(avatar.gaussians, field.name)[::thin])
        for field in fields(avatar.gaussians)
    }
    return replace(avatar, gaussians=CanonicalGaussians(**kept))


def rss_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]  # fmt: skip


def heap_kib() -> int:
    """What malloc has given out and not got back. RSS counts besides what it keeps for later, the
    holes of its heaps."""
    mallinfo = ctypes.CDLL(None).mallinfo2  # glibc 2.33 and newer
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd) // 1024


def run(args: argparse.Namespace) -> int:
    sounds = load_sounds(args.sound)
    stop = threading.Event()
    avatar = open_avatar(args.avatar, args.thin)
    config = EngineConfig(threads=args.threads)
    with (
        Renderer(avatar, size=args.size, config=config) as renderer,
        open(args.csv, "w", newline="", buffering=1) as file,
    ):
        speakers = [
            Speaker(renderer, sounds, seed, stop, args.longest_piece, args.cold)
            for seed in range(args.speakers)
        ]
        threads = [threading.Thread(target=speaker.run) for speaker in speakers]
        table = csv.writer(file)
        table.writerow(COLUMNS)
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            while not stop.wait(args.interval):
                totals = {name: sum(s.counts[name] for s in speakers) for name in COUNTS}
                audio_s = totals["frames"] / FPS
                table.writerow(
                    [
                        f"{time.monotonic() - begun:.1f}",
                        f"{audio_s:.1f}",
                        rss_kib(),
                        heap_kib(),
                        *totals.values(),
                        threading.active_count(),
                        len(os.listdir("/proc/self/fd")),
                    ]
                )
                if audio_s >= args.audio_hours * 3600:
                    stop.set()
        except KeyboardInterrupt:
            pass  # the rows so far are the result
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    errors = [speaker.error for speaker in speakers if speaker.error is not None]
    for error in errors:
        print(f"FAILED: {type(error).__name__}: {error}", file=sys.stderr)
    return 1 if errors else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--avatar", default="demo", help='a file, "demo" or "synthetic"')
    parser.add_argument("--thin", type=int, default=1, help="keep one Gaussian in so many")
    parser.add_argument("--sound", type=Path, default=ROOT / "examples" / "hello.wav")
    parser.add_argument("--audio-hours", type=float, default=2.0)
    parser.add_argument("--speakers", type=int, default=3)
    parser.add_argument("--longest-piece", type=float, default=6.0, help="seconds")
    parser.add_argument("--cold", action="store_true", help="without the largest clips at first")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between rows")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
