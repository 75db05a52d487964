"""Runs cases of one target in this process, which should be one of its own: `python -m
tests.fuzz.harness TARGET FIRST STOP FOLDER` prints a line of JSON for every finding and a summary.

A case is a function of (target, number) alone. It passes when the reader returns or raises a
`GtError` of one printable line, within `TIMEOUT` seconds, and the process's peak of resident
memory stays within twice the file and the target's constant. Address space is limited, so that a
request for memory that nobody touches is found too: it is a MemoryError.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import sys
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from gt_infer import GtError
from tests.fuzz import mutations as m
from tests.fuzz.targets import TARGETS, Target

TIMEOUT = 20  # seconds; the slowest valid case takes less than 0.1
ADDRESS_SPACE = 1 << 30  # bytes beyond what the process has after its first reads


@dataclass(frozen=True)
class Finding:
    """A case that did not pass.

    Attributes:
        kind: "exception", "message", "memory"; the parent adds "crash" and "hang".
        detail: what happened.
    """

    target: str
    case: int
    kind: str
    detail: str


@dataclass
class Summary:
    """What the cases of a run did.

    Attributes:
        places: where files were refused, file:line -> how often.
        most_memory: largest peak beyond twice the file and what it unpacks to, bytes.
    """

    accepted: int = 0
    refused: int = 0
    places: dict[str, int] = field(default_factory=dict)
    most_memory: int = 0

    def add(self, other: Summary) -> None:
        self.accepted += other.accepted
        self.refused += other.refused
        self.places = dict(Counter(self.places) + Counter(other.places))
        self.most_memory = max(self.most_memory, other.most_memory)


def damaged(target: Target, seeds: list[bytes], name: str, case: int) -> bytes:
    """The file of a case."""
    rng = Random(zlib.crc32(name.encode()) << 32 | case)
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2))):
        mutation = rng.choice(target.mutations)
        try:
            data = mutation(data, rng)
        except Exception:  # no container any more after the first mutation
            data = m.anything(data, rng)
    return data


class Runner:
    """One target, its seeds read once so that imports and caches are not any case's memory."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.target = TARGETS[name]
        self.seeds = self.target.seeds()
        self.summary = Summary()
        self._path = folder / f"{name}{self.target.suffix}"
        for _ in range(2):
            for seed in self.seeds:
                self._path.write_bytes(seed)
                self.target.read(self._path)  # seeds are valid: this must not raise
        _limit_address_space()

    def run(self, case: int) -> Finding | None:
        data = damaged(self.target, self.seeds, self.name, case)
        self._path.write_bytes(data)
        faulthandler.dump_traceback_later(TIMEOUT, exit=True)
        own = _memory("RssAnon")
        before = _start_peak()
        finding = self._read(case)
        peak = _memory("VmHWM") - before
        room = 2 * len(data) + self.target.unpacked(data)
        if peak - room > self.target.constant:
            # Pages of libraries that the system took away and the case brought back are resident,
            # too. They are there now: what the reader takes it takes again, and what it kept is
            # counted.
            kept = _memory("RssAnon") - own
            before = _start_peak()
            with contextlib.suppress(Exception):
                self.target.read(self._path)
            peak = min(peak, kept + _memory("VmHWM") - before)
        faulthandler.cancel_dump_traceback_later()
        beyond = peak - room
        self.summary.most_memory = max(self.summary.most_memory, beyond)
        if finding is None and beyond > self.target.constant:
            detail = f"{peak} bytes for a file of {len(data)}"
            finding = Finding(self.name, case, "memory", detail)
        return finding

    def _read(self, case: int) -> Finding | None:
        try:
            self.target.read(self._path)
        except GtError as error:
            self.summary.refused += 1
            place = _place(error)
            self.summary.places[place] = self.summary.places.get(place, 0) + 1
            if not str(error).isprintable():
                return Finding(self.name, case, "message", repr(str(error)))
        except Exception as error:
            lines = [*traceback.format_exception_only(error), _place(error)]
            return Finding(self.name, case, "exception", " ".join(lines)[:500])
        else:
            self.summary.accepted += 1
        return None


def _place(error: BaseException) -> str:
    """file:line of the innermost frame in gt_infer or gt_export, of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if "/tests/" not in f.filename and "/site-packages/" not in f.filename
    ]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _start_peak() -> int:
    """Sets the kernel's peak of resident memory to what is resident now; gives that, in bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _limit_address_space() -> None:
    limit = _memory("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("first", type=int)
    parser.add_argument("stop", type=int)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runner = Runner(args.target, args.folder)
    progress = os.open(args.folder / "progress", os.O_CREAT | os.O_WRONLY)
    for case in range(args.first, args.stop):
        # Where the parent looks when this process dies: the case, and its file as it was read.
        os.pwrite(progress, f"{case:12d}".encode(), 0)
        finding = runner.run(case)
        if finding is not None:
            print(json.dumps({"finding": asdict(finding)}), flush=True)
    print(json.dumps({"summary": asdict(runner.summary)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
