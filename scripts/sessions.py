"""One session against several on one renderer: pictures per second, and whether all keep 25 FPS.

    scripts/sessions.py --sessions 8 --size 256

Speed: every session reads its frames as fast as they come; one session and several take turns, so
that both meet the same neighbours, and CPU time is counted beside the clock. Live: every session
gets its sound in pieces of 40 ms by the clock, as from a microphone; a frame is late when it comes
more than 40 ms after the piece that made it due. A picture takes the same CPU time whether one
session asks or eight at full speed, but more when a neighbour of a virtual machine has a part of
the core: late frames are told apart by whether that happened just before. docs/performance.md has
the results.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gt_infer import EngineConfig, Renderer
from gt_infer.audio import stream_mono16k
from gt_infer.config import TIMING

ROOT = Path(__file__).resolve().parents[1]
PERIOD = 1 / TIMING.fps
WATCH = 0.5  # seconds
SLOW = 1.15
RECOVERY = 1.0  # seconds


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def speed(renderer: Renderer, sound: np.ndarray, count: int, frames: int) -> tuple[float, float]:
    """Pictures per second of the clock and of CPU time, all sessions together."""
    sessions = [renderer.session(seed) for seed in range(count)]
    for session in sessions:
        session.push(sound[: frames // count * TIMING.chunk_samples])
        session.flush()
    clock, cpu = time.perf_counter(), time.process_time()
    in_threads(count, lambda number: [None for _ in sessions[number].frames()] and None)
    drawn = frames // count * count
    return drawn / (time.perf_counter() - clock), drawn / (time.process_time() - cpu)


@dataclass(frozen=True)
class Live:
    """Of every frame: when it came, and how long after the sound that made it due, seconds. Of
    every `WATCH` seconds: their end, and CPU time and pictures until then."""

    came: list[float]
    delays: list[float]
    used: list[tuple[float, float, int]]

    def is_late(self) -> list[bool]:
        return [delay > PERIOD for delay in self.delays]

    def disturbed(self) -> list[tuple[float, float]]:
        """Begin and end of every interval in which a picture took `SLOW` times as much CPU time as
        in the quickest tenth of them, or more."""
        steps = [
            (begin, end, (cpu - cpu_before) / (made - made_before))
            for (begin, cpu_before, made_before), (end, cpu, made) in itertools.pairwise(self.used)
            if made > made_before
        ]
        if not steps:
            return []
        usual = np.percentile([cost for _, _, cost in steps], 10)
        return [(begin, end) for begin, end, cost in steps if cost >= SLOW * usual]

    def late_undisturbed(self) -> int:
        """Late frames that came more than `RECOVERY` seconds after the last such interval."""
        disturbed = self.disturbed()
        return sum(
            late and not any(begin <= at <= end + RECOVERY for begin, end in disturbed)
            for at, late in zip(self.came, self.is_late(), strict=True)
        )


def live(renderer: Renderer, sound: np.ndarray, count: int, seconds: float) -> Live:
    found = Live([], [], [])
    chunk = TIMING.chunk_samples
    begin = time.perf_counter() + PERIOD

    def speak(number: int) -> None:
        session = renderer.session(number)
        for piece in range(round(seconds * TIMING.fps)):
            due = begin + (piece + number / count) * PERIOD
            time.sleep(max(0.0, due - time.perf_counter()))
            start = piece * chunk % (len(sound) - chunk)
            session.push(sound[start : start + chunk])
            for _ in session.frames():
                now = time.perf_counter()
                found.came.append(now - begin)
                found.delays.append(now - due)

    def watch() -> None:
        while not done.wait(WATCH):
            now = time.perf_counter() - begin
            found.used.append((now, time.process_time(), len(found.came)))

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    in_threads(count, speak)
    done.set()
    watcher.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--avatar", default="demo")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=160, help="per round")
    parser.add_argument("--seconds", type=float, default=10.0, help="live")
    args = parser.parse_args()
    sound = np.concatenate(list(stream_mono16k(ROOT / "examples" / "hello.wav")))
    config = EngineConfig(threads=args.threads)
    with Renderer(args.avatar, size=args.size, config=config) as renderer:
        print(renderer.describe())
        results: dict[int, list[tuple[float, float]]] = {1: [], args.sessions: []}
        speed(renderer, sound, 1, args.frames)
        for _ in range(args.rounds):
            for count, found in results.items():
                found.append(speed(renderer, sound, count, args.frames))
        for count, found in results.items():
            clock, cpu = (statistics.median(values) for values in zip(*found, strict=True))
            best = max(value for value, _ in found)
            print(
                f"{count} session(s): {clock:.1f} pictures per second in all (best {best:.1f}), "
                f"{cpu:.1f} per second of CPU time"
            )
        pairs = zip(*results.values(), strict=True)
        clocks, cpus = zip(
            *((many[0] / one[0], many[1] / one[1]) for one, many in pairs), strict=True
        )
        print(
            f"ratio {args.sessions} to 1: {statistics.median(clocks):.2f} by the clock, "
            f"{statistics.median(cpus):.2f} by CPU time"
        )
        for count in results:
            found = live(renderer, sound, count, args.seconds)
            late = sum(found.is_late())
            p50, p99 = 1e3 * np.percentile(found.delays, (50, 99))
            print(
                f"live, {count} session(s), {args.seconds:g} s: {len(found.delays)} frames, {late} "
                f"late; p50 {p50:.1f} ms, p99 {p99:.1f} ms; late while pictures took their usual "
                f"CPU time: {found.late_undisturbed()}; more of it in {len(found.disturbed())} of "
                f"{len(found.used)} times {WATCH} s"
            )


if __name__ == "__main__":
    main()
