"""The gate: rest in silence, speech untouched, any chunking, truthful timing."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_infer import InputError
from gt_infer.audio import FrameWindows, LogMel, stream_mono16k
from gt_infer.avatar import LogMelConstants
from gt_infer.life import GatedFrontend, silence

ROOT = Path(__file__).resolve().parents[2]
RATE, HOP = 16_000, 320
HOLD, RELEASE = 10, 6


def log_mel() -> LogMel:
    mean = np.linspace(-3, -6, 29).astype(np.float32)
    return LogMel(LogMelConstants(mean=mean, std=np.full(29, 4, np.float32)))


def gated(threshold_db: float = -50.0) -> GatedFrontend:
    return GatedFrontend(log_mel(), threshold_db=threshold_db)


def steps_of(frontend: LogMel | GatedFrontend, *pieces: np.ndarray) -> np.ndarray:
    frontend.reset()
    return np.concatenate([*(frontend.push(piece) for piece in pieces), frontend.flush()])


@cache
def rest() -> np.ndarray:
    return steps_of(log_mel(), np.zeros(3200, np.float32))[5]


def at_rest(steps: np.ndarray) -> np.ndarray:
    return (steps == rest()).all(axis=1)


def noise(seconds: float, level_db: float, seed: int = 0) -> np.ndarray:
    """White; its level above 200 Hz is 0.1 dB less."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (10 ** (level_db / 20) * samples).astype(np.float32)


def tone(seconds: float, hz: float, level_db: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (10 ** (level_db / 20) * np.sqrt(2) * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def speech(seconds: float, seed: int = 1) -> np.ndarray:
    """Noise in syllables of 200 ms, loud at once, the troughs 40 dB down."""
    t = np.arange(round(seconds * RATE)) / RATE
    envelope = 0.01 + 0.99 * np.cos(np.pi * t / 0.2) ** 2
    return (noise(seconds, -25.0, seed) * envelope).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 16_000 * 3), max_size=10))
def test_any_chunking_gives_the_same_steps(cuts: list[int]) -> None:
    sound = np.concatenate(
        [noise(0.6, -58.0), speech(0.5), noise(0.7, -54.0), speech(0.4), noise(0.8, -46.0)]
    )
    places = sorted({0, *cuts, len(sound)})
    pieces = [sound[a:b] for a, b in pairwise(places)]
    whole = steps_of(gated(), sound)
    np.testing.assert_array_equal(steps_of(gated(), *pieces), whole)
    assert 20 < at_rest(whole).sum() < len(whole) - 40


@pytest.mark.parametrize("samples", [0, 1, 199, 200, 201, 319, 320, 321, 7000])
def test_clips_of_any_length_have_all_their_steps(samples: int) -> None:
    sound = noise(1.0, -10.0)[:samples]
    steps = steps_of(gated(), sound)
    assert steps.shape == (-(-samples // HOP), 29)
    assert steps.dtype == np.float32
    np.testing.assert_array_equal(steps, steps_of(log_mel(), sound))


def test_open_it_is_the_inner_frontend_bit_for_bit() -> None:
    for sound in (speech(4.0), tone(4.0, 700, -20.0), noise(4.0, -10.0)):
        np.testing.assert_array_equal(steps_of(gated(), sound), steps_of(log_mel(), sound))


def test_timing_is_the_inner_frontends() -> None:
    frontend = gated()
    assert frontend.right_context_samples == log_mel().right_context_samples == 200
    assert frontend.channels == 29
    assert len(frontend.push(np.zeros(199, np.float32))) == 0
    assert len(frontend.push(np.zeros(1, np.float32))) == 1


@pytest.mark.parametrize(
    "quiet",
    [
        noise(3.0, -60.0),
        tone(3.0, 50.0, -30.0) + tone(3.0, 100.0, -45.0),  # mains hum
        tone(3.0, 60.0, -30.0),
        np.full(3 * RATE, 0.05, np.float32),  # an offset
        np.zeros(3 * RATE, np.float32),
    ],
    ids=["hiss", "hum 50", "hum 60", "offset", "digital silence"],
)
def test_quiet_is_digital_silence_to_the_networks(quiet: np.ndarray) -> None:
    steps = steps_of(gated(), quiet)
    assert at_rest(steps)[17:-1].all()  # an offset begins and ends with a click
    windows = FrameWindows(gated())
    windows.push(quiet)
    np.testing.assert_array_equal(windows.window(40), windows.rest_window())


@pytest.mark.parametrize("level", [-47.0, -44.0, -40.0])
def test_steady_noise_above_the_threshold_rests_too(level: float) -> None:
    """2 s after the beginning of a clip that begins with it, 3.5 s after it sets in later."""
    assert at_rest(steps_of(gated(), noise(6.0, level)))[100:].all()
    late = steps_of(gated(), np.concatenate([noise(6.0, -70.0), noise(6.0, level)]))
    assert at_rest(late)[475:].all()
    spoken = np.concatenate([noise(4.0, level), speech(1.0), noise(2.0, level)])
    assert not at_rest(steps_of(gated(), spoken))[200:250].any(), "speech over it opens"


def test_sound_that_goes_on_is_not_taken_for_noise() -> None:
    """15 dB above the threshold is the most that the noise can raise it."""
    assert not at_rest(steps_of(gated(), tone(20.0, 440, -34.0))).any()


@pytest.mark.parametrize("hz", [300, 1000, 5000])
def test_level_is_calibrated(hz: float) -> None:
    """Steady sound is at rest from one dB below, and passes from one dB above."""
    before = np.zeros(RATE, np.float32)
    for offset, passes in ((-1.0, False), (1.0, True)):
        sound = np.concatenate([before, tone(0.4, hz, -50.0 + offset)])
        assert at_rest(steps_of(gated(), sound))[52:].any() != passes


@pytest.mark.parametrize("hum", [0.0, 0.5])
def test_level_is_that_of_the_spectrum_above_200_hz(hum: float) -> None:
    rng = np.random.default_rng(3)
    time = np.arange(400) / RATE
    below = hum * (0.6 + np.sin(2 * np.pi * 50 * time))
    for level in (1.0, 1e-3):
        block = (level * rng.normal(size=400) + below).astype(np.float32)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
        power = np.abs(np.fft.fft(hann * block.astype(np.float64))) ** 2
        above = power[5:396].sum() / 400 / np.square(hann).sum()  # bins of 40 Hz and their images
        assert silence._power(block) == pytest.approx(above, rel=1e-9)


def test_onsets_are_not_cut() -> None:
    """From the first step that hears the onset on, steps are the inner front-end's: a click that
    only its window's flank hears as well as a plosive's burst."""
    for onset in range(0, HOP, 40):
        start = RATE + onset
        sound = np.concatenate([noise(start / RATE, -65.0), speech(0.6) + noise(0.6, -30.0)])
        plain, got = steps_of(log_mel(), sound), steps_of(gated(), sound)
        heard = int(np.flatnonzero((got != rest()).any(axis=1))[0])
        np.testing.assert_array_equal(got[heard:], plain[heard:])
        # The window of the last step at rest ends 200 samples after it: 7.5 ms, on its flank.
        assert (heard - 1) * HOP + 200 <= start + 120


def test_gaps_within_speech_pass_untouched() -> None:
    closure = np.zeros(round(0.17 * RATE), np.float32)
    sound = np.concatenate([noise(0.4, -25.0), closure, noise(0.4, -25.0)])
    np.testing.assert_array_equal(steps_of(gated(), sound), steps_of(log_mel(), sound))


def test_recorded_speech_passes() -> None:
    sound = np.concatenate(list(stream_mono16k(ROOT / "examples" / "hello.wav")))
    plain, got = steps_of(log_mel(), sound), steps_of(gated(), sound)
    high = sound - np.convolve(sound, np.full(80, 1 / 80), "same")  # from about 200 Hz up
    weights = np.hanning(401)[:400] ** 2
    power = np.convolve(high**2, weights / weights.sum(), "same")[::HOP]
    level = 10 * np.log10(power + 1e-12)
    same = (got == plain).all(axis=1)
    assert (level > -35).mean() > 0.5
    assert same[level > -35].all()
    assert same.mean() > 0.9


def test_closes_smoothly_after_a_hold() -> None:
    sound = np.concatenate([noise(1.0, -25.0), noise(1.0, -60.0)])
    plain, got = steps_of(log_mel(), sound), steps_of(gated(), sound)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.median((got - rest()) / (plain - rest()), axis=1)
    last = 50  # the last step that hears the loud part
    np.testing.assert_array_equal(got[: last + HOLD + 1], plain[: last + HOLD + 1])
    fade = share[last + HOLD : last + HOLD + RELEASE + 1]
    np.testing.assert_allclose(fade, np.linspace(1, 0, RELEASE + 1), atol=1e-4)
    assert at_rest(got)[last + HOLD + RELEASE :].all()


def test_does_not_flicker_at_the_threshold() -> None:
    """A level that wavers by a few dB opens once and stays open, until it is known for noise."""
    wavering = np.concatenate([tone(0.3, 500, -49.0 - 2.9 * (i % 2)) for i in range(6)])
    got = at_rest(steps_of(gated(), np.concatenate([np.zeros(8000, np.float32), wavering])))
    assert np.count_nonzero(np.diff(got.astype(int))) == 1


def test_flush_and_reset_forget_the_clip() -> None:
    frontend, sound = gated(), np.concatenate([speech(0.5), noise(0.5, -56.0)])
    first = steps_of(frontend, sound)
    frontend.push(noise(3.0, -42.0))
    frontend.flush()
    np.testing.assert_array_equal(np.concatenate([frontend.push(sound), frontend.flush()]), first)
    frontend.push(speech(0.3))
    frontend.reset()
    np.testing.assert_array_equal(np.concatenate([frontend.push(sound), frontend.flush()]), first)


def test_frames_need_no_more_sound_than_without() -> None:
    sound = np.concatenate([noise(0.5, -60.0), speech(1.0)])
    plain, windows = FrameWindows(log_mel()), FrameWindows(gated())
    for start in range(0, len(sound), 640):
        assert plain.push(sound[start : start + 640]) == windows.push(sound[start : start + 640])
    assert plain.flush() == windows.flush()
    last = plain.n_ready - 1
    np.testing.assert_array_equal(windows.window(last), plain.window(last))


class FarSighted:
    """A front-end whose steps wait for 700 samples."""

    channels = 2
    right_context_samples = 700

    def __init__(self) -> None:
        self.reset()

    def push(self, samples: np.ndarray) -> np.ndarray:
        self._samples += len(samples)
        return self._due((self._samples - 700) // HOP + 1)

    def flush(self) -> np.ndarray:
        steps = self._due(-(-self._samples // HOP))
        self.reset()
        return steps

    def reset(self) -> None:
        self._samples = self._steps = 0

    def _due(self, until: int) -> np.ndarray:
        count = max(0, until - self._steps)
        self._steps += count
        return np.ones((count, 2), np.float32)


def test_any_frontend_can_be_gated() -> None:
    """Whatever its right context, a step is judged by sound around it."""
    frontend = GatedFrontend(FarSighted())
    frontend._rest[:] = 0  # its silence looks like its sound
    sound = np.concatenate([np.zeros(RATE, np.float32), noise(0.5, -20.0)])
    whole = steps_of_any(frontend, sound)
    assert len(whole) == 75
    assert 49 <= np.flatnonzero(whole[:, 0])[0] <= 50
    pieces = np.array_split(sound, 37)
    np.testing.assert_array_equal(steps_of_any(frontend, *pieces), whole)


def steps_of_any(frontend: GatedFrontend, *pieces: np.ndarray) -> np.ndarray:
    return np.concatenate([*(frontend.push(piece) for piece in pieces), frontend.flush()])


@pytest.mark.parametrize("threshold", [0.1, -121.0, float("nan"), float("inf")])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(InputError, match=r"threshold_db = .*: must be -120 to 0"):
        gated(threshold)
