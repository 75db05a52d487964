"""The pacer: an hour without drift, late frames that move no other, both ways to wait."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gt_infer import InputError, Pacer, pacing

RATE = 24_000


class SoundCard:
    """A fake clock in samples played; sleeping lets it play on."""

    def __init__(self, speed: float = 1.0) -> None:
        self.samples = 0
        self.slept = 0
        self._speed = speed

    def seconds(self) -> float:
        return self.samples / RATE

    def sleep(self, seconds: float) -> None:
        assert seconds > 0.0
        self.slept += 1
        self.samples += math.ceil(seconds * RATE * self._speed)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SoundCard:
    card = SoundCard()
    monkeypatch.setattr(pacing, "sleep", card.sleep)
    return card


def test_an_hour_does_not_drift_by_a_sample(card: SoundCard) -> None:
    pacer = Pacer(card.seconds)
    for index in range(25 * 3600 + 1):
        assert pacer.wait(index / 25) == 0.0
        assert card.samples == index * RATE // 25


@pytest.mark.parametrize("speed", [0.9, 0.9997, 1.0003, 1.1])
def test_a_card_that_is_not_at_its_nominal_rate(
    card: SoundCard, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames follow the sound that is heard, not the computer's seconds."""
    other = SoundCard(speed)
    monkeypatch.setattr(pacing, "sleep", other.sleep)
    pacer = Pacer(other.seconds)
    for index in range(25 * 600):
        late = pacer.wait(index / 25)
        # A card that is 10 % fast plays 1 ms more than was slept at a time.
        assert 0.0 <= late <= 0.0011
        assert other.seconds() == pytest.approx(index / 25 + late, abs=1e-9)


def test_a_late_frame_moves_no_other(card: SoundCard) -> None:
    pacer = Pacer(card.seconds)
    shown = []
    for index in range(10):
        if index == 3:
            card.samples += RATE // 5  # drawing it took 200 ms
        late = pacer.wait(index / 25)
        shown.append((card.samples, round(late * 1000)))
    due = [index * RATE // 25 for index in range(10)]
    # It and the four after it are shown at once, each less late; then all is as it was.
    stall = 2 * RATE // 25 + RATE // 5
    assert shown[:3] == [(at, 0) for at in due[:3]]
    assert shown[3:7] == [(stall, late) for late in (160, 120, 80, 40)]
    assert shown[7:] == [(at, 0) for at in due[7:]]


def test_a_clock_that_stops_holds_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SoundCard()
    stalls = iter([True] * 50)

    def sleep(seconds: float) -> None:
        if not next(stalls, False):
            card.sleep(seconds)

    monkeypatch.setattr(pacing, "sleep", sleep)
    assert Pacer(card.seconds).wait(1.0) == 0.0
    assert card.samples == RATE
    assert next(stalls, None) is None


def test_restart_makes_the_next_frame_due_at_once(card: SoundCard) -> None:
    pacer = Pacer(card.seconds)
    pacer.wait(1.0)
    card.samples += 7 * RATE  # an answer was thought about
    pacer.restart()
    assert pacer.wait(1.04) == 0.0
    assert card.samples == 8 * RATE
    assert pacer.wait(1.08) == pytest.approx(0.0, abs=1 / RATE)
    assert card.samples - 8 * RATE == pytest.approx(RATE // 25, abs=1)
    # A queue thrown away leaves the clock behind the frames that were read: not a long wait.
    pacer.restart()
    assert pacer.wait(60.0) == 0.0
    assert card.seconds() < 9.0


def test_without_a_clock_the_first_frame_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SoundCard()
    card.samples = 12_345 * RATE
    monkeypatch.setattr(pacing, "monotonic", card.seconds)
    monkeypatch.setattr(pacing, "sleep", card.sleep)
    pacer = Pacer()
    for index in range(50, 500):  # a session that has been going on
        assert pacer.wait(index / 25) <= 1 / RATE
        at = card.samples - 12_345 * RATE
        assert at == pytest.approx((index - 50) * RATE // 25, abs=1)


def test_async_waits_by_the_same_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SoundCard()

    async def sleep(seconds: float) -> None:
        card.sleep(seconds)

    monkeypatch.setattr(pacing.asyncio, "sleep", sleep)

    async def show() -> None:
        pacer = Pacer(card.seconds)
        for index in range(25 * 60):
            assert await pacer.wait_async(index / 25) == 0.0
            assert card.samples == index * RATE // 25
        card.samples += RATE
        assert await pacer.wait_async(60.0) == pytest.approx(0.96)

    asyncio.run(show())


def test_async_lets_other_tasks_run() -> None:
    async def work() -> int:
        waiting = asyncio.create_task(Pacer(lambda: time.monotonic() - start).wait_async(0.05))
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns

    start = time.monotonic()
    assert asyncio.run(work()) > 1
    assert time.monotonic() - start >= 0.05


def test_a_clock_from_another_thread() -> None:
    """As a sound card's callback moves it: real sleeping, real time."""
    played = 0
    is_over = threading.Event()

    def callback() -> None:
        nonlocal played
        while not is_over.wait(0.002):
            played += RATE // 250

    thread = threading.Thread(target=callback)
    thread.start()
    try:
        pacer = Pacer(lambda: played / RATE)
        for index in range(5):
            pacer.wait(index / 25)
            assert played >= index * RATE // 25
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda: Pacer(0.5), "clock = 0.5: must be a function"),  # type: ignore[arg-type]
        (lambda: Pacer().wait(math.nan), "pts = nan"),
        (lambda: Pacer().wait(math.inf), "pts = inf"),
        (lambda: asyncio.run(Pacer().wait_async(-math.inf)), "pts = -inf"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        call()
