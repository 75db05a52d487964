"""An hour of sound: frames, their time, their sound and what the networks hear stay together to the
sample. Pictures are left out (tests/stream/test_session.py has them); everything else is real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gt_infer import EngineConfig, Frame, LifeConfig, Renderer, Session
from tests.synthetic import make_avatar

HOUR = 3600  # seconds
FPS = 25
# 8,001 Hz is no whole number of samples per frame: 320.04.
RATES = (8_000, 8_001, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000)

Windows = list[np.ndarray]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Windows:
    """The windows of the last frames drawn, newest last; drawing itself costs nothing."""
    windows: Windows = []
    picture = np.zeros((1, 1, 3), np.uint8)

    def draw(self: Renderer, window: np.ndarray, *rest: Any, **extras: Any) -> dict[str, Any]:
        windows.append(window)
        del windows[:-100]
        return {"image": picture, "alpha": None, "depth": None}

    monkeypatch.setattr(Renderer, "_draw_frame", draw)
    return windows


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    life = LifeConfig(silence_gate=None)
    with Renderer(make_avatar(n=1), life=life, config=EngineConfig(threads=1)) as renderer:
        yield renderer


def noise(samples: int, seed: int) -> np.ndarray:
    """Different everywhere, so that a sample's place can be told."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, samples).astype(np.int16)


def frames_of(samples: int, rate: int) -> int:
    return -(-samples * FPS // rate)


def check(frames: Iterator[Frame], index: int, at: int, sound: np.ndarray, rate: int) -> int:
    """Frames from `index` on are those from `at` on of a clip; returns how many came."""
    count = 0
    for frame in frames:
        assert frame.index == index + count
        assert frame.pts == (index + count) / FPS
        start, stop = ((at + count + k) * rate // FPS for k in (0, 1))
        assert np.array_equal(frame.sound, sound[start:stop])
        count += 1
    return count


def play(session: Session, sound: np.ndarray, rate: int, rng: np.random.Generator) -> int:
    """Pushes and reads a whole clip in random pieces; returns the number of frames."""
    start = at = 0
    while start < len(sound):
        size = 1 + int(rng.exponential(rate * rng.choice([0.02, 0.3, 3.0])))
        session.push(sound[start : start + size], rate)
        start += size
        at += check(session.frames(), at, at, sound, rate)
    session.flush()
    return at + check(session.frames(), at, at, sound, rate)


def test_an_hour_without_a_break(renderer: Renderer, heard: Windows) -> None:
    rate = 8_001
    sound = noise(HOUR * rate + 77, 0)
    rng = np.random.default_rng(1)
    assert play(renderer.session(max_unread=1000), sound, rate, rng) == HOUR * FPS + 1
    last = heard[-50:]
    # The last four seconds alone, on the same grid: 100 frames are a whole number of samples.
    heard.clear()
    assert play(renderer.session(), sound[(HOUR - 4) * rate :], rate, rng) == 4 * FPS + 1
    # Not bit for bit: the filter that changes the rate has come another way. But a sample's shift
    # would be 0.3 and more, which the frame before and after show.
    alone = heard[-50:]
    off = [np.abs(a - b).max() for a, b in zip(last, alone, strict=True)]
    assert max(off) < 1e-2
    shifted = [np.abs(a - b).max() for a, b in zip(last[1:-4], alone[:-5], strict=True)]
    assert min(shifted) > 0.3


def test_an_hour_of_interruptions(renderer: Renderer, heard: Windows) -> None:
    rng = np.random.default_rng(2)
    sounds = {rate: noise(60 * rate, rate) for rate in RATES}
    session = renderer.session(max_unread=2000)
    index = frames = clips = 0
    while frames < HOUR * FPS:
        clips += 1
        rate = int(rng.choice(RATES))
        length = int(rng.integers(rate * 60))
        source = sounds[rate][:length]
        if rng.random() < 0.5:
            source = (source / np.float32(32768)).astype(np.float32)
        interrupted = rng.random() < 0.4
        stop = int(rng.integers(length + 1)) if interrupted else length
        pushed = at = 0
        while pushed < stop:
            size = min(1 + int(rng.exponential(rate * rng.choice([0.02, 0.3, 3.0]))), stop - pushed)
            session.push(source[pushed : pushed + size], rate)
            pushed += size
            assert session.unread == frames_of(pushed, rate) - at
            if rng.random() < 0.8:
                at += check(session.frames(), index + at, at, source, rate)
        if interrupted:
            session.interrupt()
        else:
            session.flush()
            at += check(session.frames(), index + at, at, source, rate)
            assert at == frames_of(length, rate)
        assert session.unread == 0
        assert not list(session.frames())
        index += at
        frames += at
        if rng.random() < 0.05:
            session.reset()
            index = 0
    assert clips > 100
