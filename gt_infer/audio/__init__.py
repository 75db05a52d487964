"""Sound in: files and live chunks to 16 kHz mono, feature front-ends, the network's windows.

chunk or file -> Resampler -> FeatureFrontend (50 Hz steps) -> FrameWindows ([8, C, 16] per frame)
"""

from __future__ import annotations

from .files import SoundReader, stream_mono16k
from .frontend import FeatureFrontend, LogMel, frontend_from_avatar
from .precomputed import PrecomputedFeatures
from .resample import Resampler, check_sample_rate
from .samples import as_float32
from .windows import FrameWindows

__all__ = [
    "FeatureFrontend",
    "FrameWindows",
    "LogMel",
    "PrecomputedFeatures",
    "Resampler",
    "SoundReader",
    "as_float32",
    "check_sample_rate",
    "frontend_from_avatar",
    "stream_mono16k",
]
