"""Blinks: natural moments, full closure, a function of (seed, frame)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer import InputError
from gt_infer.life import Blinks
from tests.recordings import make_poses

HOURS = 150_000  # 100 minutes of frames


@cache
def lids(seed: int = 0) -> np.ndarray:
    blinks = Blinks(seed)
    return np.array([blinks.blink(frame) for frame in range(-6, HOURS - 6)])


def spans() -> list[tuple[int, int]]:
    """[first, stop) of every run of frames in which the eyes are not fully open."""
    shut = np.concatenate([[0], lids() > 0, [0]]).astype(int)
    change = np.diff(shut)
    pairs = zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1), strict=True)
    return [(int(a), int(b)) for a, b in pairs]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-6, 10**9), min_size=1), st.integers(-(2**70), 2**70))
def test_any_frame_at_any_time_in_any_order(frames: list[int], seed: int) -> None:
    blinks = Blinks(seed)
    forwards = [blinks.blink(frame) for frame in frames]
    assert forwards == [Blinks(seed).blink(f) for f in reversed(frames)][::-1]
    assert all(0.0 <= lid <= 1.0 for lid in forwards)


def test_every_blink_shuts_the_eyes_fully() -> None:
    whole = [span for span in spans() if span[0] > 0]
    assert all(lids()[first:stop].max() == 1.0 for first, stop in whole)
    assert {stop - first for first, stop in whole} == {7, 8}


def test_lids_fall_faster_than_they_rise_and_do_not_flutter() -> None:
    for first, stop in spans()[1:]:
        curve = lids()[first - 1 : stop + 1]
        top = np.flatnonzero(curve == 1.0)
        assert 1 <= len(top) <= 2
        assert (np.diff(curve[: top[0] + 1]) > 0).all()
        assert (np.diff(curve[top[-1] :]) < 0).all()
        assert top[0] < len(curve) - 1 - top[-1]


def test_moments_are_natural() -> None:
    starts = np.array([first for first, _ in spans()])
    seconds = np.diff(starts) / 25
    again = seconds < 0.6
    assert (seconds[again] >= 0.36).all()  # the second of two
    assert not (again[1:] & again[:-1]).any(), "never three"
    assert 0.05 < again.mean() < 0.11
    singles = np.diff(starts[np.concatenate([[True], ~again])]) / 25
    assert singles.min() >= 1.96  # 2.0 s before rounding to frames
    assert singles.max() <= 7.96
    assert 3.9 < singles.mean() < 4.4
    assert np.median(singles) < singles.mean(), "skewed, as people's intervals are"
    assert singles.std() > 1.0, "not a metronome"
    assert abs(np.corrcoef(singles[1:], singles[:-1])[0, 1]) < 0.5


def test_seeds_differ() -> None:
    assert abs(np.corrcoef(lids(0), lids(1))[0, 1]) < 0.05


def test_shut_as_far_as_the_recording_shows() -> None:
    poses = make_poses(600)
    poses.blink[:] *= np.float32(0.7)
    peak = max(Blinks(2, poses).blink(frame) for frame in range(500))
    assert peak == pytest.approx(0.7)
    plain = [Blinks(2).blink(frame) for frame in range(500)]
    np.testing.assert_allclose(
        [Blinks(2, poses).blink(frame) for frame in range(500)], 0.7 * np.array(plain), atol=1e-7
    )
    poses.blink[:] = 0.0
    assert [Blinks(2, poses).blink(frame) for frame in range(500)] == plain


def test_seed_must_be_an_integer() -> None:
    with pytest.raises(InputError, match="seed = None: must be an integer"):
        Blinks(None)  # type: ignore[arg-type]
