"""Which sound features a checkpoint was trained on. It does not say so itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gt_infer.audio import FrameWindows, LogMel, PrecomputedFeatures, stream_mono16k
from gt_infer.avatar import AudioFrontend, LogMelConstants
from gt_infer.config import TIMING
from gt_infer.errors import AudioError, CheckpointError
from gt_infer.types import FloatArray

__all__ = ["LOGMEL29", "choose_frontend"]

# The corpus statistics with which logmel29 features are normalised.
# fmt: off
_MEAN = (
    -1.13226804260804, -1.0483159256051442, -1.8533918108665004, -2.0040552948089667,
    -2.3161725655167293, -2.5932430187505857, -3.093852885954087, -3.757356380922022,
    -4.255202653472334, -4.530203600436449, -4.667651548385531, -4.850096911875788,
    -4.870373605573723, -4.836575254565104, -4.8900222672509015, -4.980105171866546,
    -4.9404891062981235, -4.797703921487797, -4.602369239721471, -4.467535158966902,
    -4.594021849227942, -4.749169570535836, -4.782796779402629, -5.1031143968846395,
    -5.395782497208761, -5.483090011056196, -5.595533208484078, -5.640857052736406,
    -5.764346126186004,
)
_STD = (
    5.885354456346963, 5.949091823278801, 5.454802197315578, 5.503275075021612, 5.419469965014159,
    5.3825035955080756, 5.2196486805196995, 4.976424801134676, 4.614015447926879,
    4.286528960315555, 4.1656540782533495, 4.070775442118803, 3.96373958586955, 3.862995844246467,
    3.7246577774394787, 3.583722761563496, 3.527741134719482, 3.5201750195716386,
    3.532656567106683, 3.5939866772962614, 3.522987695709901, 3.4080876495047434,
    3.3645596678260445, 3.1991952032046203, 3.0370392289171693, 3.0066860736608225,
    2.964947582399837, 2.9293597333999792, 2.9230664876906993,
)
# fmt: on
# The rest of its definition are the defaults.
LOGMEL29 = LogMelConstants(np.array(_MEAN, np.float32), np.array(_STD, np.float32))

_CHANNELS = len(_MEAN)
_COMPARED_FRAMES = 250  # 10 s
# Features have standard deviation 1; float32 leaves 1e-5. Another extractor differs by about 1.
_SAME_FEATURES = 1e-2


def choose_frontend(
    channels: int, asked: str | None, dataset: Path | None
) -> tuple[AudioFrontend, list[str]]:
    """The front-end for networks that take `channels`, and warnings.

    Args:
        asked: "logmel29" or "features", None to find out: 29 channels may be logmel29 or another
            extractor's (DeepSpeech has 29, too), which the dataset's own features tell apart.
        dataset: of the training run, where its sound and features lie, if at hand.

    Raises: CheckpointError: logmel29 was asked for and does not fit. AudioError: the dataset's
        sound or features are damaged.
    """
    precomputed = AudioFrontend("features", channels)
    logmel = AudioFrontend("logmel29", channels, LOGMEL29)
    if asked == "logmel29" and channels != _CHANNELS:
        raise CheckpointError(
            f"the networks take {channels} audio channels, logmel29 has {_CHANNELS}. Use "
            "--frontend features."
        )
    if asked is not None:
        return (logmel if asked == "logmel29" else precomputed), []
    by_hand = "The avatar will need precomputed features (gt-render --features)."
    if channels != _CHANNELS:
        return precomputed, [
            f"{channels} audio channels: features of an extractor that gt_infer does not have. "
            + by_hand
        ]
    difference = None if dataset is None else _difference_from_logmel(dataset)
    if difference is None:
        return logmel, [
            "the checkpoint does not say which 29 sound features it was trained on; logmel29 is "
            "taken. If it was DeepSpeech, export with --frontend features. With --dataset and its "
            "aud.wav and aud_ds.npy this is checked."
        ]
    if difference > _SAME_FEATURES:
        return precomputed, [
            f"aud_ds.npy is not logmel29 of aud.wav (they differ by up to {difference:.2g}): "
            f"another extractor, such as DeepSpeech, made it. {by_hand}"
        ]
    return logmel, []


def _difference_from_logmel(dataset: Path) -> float | None:
    """Largest difference of the dataset's first features from logmel29 of its sound; None when
    it has not both."""
    sound, stored = dataset / "aud.wav", dataset / "aud_ds.npy"
    if not (sound.is_file() and stored.is_file()):
        return None
    features = PrecomputedFeatures(stored)
    if features.channels != _CHANNELS:
        raise AudioError(
            f"{stored}: has {features.channels} channels, but the checkpoint's networks take "
            f"{_CHANNELS}: it belongs to another dataset"
        )
    windows = FrameWindows(LogMel(LOGMEL29))
    worst = 0.0
    for chunk in itertools.islice(_chunks(sound), _COMPARED_FRAMES):
        for frame in windows.push(chunk):
            if 0 <= frame < features.n_frames:
                difference = np.abs(windows.window(frame) - features.window(frame))
                worst = max(worst, float(difference.max()))
    return worst


def _chunks(sound: Path) -> Iterator[FloatArray]:
    for block in stream_mono16k(sound):
        for start in range(0, len(block), TIMING.chunk_samples):
            yield block[start : start + TIMING.chunk_samples]
