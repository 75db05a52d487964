"""Frame latency at batch 1: several ways to run, measured in turn in the same minutes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .report import CaseResult
from .stream import STAGES, Stream
from .timing import median, summarize

__all__ = ["LatencyRun"]

_ROUND_SECONDS = 1.0
_LEAST_FRAMES = 5  # of a round
_WARM_UP_FRAMES = 10  # page faults, first allocations, clock speed
_CATCH_UP_FRAMES = 2  # unmeasured at the start of a round: the caches held another stream's data
_CHANGE_STRIDE = 4  # pixels; a sample of the picture is enough to say by how much it changed


class LatencyRun:
    """Measures streams in rounds of a second, A B C C B A ...; `results` may be asked at any time,
    after an interruption too.

    Raises (`run`): whatever the renderers raise.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._tallies = [_Tally(stream) for stream in streams]

    def run(self, seconds: float) -> None:
        """Measures each stream for so many seconds of frames, and at least one round."""
        for tally in self._tallies:
            for _ in range(_WARM_UP_FRAMES):
                tally.stream.step()
        rounds = max(1, round(seconds / _ROUND_SECONDS))
        for index in range(rounds):
            for tally in self._tallies if index % 2 == 0 else reversed(self._tallies):
                tally.measure(min(seconds, _ROUND_SECONDS))

    def results(self) -> list[CaseResult]:
        """Of the streams that have had a whole round."""
        return [tally.result() for tally in self._tallies if tally.round_ms]


class _Tally:
    """What one stream has shown so far; whole rounds alone."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.round_ms: list[float] = []
        self._frame_ms: list[float] = []
        self._stages: dict[str, list[float]] = {name: [] for name in STAGES}
        self._changed: list[bool] = []
        self._changes: list[float] = []

    def measure(self, seconds: float) -> None:
        for _ in range(_CATCH_UP_FRAMES):
            previous, _ = self.stream.step()
        times: list[float] = []
        stages: list[dict[str, float]] = []
        images = []
        end = time.perf_counter() + seconds
        while len(times) < _LEAST_FRAMES or time.perf_counter() < end:
            image, elapsed = self.stream.step()
            times.append(elapsed)
            stages.append(self.stream.stages)
            images.append(_change(previous, image))
            previous = image
        self.round_ms.append(median(times))
        self._frame_ms += times
        for name, values in self._stages.items():
            values += [stage[name] for stage in stages]
        self._changed += [is_new for is_new, _ in images]
        self._changes += [size for _, size in images]

    def result(self) -> CaseResult:
        return CaseResult(
            case=self.stream.case,
            clock=self.stream.clock,
            latency=summarize(self._frame_ms),
            stages={name: median(values) for name, values in self._stages.items()},
            round_ms=list(self.round_ms),
            frame_ms=list(self._frame_ms),
            changed=float(np.mean(self._changed)),
            mean_change=float(np.mean(self._changes)),
        )


def _change(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> tuple[bool, float]:
    """Whether any value differs, and the mean absolute difference of a sample of pixels."""
    step = slice(None, None, _CHANGE_STRIDE)
    difference = after[step, step].astype(np.int16) - before[step, step]
    return not np.array_equal(before, after), float(np.abs(difference).mean())
