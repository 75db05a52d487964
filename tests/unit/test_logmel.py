"""The native log-mel features: right, streaming, and bit-identical for any chunking."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from gt_infer import _native
from gt_infer.audio import LogMel, frontend_from_avatar
from gt_infer.avatar import AudioFrontend, LogMelConstants
from gt_infer.errors import AudioError

from ..reference import audio as reference

RNG = np.random.default_rng(7)
MEAN = RNG.normal(-4.0, 1.0, 29).astype(np.float32)
STD = RNG.uniform(1.5, 3.0, 29).astype(np.float32)
CONSTANTS = LogMelConstants(mean=MEAN, std=STD)
# Noise with pauses and a loud end: features from the floor at ln(eps) up.
NOISE = RNG.standard_normal(9000).astype(np.float32) * np.float32(0.1)
NOISE[2000:4500] = 0.0
NOISE[7000:] *= 9.0


def stream(logmel: LogMel, pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*(logmel.push(piece) for piece in pieces), logmel.flush()])


def cut(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    pieces = np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))
    return [np.ascontiguousarray(piece) for piece in pieces]


def test_matches_the_float64_reference() -> None:
    steps = stream(LogMel(CONSTANTS), [NOISE])
    expected = reference.logmel(NOISE, MEAN, STD)
    assert steps.dtype == np.float32
    assert steps.shape == expected.shape
    # Computed in double, rounded once to float32: half a unit in the last place of values below 8.
    np.testing.assert_allclose(steps, expected, rtol=0, atol=5e-7)


def test_matches_the_stored_features_of_a_recording(shared: Path) -> None:
    constants = np.load(shared / "checkpoints" / "logmel29_consts.npz")
    samples, rate = soundfile.read(shared / "dataset" / "anna" / "aud.wav", dtype="float32")
    assert rate == 16_000
    logmel = LogMel(
        LogMelConstants(
            mean=constants["mean"].astype(np.float32), std=constants["std"].astype(np.float32)
        )
    )
    stored = np.load(shared / "dataset" / "anna" / "aud_ds.npy")
    windows = reference.clip_windows(stream(logmel, [samples]), len(stored))
    # The file's own promise is 1e-4 of float64; the constants here went through float32.
    np.testing.assert_allclose(windows.transpose(0, 2, 1), stored, rtol=0, atol=2e-6)


@given(st.lists(st.integers(0, 2000), max_size=12))
def test_features_do_not_depend_on_chunking(sizes: list[int]) -> None:
    logmel = LogMel(CONSTANTS)
    whole = stream(logmel, [NOISE])
    np.testing.assert_array_equal(stream(logmel, cut(NOISE, sizes)), whole)


def test_one_sample_at_a_time() -> None:
    logmel = LogMel(CONSTANTS)
    whole = stream(logmel, [NOISE[:1500]])
    np.testing.assert_array_equal(stream(logmel, cut(NOISE[:1500], [1] * 1500)), whole)


@pytest.mark.parametrize("samples", [0, 1, 119, 120, 121, 199, 200, 319, 320, 321, 520, 640, 4999])
def test_a_clip_has_a_step_per_320_samples_begun(samples: int) -> None:
    assert stream(LogMel(CONSTANTS), [NOISE[:samples]]).shape == (-(-samples // 320), 29)


def test_a_step_is_due_200_samples_after_its_centre() -> None:
    logmel = LogMel(CONSTANTS)
    assert logmel.right_context_samples == 200
    assert logmel.push(NOISE[:199]).shape == (0, 29)
    assert logmel.push(NOISE[199:200]).shape == (1, 29)
    assert logmel.push(NOISE[200:519]).shape == (0, 29)
    assert logmel.push(NOISE[519:520]).shape == (1, 29)


def test_flush_and_reset_start_a_new_clip() -> None:
    logmel = LogMel(CONSTANTS)
    first = stream(logmel, [NOISE])
    np.testing.assert_array_equal(stream(logmel, [NOISE]), first)
    logmel.push(NOISE[:1000])
    logmel.reset()
    np.testing.assert_array_equal(stream(logmel, [NOISE]), first)


def test_silence_is_the_floor() -> None:
    steps = stream(LogMel(CONSTANTS), [np.zeros(3200, np.float32)])
    floor = (np.log(1e-6) - MEAN.astype(np.float64)) / STD
    np.testing.assert_allclose(steps, np.broadcast_to(floor, (10, 29)), rtol=1e-6)


def test_extreme_samples_stay_finite() -> None:
    loud = np.full(800, np.finfo(np.float32).max, np.float32)
    tiny = np.full(800, np.finfo(np.float32).tiny, np.float32)
    for samples in (loud, tiny):
        assert np.isfinite(stream(LogMel(CONSTANTS), [samples])).all()


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(640),
        np.zeros(640, np.int16),
        np.zeros(1280, np.float32)[::2],
        np.zeros((640, 1), np.float32),
    ],
    ids=["float64", "int16", "strided", "2-D"],
)
def test_the_binding_converts_nothing(samples: np.ndarray) -> None:
    with pytest.raises((TypeError, ValueError)):
        LogMel(CONSTANTS).push(samples)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": MEAN[:28]},
        {"mean": MEAN[:0], "std": STD[:0]},
        {"mean": np.full(29, np.nan)},
        {"std": np.zeros(29)},
        {"hop": 0},
        {"hop": 401},
        {"window": 399},
        {"n_fft": 500},
        {"n_fft": 256},
        {"f_min": 7600.0},
        {"f_max": 8001.0},
        {"eps": 0.0},
    ],
    ids=str,
)
def test_contradicting_constants_are_refused(change: dict[str, Any]) -> None:
    constants: dict[str, Any] = {"mean": MEAN, "std": STD, **change}
    with pytest.raises(ValueError, match="LogMel: "):
        _native.LogMel(
            constants.pop("mean").astype(np.float64),
            constants.pop("std").astype(np.float64),
            **constants,
        )


def test_other_sizes_match_a_direct_transform() -> None:
    """The transform is general: a small one against the definition, term by term."""
    sizes = {"sample_rate": 8000, "hop": 60, "window": 100, "n_fft": 128}
    native = _native.LogMel(np.zeros(1), np.ones(1), f_min=200.0, f_max=3800.0, **sizes)
    samples = NOISE[:100]
    step = np.concatenate([native.push(samples), native.flush()])[0, 0]
    framed = np.concatenate([np.zeros(50), samples[:50]])
    framed *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(100) / 100)
    bins = np.arange(65)
    angles = -2j * np.pi * np.outer(bins, np.arange(100)) / 128
    power = np.abs(np.exp(angles) @ framed) ** 2

    def mel(hertz: float) -> float:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    peak = 700.0 * (10.0 ** ((mel(200.0) + mel(3800.0)) / 2 / 2595.0) - 1.0)
    hertz = bins * 8000 / 128
    band = np.maximum(0, np.minimum((hertz - 200) / (peak - 200), (3800 - hertz) / (3800 - peak)))
    assert step == pytest.approx(np.log(band @ power + 1e-6), rel=1e-6)


def test_threads_sharing_a_stream_cannot_crash_it() -> None:
    logmel = LogMel(CONSTANTS)

    def hammer() -> None:
        for _ in range(300):
            logmel.push(NOISE[:777])
            logmel.flush()

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logmel.reset()
    np.testing.assert_array_equal(stream(logmel, [NOISE]), stream(LogMel(CONSTANTS), [NOISE]))


def test_an_avatar_says_which_front_end_it_needs() -> None:
    frontend = frontend_from_avatar(AudioFrontend("logmel29", 29, CONSTANTS))
    np.testing.assert_array_equal(frontend.push(NOISE), LogMel(CONSTANTS).push(NOISE))
    assert frontend.channels == 29
    with pytest.raises(AudioError, match=r"44-channel features .* --features"):
        frontend_from_avatar(AudioFrontend("features", 44))
