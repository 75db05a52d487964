"""Sound to windows: the native front-end against the same formula in numpy, and what streaming
costs on top of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gt_bench.workload import speech

from gt_infer import Avatar
from gt_infer.audio import FrameWindows, frontend_from_avatar
from gt_infer.audio.frontend import FeatureFrontend
from gt_infer.avatar import LogMelConstants
from gt_infer.types import FloatArray

SECONDS = 4.0
CHUNK = 640


def bench_logmel(race: Any, avatar: Avatar) -> None:
    sound = speech(SECONDS)
    constants = avatar.frontend.constants
    assert constants is not None
    frontend = frontend_from_avatar(avatar.frontend)
    np.testing.assert_allclose(at_once(frontend, sound), in_numpy(constants, sound), atol=1e-4)
    race(lambda: at_once(frontend, sound), lambda: in_numpy(constants, sound), "numpy, whole clip")


def bench_streaming(race: Any, avatar: Avatar) -> None:
    """Pieces of 40 ms, with every window, against the features of the whole clip at once."""
    sound = speech(SECONDS)
    frontend = frontend_from_avatar(avatar.frontend)
    windows = FrameWindows(frontend_from_avatar(avatar.frontend))
    race(
        lambda: in_chunks(windows, sound),
        lambda: at_once(frontend, sound),
        "features of the whole clip",
    )


def at_once(frontend: FeatureFrontend, sound: FloatArray) -> FloatArray:
    frontend.reset()
    return np.concatenate([frontend.push(sound), frontend.flush()])


def in_chunks(windows: FrameWindows, sound: FloatArray) -> None:
    windows.reset()
    for chunk in sound.reshape(-1, CHUNK):
        for frame in windows.push(chunk):
            windows.window(frame)


def in_numpy(constants: LogMelConstants, sound: FloatArray) -> FloatArray:
    """docs/model.md section 9."""
    half = constants.window // 2
    padded = np.pad(sound, (half, constants.window))
    steps = np.arange(-(-len(sound) // constants.hop)) * constants.hop
    frames = padded[steps[:, None] + np.arange(constants.window)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(constants.window) / constants.window)
    power = np.abs(np.fft.rfft(frames * hann, constants.n_fft)) ** 2
    low, high = 2595 * np.log10(1 + np.array([constants.f_min, constants.f_max]) / 700)
    mels = np.linspace(float(low), float(high), len(constants.mean) + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.arange(power.shape[1]) * constants.sample_rate / constants.n_fft
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.clip(np.minimum(rise, fall), 0, None)
    raw = np.log(power @ bank.T + constants.eps)
    return np.asarray((raw - constants.mean) / constants.std, np.float32)
