"""The `logmel29` features and the windows that a frame sees, in float64, for a whole clip.

The features are defined in the checkpoint's FEATURES.md, the windows in MODEL section 5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SAMPLE_RATE = 16_000
HOP = 320
WINDOW = 400
N_FFT = 512
BANDS = 29
F_MIN, F_MAX = 80.0, 7600.0
EPS = 1e-6

FRAME_SAMPLES = 640
STEPS_PER_WINDOW = 16
WINDOWS_PER_FRAME = 8


def logmel(samples: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike) -> Array:
    """Features [T, 29], T = ceil(len/320), of 16 kHz samples in [-1, 1], with frozen statistics."""
    x = np.asarray(samples, np.float64)
    steps = -(-len(x) // HOP)
    padded = np.concatenate([np.zeros(WINDOW // 2), x, np.zeros(HOP + WINDOW)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    bands = filterbank()
    raw = np.empty((steps, BANDS))
    for t in range(steps):
        # padded[HOP * t] is sample HOP * t - WINDOW / 2.
        spectrum = np.fft.rfft(hann * padded[HOP * t : HOP * t + WINDOW], N_FFT)
        raw[t] = np.log(bands @ np.abs(spectrum) ** 2 + EPS)
    return (raw - np.asarray(mean, np.float64)) / np.asarray(std, np.float64)


def filterbank() -> Array:
    """[29, 257]: triangles that are linear in hertz between edges equally spaced in mel."""

    def mel(hertz: float) -> float:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(mel(F_MIN), mel(F_MAX), BANDS + 2) / 2595.0) - 1.0)
    frequency = np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT
    bands = np.zeros((BANDS, len(frequency)))
    for b in range(BANDS):
        low, peak, high = edges[b : b + 3]
        rising, falling = (frequency - low) / (peak - low), (high - frequency) / (high - peak)
        bands[b] = np.maximum(0.0, np.minimum(rising, falling))
    return bands


def clip_windows(features: npt.ArrayLike, n_frames: int) -> Array:
    """[n, C, 16]: window j holds steps 2j-8 .. 2j+7; steps outside the clip are zero."""
    steps = np.asarray(features, np.float64)
    windows = np.zeros((n_frames, steps.shape[1], STEPS_PER_WINDOW))
    for j in range(n_frames):
        for k in range(STEPS_PER_WINDOW):
            t = 2 * j - STEPS_PER_WINDOW // 2 + k
            if 0 <= t < len(steps):
                windows[j, :, k] = steps[t]
    return windows


def frame_window(windows: Array, frame: int) -> Array:
    """[8, C, 16] of one frame: windows frame-4 .. frame+3; those outside the clip are zero."""
    out = np.zeros((WINDOWS_PER_FRAME, *windows.shape[1:]))
    for k in range(WINDOWS_PER_FRAME):
        j = frame - WINDOWS_PER_FRAME // 2 + k
        if 0 <= j < len(windows):
            out[k] = windows[j]
    return out


def frame_count(samples: int) -> int:
    """ceil(samples * 25 / 16000)."""
    return -(-samples // FRAME_SAMPLES)
