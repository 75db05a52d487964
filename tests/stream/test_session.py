"""Sessions: any pieces, rates and interruptions give the same frames, each with its own sound."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer import (
    AudioError,
    BacklogError,
    ClosedError,
    EngineConfig,
    Frame,
    InputError,
    LifeConfig,
    Pose,
    Renderer,
    Session,
)
from gt_infer.audio import FrameWindows, Resampler
from tests.synthetic import make_avatar

RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer(make_avatar(n=40), config=EngineConfig(threads=1)) as renderer:
        yield renderer


def speech(samples: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Loud noise with pauses, so that the silence gate has something to do."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0.0, 0.3], -(-samples // 4000)), 4000)[:samples]
    sound = rng.uniform(-1, 1, samples) * level
    return sound.astype(np.float32) if dtype == np.float32 else (sound * 32767).astype(np.int16)


def cut(sound: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    start = 0
    for size in sizes:
        yield sound[start : start + size]
        start += size
    yield sound[start:]


def play(session: Session, sound: np.ndarray, rate: int, sizes: list[int]) -> list[Frame]:
    frames = []
    for piece in cut(sound, sizes):
        session.push(piece, rate)
        frames += list(session.frames())
    session.flush()
    return frames + list(session.frames())


def offline(
    renderer: Renderer, sound: np.ndarray, rate: int, seed: int = 0, *, first: int = 0
) -> list[np.ndarray]:
    """The pictures of the whole clip at once, with the life of the frames from `first` on."""
    from gt_infer.life import Blinks, IdleMotion

    windows: FrameWindows = renderer.windows()
    resampler = Resampler(rate)
    whole = np.concatenate([resampler.push(sound), resampler.flush()])
    poses = renderer.avatar.poses
    assert poses is not None
    motion, blinks = IdleMotion(poses, seed), Blinks(seed, poses)
    pictures = []

    def draw(frame: int) -> None:
        if frame >= 0:
            window = windows.window(frame)
            at = first + frame
            pictures.append(renderer.render_window(window, motion.pose(at), blink=blinks.blink(at)))

    for frame in windows.push(whole):
        draw(frame)
    due = windows.n_ready
    for frame in range(due, windows.flush()):
        draw(frame)
    return pictures


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 20_000),
    rate=st.sampled_from(RATES),
    sizes=st.lists(st.integers(0, 5_000), max_size=12),
    dtype=st.sampled_from([np.int16, np.float32]),
)
def test_pieces_do_not_matter(
    renderer: Renderer, samples: int, rate: int, sizes: list[int], dtype: Any
) -> None:
    sound = speech(samples, dtype=dtype)
    frames = play(renderer.session(), sound, rate, sizes)
    assert len(frames) == -(-samples * 25 // rate)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [frame.pts for frame in frames] == [index / 25 for index in range(len(frames))]
    pictures = offline(renderer, sound, rate)
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)
    if frames:
        together = np.concatenate([frame.sound for frame in frames])
        np.testing.assert_array_equal(together, sound)
        assert together.dtype == dtype
        for frame in frames[:-1]:
            assert len(frame.sound) == (frame.index + 1) * rate // 25 - frame.index * rate // 25


def test_frames_come_as_early_as_the_lookahead_allows(renderer: Renderer) -> None:
    session = renderer.session()
    sound = speech(640 * 10)
    for chunk in range(10):
        session.push(sound[640 * chunk : 640 * (chunk + 1)])
        assert [frame.index for frame in session.frames()] == ([chunk - 6] if chunk >= 6 else [])
    assert session.unread == 6
    session.flush()
    assert [frame.index for frame in session.frames()] == [4, 5, 6, 7, 8, 9]
    assert session.unread == 0


def test_stereo_sound_comes_back_as_it_was(renderer: Renderer) -> None:
    sound = np.stack([speech(9_600, 1), speech(9_600, 2)], axis=1)
    frames = play(renderer.session(), sound, 48_000, [100, 5_000])
    assert len(frames) == 5
    np.testing.assert_array_equal(np.concatenate([frame.sound for frame in frames]), sound)


def test_the_callers_buffer_may_be_reused(renderer: Renderer) -> None:
    sound = speech(6_400)
    want = play(renderer.session(), sound, 16_000, [])
    session, buffer, got = renderer.session(), np.empty(640, np.float32), []
    for chunk in sound.reshape(-1, 640):
        buffer[:] = chunk
        session.push(buffer)
        buffer[:] = 7.0
        got += list(session.frames())
    session.flush()
    got += list(session.frames())
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.sound, b.sound)


@settings(max_examples=30, deadline=None)
@given(
    first=st.integers(0, 12_000),
    read=st.integers(0, 30),
    second=st.integers(1, 8_000),
    rates=st.tuples(st.sampled_from(RATES), st.sampled_from(RATES)),
)
def test_an_interrupted_clip_leaves_no_trace_but_the_clock(
    renderer: Renderer, first: int, read: int, second: int, rates: tuple[int, int]
) -> None:
    session = renderer.session()
    session.push(speech(first, 1), rates[0])
    shown = [frame for frame, _ in zip(session.frames(), range(read), strict=False)]
    session.interrupt()
    assert session.unread == 0
    assert not list(session.frames())
    sound = speech(second, 2)
    frames = play(session, sound, rates[1], [second // 2])
    assert len(frames) == -(-second * 25 // rates[1])
    # zip takes one frame more than it gives when `read` frames are had; it counts as read.
    start = frames[0].index
    assert start - len(shown) in (0, 1)
    assert [frame.index for frame in frames] == list(range(start, start + len(frames)))
    np.testing.assert_array_equal(np.concatenate([frame.sound for frame in frames]), sound)
    # Its windows are those of a clip of its own, its pose and blink those of the later index.
    pictures = offline(renderer, sound, rates[1], first=start)
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)


def test_reset_is_as_new(renderer: Renderer) -> None:
    session, sound = renderer.session(), speech(9_000)
    want = play(session, sound, 24_000, [4_000])
    session.push(sound, 8_000)
    next(session.frames())
    session.reset()
    again = play(session, sound, 24_000, [7, 77])
    assert [frame.index for frame in again] == [frame.index for frame in want]
    for a, b in zip(want, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_clips_follow_one_another_on_one_clock(renderer: Renderer) -> None:
    session = renderer.session()
    indices = []
    for rate in (16_000, 48_000, 8_000):
        indices += [frame.index for frame in play(session, speech(rate // 2), rate, [])]
    assert indices == list(range(13 * 3))


def test_poses_and_blinks_by_frame(renderer: Renderer) -> None:
    turned = Pose.from_degrees(yaw=5)
    asked: list[int] = []

    def pose(index: int) -> Pose | None:
        asked.append(index)
        return turned if index % 2 else None

    def pictures(**options: Any) -> list[np.ndarray]:
        session = renderer.session()
        session.push(speech(6_400))
        session.flush()
        return [frame.image for frame in session.frames(**options)]

    mixed, own, fixed = pictures(pose=pose), pictures(), pictures(pose=turned)
    assert asked == list(range(10))
    for index in range(10):
        np.testing.assert_array_equal(mixed[index], (fixed if index % 2 else own)[index])
    shut = pictures(pose=turned, blink=1.0)
    np.testing.assert_array_equal(pictures(pose=turned, blink=lambda index: 1.0)[3], shut[3])
    assert (shut[3] != fixed[3]).any()


def test_a_failing_callback_leaves_the_frame_due(renderer: Renderer) -> None:
    session = renderer.session()
    session.push(speech(6_400))
    session.flush()

    def broken(index: int) -> Pose:
        raise RuntimeError("tracker lost")

    with pytest.raises(RuntimeError, match="tracker lost"):
        next(session.frames(pose=broken))
    with pytest.raises(InputError, match="blink"):
        next(session.frames(blink=3.0))
    assert [frame.index for frame in session.frames()] == list(range(10))


def test_extras_are_there_when_asked_for(renderer: Renderer) -> None:
    session = renderer.session(alpha=True, depth=True, attention=True)
    (frame,) = play(session, speech(640), 16_000, [])
    assert frame.alpha is not None
    assert frame.depth is not None
    assert frame.attention is not None
    assert frame.alpha.shape == frame.depth.shape == (64, 64)
    assert 0.5 < frame.alpha.max() <= 1.0
    assert frame.attention.shape == (4, 64, 64, 3)
    (plain,) = play(renderer.session(), speech(640), 16_000, [])
    assert plain.alpha is plain.depth is plain.attention is None
    np.testing.assert_array_equal(plain.image, frame.image)


def test_seed_changes_life_alone(renderer: Renderer) -> None:
    sound = speech(16_000)
    a, b, c = (play(renderer.session(seed), sound, 16_000, []) for seed in (1, 1, 2))
    assert all(np.array_equal(x.image, y.image) for x, y in zip(a, b, strict=True))
    assert any((x.image != y.image).any() for x, y in zip(a, c, strict=True))


# Limits and refusals.


def test_backlog_is_an_error_that_takes_nothing(renderer: Renderer) -> None:
    session = renderer.session(max_unread=10)
    session.push(speech(6_400))
    for _ in range(2):
        with pytest.raises(BacklogError, match="11 frames would wait to be read, max_unread is 10"):
            session.push(speech(1))
    assert [frame.index for frame in session.frames()] == [0, 1, 2, 3]
    session.push(speech(640 * 4))
    session.flush()
    assert len(list(session.frames())) == 10


def test_dropping_keeps_the_clock_and_the_newest(renderer: Renderer) -> None:
    sound = speech(640 * 60)
    whole = play(renderer.session(), sound, 16_000, [])
    session = renderer.session(max_unread=10, overflow="drop")
    session.push(sound)
    assert session.unread == 10
    session.flush()
    frames = list(session.frames())
    assert [frame.index for frame in frames] == list(range(50, 60))
    for frame in frames:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
        np.testing.assert_array_equal(frame.sound, whole[frame.index].sound)


def test_memory_of_a_dropping_session_is_bounded(renderer: Renderer) -> None:
    session = renderer.session(max_unread=10, overflow="drop")
    for seed in range(50):
        session.push(speech(16_000, seed))
    clip = session._clip
    held = sum(map(len, clip._original)) + sum(map(len, clip._pending))
    assert held <= 2 * 16_000 * 2  # the newest push, twice, and what its frames need


@pytest.mark.parametrize(
    "samples, rate, complaint",
    [
        ([0.0], 16_000, "numpy array"),
        (np.zeros(4), 16_000, "float64"),
        (np.zeros((2, 2, 2), np.float32), 16_000, r"\[n\] or \[n, channels\]"),
        (np.zeros(4, np.float32), 16_000.0, "sample_rate"),
        (np.zeros(4, np.float32), 0, "sample_rate"),
        (np.zeros(4, np.float32), 10**9, "sample_rate"),
        (np.zeros((4, 0), np.float32), 16_000, "no channels"),
        (np.zeros(4, np.int16), 16_000, "began with float32 at 16000 Hz with 1 channel"),
        (np.zeros(4, np.float32), 24_000, "at 24000 Hz"),
        (np.zeros((4, 2), np.float32), 16_000, "2 channel"),
    ],
)
def test_wrong_sound_is_refused_and_forgotten(
    renderer: Renderer, samples: Any, rate: Any, complaint: str
) -> None:
    session, sound = renderer.session(), speech(3_200)
    session.push(sound)
    with pytest.raises(InputError, match=complaint):
        session.push(samples, rate)
    bad = sound.copy()
    bad[100] = np.inf
    with pytest.raises(AudioError, match="finite"):
        session.push(bad)
    session.flush()
    assert len(list(session.frames())) == 5


def test_push_after_flush_waits_for_the_tail(renderer: Renderer) -> None:
    session = renderer.session()
    session.push(speech(640))
    session.flush()
    session.flush()
    with pytest.raises(InputError, match="read the clip's last frames first"):
        session.push(speech(640))
    assert len(list(session.frames())) == 1
    session.push(speech(640))


@pytest.mark.parametrize("options", [{"max_unread": 0}, {"overflow": "wait"}, {"seed": 0.5}])
def test_wrong_options_are_refused(renderer: Renderer, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        renderer.session(**options)


def test_a_closed_renderer_ends_its_sessions() -> None:
    renderer = Renderer(make_avatar(n=10), config=EngineConfig(threads=1))
    session = renderer.session()
    session.push(speech(6_400))
    renderer.close()
    with pytest.raises(ClosedError):
        list(session.frames())
    with pytest.raises(ClosedError):
        renderer.session()


# Threads and asyncio.


def test_sessions_in_threads_do_not_mix(renderer: Renderer) -> None:
    sounds = [speech(16_000 + 1_000 * k, k) for k in range(8)]
    want = [play(renderer.session(k), sound, 16_000, []) for k, sound in enumerate(sounds)]
    got: dict[int, list[Frame]] = {}

    def work(k: int) -> None:
        sizes = [int(s) for s in np.random.default_rng(k).integers(0, 3_000, 8)]
        got[k] = play(renderer.session(k), sounds[k], 16_000, sizes)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(sounds))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for k, frames in enumerate(want):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, got[k], strict=True))


def test_one_thread_pushes_another_reads(renderer: Renderer) -> None:
    sound = speech(640 * 80)
    session = renderer.session()
    done = threading.Event()

    def feed() -> None:
        for piece in cut(sound, [333] * 100):
            session.push(piece)
            time.sleep(0.0005)
        session.flush()
        done.set()

    feeder = threading.Thread(target=feed)
    feeder.start()
    frames: list[Frame] = []
    while not done.is_set() or session.unread:
        frames += list(session.frames())
    feeder.join()
    assert [frame.index for frame in frames] == list(range(80))
    np.testing.assert_array_equal(np.concatenate([frame.sound for frame in frames]), sound)


def test_interrupting_while_a_frame_is_drawn(renderer: Renderer) -> None:
    """However the threads meet, the frames after it belong to the new clip, in order."""
    for attempt in range(20):
        session = renderer.session()
        session.push(speech(640 * 30))
        session.flush()
        old: list[Frame] = []
        reader = threading.Thread(target=lambda s=session, o=old: o.extend(s.frames()))
        reader.start()
        time.sleep(0.0003 * attempt)
        session.interrupt()
        reader.join()
        new = play(session, speech(6_400, 5), 16_000, [])
        indices = [frame.index for frame in old + new]
        assert indices == list(range(len(indices)))
        assert len(new) == 10


def test_async_frames(renderer: Renderer) -> None:
    sound = speech(640 * 20)
    want = play(renderer.session(), sound, 16_000, [])

    async def talk() -> list[Frame]:
        session = renderer.session()

        async def feed() -> None:
            for piece in cut(sound, [1_000] * 20):
                session.push(piece)
                await asyncio.sleep(0.001)
            session.flush()

        feeding = asyncio.create_task(feed())
        frames = [frame async for frame in session]
        await feeding
        return frames

    got = asyncio.run(asyncio.wait_for(talk(), 60))
    assert [frame.index for frame in got] == list(range(20))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(want, got, strict=True))


def test_async_reader_wakes_for_another_thread(renderer: Renderer) -> None:
    session = renderer.session()

    def feed() -> None:
        time.sleep(0.05)
        session.push(speech(640 * 10))
        time.sleep(0.05)
        session.flush()

    async def read() -> int:
        return len([frame async for frame in session.stream(blink=0.0)])

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert asyncio.run(asyncio.wait_for(read(), 60)) == 10
    feeder.join()
    assert not session._readers


def test_silence_gate_and_life_can_be_switched_off() -> None:
    still = LifeConfig(idle_motion=False, blinking=False, silence_gate=None)
    with Renderer(make_avatar(n=40), config=EngineConfig(threads=1), life=still) as renderer:
        frames = play(renderer.session(), np.zeros(16_000, np.float32), 16_000, [])
        middle = frames[10:15]
        assert all(np.array_equal(frame.image, middle[0].image) for frame in middle)
