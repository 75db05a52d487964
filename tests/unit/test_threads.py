"""Many threads, forks, closed renderers, failing callbacks and Ctrl-C: nothing mixes or hangs.

The engine alone under threads is in test_cpu_engine.py, one session in tests/stream, the native
core in tests/native.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import pytest

from gt_infer import ClosedError, EngineConfig, Frame, Pose, Renderer, Session, _native
from tests.synthetic import make_avatar

CHUNK = 640


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer(make_avatar(n=40), config=EngineConfig(threads=2)) as renderer:
        yield renderer


def speech(frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.3, 0.3, frames * CHUNK).astype(np.float32)


def talk(session: Session, seed: int) -> list[Frame]:
    """Two clips, the first of them interrupted after some frames."""
    session.push(speech(20, seed))
    shown = [next(session.frames()) for _ in range(3 + seed % 5)]
    session.interrupt()
    for piece in np.array_split(speech(12, 100 + seed), 1 + seed % 7):
        session.push(piece)
        shown += session.frames()
    session.flush()
    return shown + list(session.frames())


def run_all(jobs: list[Callable[[], object]]) -> None:
    """Each job in a thread of its own, all at once; fails with the first job's error."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def assert_same(got: list[Frame], want: list[Frame]) -> None:
    assert [frame.index for frame in got] == [frame.index for frame in want]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.sound, b.sound)


def test_sixteen_sessions_in_sixteen_threads(renderer: Renderer) -> None:
    seeds = range(16)
    alone = {seed: talk(renderer.session(seed), seed) for seed in seeds}
    assert (alone[0][0].image != alone[1][0].image).any()
    together: dict[int, list[Frame]] = {}

    def work(seed: int) -> None:
        together[seed] = talk(renderer.session(seed), seed)

    run_all([lambda seed=seed: work(seed) for seed in seeds])  # type: ignore[misc]
    for seed in seeds:
        assert_same(together[seed], alone[seed])


def test_two_renderers_in_one_process() -> None:
    """Different avatars, sizes, formats and instruction sets do not see one another."""
    isas = _native.available_isas()

    def open_one(seed: int) -> Renderer:
        return Renderer(
            make_avatar(n=60 + seed, layers=1 + seed, seed=seed),
            size=(64 + 16 * seed, 80),
            output="bgr8" if seed else "float32",
            config=EngineConfig(threads=1 + seed, isa=isas[-1] if seed else isas[0]),
        )

    want = []
    for seed in (0, 1):
        with open_one(seed) as alone:
            want.append(talk(alone.session(), seed))
    with open_one(0) as first, open_one(1) as second:

        def work(renderer: Renderer, seed: int) -> None:
            for _ in range(5):
                assert_same(talk(renderer.session(), seed), want[seed])

        run_all([lambda: work(first, 0), lambda: work(second, 1)])
        first.close()
        assert_same(talk(second.session(), 1), want[1])


# Closing.


def test_closing_while_sessions_draw() -> None:
    renderer = Renderer(make_avatar(n=300), config=EngineConfig(threads=2))
    sessions = [renderer.session(seed) for seed in range(8)]
    are_drawing = threading.Semaphore(0)

    def work(session: Session) -> None:
        session.push(speech(700, 1))
        with pytest.raises(ClosedError, match="closed"):
            read(session)

    def read(session: Session) -> None:
        for _ in session.frames():
            are_drawing.release()

    def close() -> None:
        for _ in sessions:
            assert are_drawing.acquire(timeout=60)
        renderer.close()

    run_all([close, *[lambda s=session: work(s) for session in sessions]])  # type: ignore[misc]
    for session in sessions:
        session.interrupt()  # what needs no engine goes on working
        session.push(speech(1, 2))


def test_closing_while_tasks_wait_for_frames() -> None:
    async def read(renderer: Renderer) -> None:
        session = renderer.session()
        waiting = asyncio.create_task(anext(session.stream()))  # for sound, that is
        await asyncio.sleep(0.01)
        assert not waiting.done()
        renderer.close()
        session.push(speech(10, 1))
        with pytest.raises(ClosedError):
            await asyncio.wait_for(waiting, 30)

    asyncio.run(read(Renderer(make_avatar(n=10), config=EngineConfig(threads=1))))


# Callbacks of the caller.


class TrackerLostError(Exception):
    pass


def test_a_callback_that_fails_in_a_task_ends_that_task_alone(renderer: Renderer) -> None:
    def broken(index: int) -> Pose | None:
        if index == 3:
            raise TrackerLostError
        return None

    async def read(pose: Callable[[int], Pose | None] | None) -> list[int]:
        session = renderer.session()
        session.push(speech(8, 1))
        session.flush()
        seen = []
        try:
            async for frame in session.stream(pose=pose):
                seen.append(frame.index)
        except TrackerLostError:
            seen += [frame.index for frame in session.frames()]  # from the frame that it asked for
        return seen

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(read(broken), read(None)))

    assert asyncio.run(asyncio.wait_for(both(), 60)) == [list(range(8))] * 2


def test_a_callback_may_use_its_session(renderer: Renderer) -> None:
    """No lock is held while the caller's code runs: it may interrupt, push, even read."""
    session = renderer.session()
    calls: list[int] = []

    def interrupts(index: int) -> float:
        calls.append(index)
        if len(calls) == 3:
            session.interrupt()
            session.push(speech(9, 2))
            session.flush()
            assert session.unread == 9
        return 0.0

    session.push(speech(20, 1))
    frames = list(session.frames(blink=interrupts))
    # Frame 2 of the first clip was given up; the second clip's frames follow frame 1.
    assert calls == [0, 1, 2, *range(2, 11)]
    assert [frame.index for frame in frames] == list(range(11))
    np.testing.assert_array_equal(
        np.concatenate([frame.sound for frame in frames[2:]]), speech(9, 2)
    )


def test_a_callback_that_closes_the_renderer() -> None:
    renderer = Renderer(make_avatar(n=10), config=EngineConfig(threads=2))
    session = renderer.session()
    session.push(speech(10, 1))
    with pytest.raises(ClosedError):
        next(session.frames(blink=lambda index: renderer.close()))  # type: ignore[func-returns-value]


# Forks.


def test_a_child_forked_while_others_draw(renderer: Renderer) -> None:
    """multiprocessing may fork at any time: the child draws with its parent's renderer and session,
    and leaves without hanging."""
    want = talk(renderer.session(5), 5)
    is_over = threading.Event()

    def draw() -> None:
        while not is_over.is_set():
            talk(renderer.session(1), 1)

    def fork() -> None:
        try:
            for _ in range(5):
                session = renderer.session(5)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of fork, by Python 3.12
                    child = os.fork()
                if child == 0:
                    signal.alarm(60)
                    status = 1
                    try:
                        assert_same(talk(session, 5), want)
                        renderer.close()
                        status = 0
                    finally:
                        os._exit(status)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            is_over.set()

    run_all([fork, draw, draw])
    assert_same(talk(renderer.session(5), 5), want)


# Signals.


@contextmanager
def interrupted_every(seconds: float) -> Iterator[None]:
    """Ctrl-C again and again, wherever the main thread is."""

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt_often(work: Callable[[], object], times: int, seconds: float) -> None:
    count = 0
    while count < times:
        try:
            with interrupted_every(seconds):
                while True:
                    work()
        except KeyboardInterrupt:
            count += 1


def test_ctrl_c_leaves_a_usable_renderer() -> None:
    avatar = make_avatar(n=40)
    chunks = speech(12, 3).reshape(-1, CHUNK)

    def clip(renderer: Renderer) -> list[np.ndarray]:
        renderer.reset()
        return [renderer.render(chunk) for chunk in chunks] + list(renderer.flush())

    with Renderer(avatar, config=EngineConfig(threads=2)) as renderer:
        want = clip(renderer)
        for seconds in (0.0007, 0.0031, 0.011):
            interrupt_often(lambda: clip(renderer), 40, seconds)
            for a, b in zip(clip(renderer), want, strict=True):
                np.testing.assert_array_equal(a, b)


def test_ctrl_c_leaves_a_usable_session(renderer: Renderer) -> None:
    want = talk(renderer.session(2), 2)
    session = renderer.session(2)

    def clip() -> None:
        session.reset()
        talk(session, 2)

    for seconds in (0.0007, 0.0031, 0.011):
        interrupt_often(clip, 40, seconds)
        session.reset()
        assert_same(talk(session, 2), want)
