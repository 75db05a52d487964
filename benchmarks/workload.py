"""What is rendered: the frozen avatar, a voice, a moving and blinking head. All by formula or hash,
so that two machines, or two years, measure the same work."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from pathlib import Path

import numpy as np

from gt_infer.avatar import Avatar, resolve
from gt_infer.config import TIMING
from gt_infer.errors import InputError
from gt_infer.pose import Pose
from gt_infer.types import FloatArray

__all__ = ["WORKLOAD_PATH", "WORKLOAD_SHA256", "blink", "find_avatar", "pose", "speech", "window"]

WORKLOAD_PATH = Path(__file__).with_name("workload") / "anna-fp16.safetensors"
# Results before and after a change of this line cannot be compared.
WORKLOAD_SHA256 = "af64fd2fba9019302747d2f3c8647d130103758c68d1fbbbac8546fa5fba79a5"

_SEED = 7
_SYLLABLES_PER_S = 4.5
_HARMONICS = 30
# Formants of a, i, u, e, o (hertz), as in any phonetics text.
_VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
_FORMANT_WIDTH = 120.0  # hertz

_PORTRAIT = (0.0, 0.0, -10.8)  # head-space units, of the published recordings
# Amplitude (degrees) and period (seconds) of the head's sway: inside what heads are trained on.
_SWAY = {"yaw": (6.0, 4.1), "pitch": (3.0, 3.3), "roll": (2.0, 5.7)}
_BLINK_PERIOD = 75  # frames
_BLINK = (0.3, 0.8, 1.0, 0.7, 0.3)


def find_avatar(path: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """The avatar file to measure and where it comes from: "workload", "demo" or "file".

    Args:
        path: a user's; None for the frozen workload, or the built-in demo avatar where gt_bench is
            installed without its repository.

    Raises: InputError: the frozen file is not the one it should be. AvatarError: no avatar at all.
    """
    if path is not None:
        return resolve(path), "demo" if path == "demo" else "file"
    if not WORKLOAD_PATH.is_file():
        return resolve("demo"), "demo"
    found = hashlib.sha256(WORKLOAD_PATH.read_bytes()).hexdigest()
    if found != WORKLOAD_SHA256:
        raise InputError(
            f"{WORKLOAD_PATH}: sha256 {found[:16]}, the frozen workload has "
            f"{WORKLOAD_SHA256[:16]}. Restore the file, or pass an avatar by path."
        )
    return WORKLOAD_PATH, "workload"


@functools.cache
def speech(seconds: float) -> FloatArray:
    """Something like a voice: vowels in changing order, with pauses.

    Returns: float32 [n], 16 kHz, a whole number of frames; read-only.
    """
    rng = np.random.default_rng(_SEED)
    count = math.ceil(seconds * TIMING.fps) * TIMING.chunk_samples
    t = np.arange(count) / TIMING.sample_rate
    syllables = (t * _SYLLABLES_PER_S).astype(int)
    n_syllables = int(syllables[-1]) + 1
    vowels = np.array(_VOWELS)[rng.integers(0, len(_VOWELS), n_syllables)]
    is_voiced = rng.random(n_syllables) > 0.2
    phase = 2 * np.pi * np.cumsum(120 + 15 * np.sin(2 * np.pi * 0.7 * t)) / TIMING.sample_rate
    envelope = np.sin(np.pi * (t * _SYLLABLES_PER_S % 1)) ** 2 * is_voiced[syllables]
    sound = np.zeros(count)
    for harmonic in range(1, _HARMONICS + 1):
        distance = (120 * harmonic - vowels) / _FORMANT_WIDTH
        gains = (1 / (1 + distance**2)).sum(axis=1)
        sound += gains[syllables] * np.sin(harmonic * phase)
    sound = 0.1 * envelope * sound + 1e-3 * rng.standard_normal(count)
    voice: FloatArray = np.clip(sound, -1, 1).astype(np.float32)
    voice.flags.writeable = False
    return voice


def window(frame: int, channels: int) -> FloatArray:
    """Features of one frame for avatars whose extractor gt_infer does not have: [8, channels, 16],
    normal with unit variance, as extractors normalise them."""
    rng = np.random.default_rng((_SEED, frame))
    shape = (TIMING.windows_per_frame, channels, TIMING.steps_per_window)
    return rng.standard_normal(shape, np.float32)


def pose(avatar: Avatar, frame: int) -> Pose:
    """The head sways slowly, around the avatar's mean pose where it knows one."""
    t = frame / TIMING.fps
    degrees = {
        axis: size * math.sin(2 * math.pi * t / period) for axis, (size, period) in _SWAY.items()
    }
    if avatar.poses is not None:
        return Pose.from_degrees(**degrees)
    pitch, yaw, roll = (math.radians(degrees[axis]) for axis in ("pitch", "yaw", "roll"))
    return Pose.from_tracking((pitch, yaw, roll), _PORTRAIT)


def blink(frame: int) -> float:
    """Shut for a moment every three seconds."""
    step = frame % _BLINK_PERIOD
    return _BLINK[step] if step < len(_BLINK) else 0.0
