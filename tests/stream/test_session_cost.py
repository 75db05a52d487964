"""What a session costs in memory: nothing to speak of, before, during and after its speech."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer import Renderer, Session

SESSIONS = 64
LIMIT = 2_000_000  # bytes each
RATE = 24_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Renderer]:
    """The built-in avatar, whose frames cost no time here."""
    picture = np.zeros((1, 1, 3), np.uint8)

    def draw(self: Renderer, *arguments: Any, **extras: Any) -> dict[str, Any]:
        return {"image": picture, "alpha": None, "depth": None}

    monkeypatch.setattr(Renderer, "_draw_frame", draw)
    with Renderer("demo", size=64) as renderer:
        yield renderer


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def speak(session: Session, seconds: float) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, int(RATE * seconds)).astype(np.float32)
    for start in range(0, len(sound), 1_000):
        session.push(sound[start : start + 1_000], RATE)
        list(session.frames())


def test_a_session_takes_less_than_two_megabytes(renderer: Renderer) -> None:
    speak(renderer.session(), 2.0)  # imports and tables that all share
    before = resident()
    sessions = [renderer.session() for _ in range(SESSIONS)]
    idle = resident() - before
    for session in sessions:
        speak(session, 2.0)
    assert all(session.unread > 0 for session in sessions), "they are in the middle of a clip"
    speaking = resident() - before
    print(
        f"\nidle {idle / SESSIONS / 1e6:.3f} MB, speaking {speaking / SESSIONS / 1e6:.3f} MB each"
    )
    assert idle < SESSIONS * LIMIT
    assert speaking < SESSIONS * LIMIT


def test_what_waits_to_be_read_costs_little_more_than_its_samples(renderer: Renderer) -> None:
    """Sound waits as it came and at 16 kHz; neither pictures nor windows are made ahead."""
    speak(renderer.session(), 2.0)
    sessions = [renderer.session(max_unread=1000) for _ in range(4)]
    sound = np.zeros(RATE * 30, np.float32)
    before = resident()
    for session in sessions:
        session.push(sound, RATE)
    waiting = (resident() - before) / len(sessions)
    samples = sound.nbytes + sound.nbytes * 16_000 // RATE
    assert waiting < 1.5 * samples + LIMIT
    for session in sessions:
        session.interrupt()
        assert session.unread == 0


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_long_piece_is_taken_in_without_working_copies(renderer: Renderer, dtype: str) -> None:
    """What is kept is kept in small blocks, and nothing of the piece's own size is made beside it:
    such arrays, of ever other sizes, are what makes malloc's heaps grow over hours."""
    session = renderer.session(max_unread=1000)
    sound = np.zeros((48_000 * 20, 2), dtype)
    session.push(sound[:100], 48_000)
    session.interrupt()
    tracemalloc.start()
    try:
        session.push(sound, 48_000)
        kept, peak = tracemalloc.get_traced_memory()
        largest = max(trace.size for trace in tracemalloc.take_snapshot().traces)
    finally:
        tracemalloc.stop()
    samples = sound.nbytes + len(sound) * 4 // 3  # as pushed, and at 16 kHz
    assert 0.99 * samples < kept < 1.1 * samples
    assert peak - kept < 500_000
    assert largest < 100_000
