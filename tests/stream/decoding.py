"""What a player sees and hears of an MP4: decoded here by the tests' own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

KR, KB = 0.2126, 0.0722  # BT.709


@dataclass(frozen=True)
class Decoded:
    images: list[np.ndarray]  # uint8 [H, W, 3]
    times: list[Fraction]  # s
    sound: np.ndarray | None  # [channels, n], as long as the track says
    sample_rate: int | None
    video_seconds: Fraction
    sound_seconds: Fraction | None


def decode(path: Path) -> Decoded:
    images, times, pieces = [], [], []
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        tracks = container.streams.audio
        for frame in container.decode(*container.streams):
            if isinstance(frame, av.AudioFrame):
                pieces.append(frame.to_ndarray())
            else:
                images.append(rgb_of(frame))
                times.append(frame.pts * frame.time_base)
        video_seconds = video.duration * video.time_base
        if not tracks:
            return Decoded(images, times, None, None, video_seconds, None)
        rate = tracks[0].rate
        seconds = tracks[0].duration * tracks[0].time_base
    sound = np.concatenate(pieces, axis=1)[:, : round(seconds * rate)]
    return Decoded(images, times, sound, rate, video_seconds, seconds)


def rgb_of(frame: av.VideoFrame) -> np.ndarray:
    """4:2:0, BT.709, limited range: what the stream must say it is."""
    assert frame.format.name == "yuv420p"
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
    planes = [
        np.frombuffer(bytes(plane), np.uint8)
        .reshape(plane.height, plane.line_size)[:, : plane.width]
        .astype(np.float64)
        for plane in frame.planes
    ]
    y = (planes[0] - 16) / 219
    cb, cr = ((plane.repeat(2, 0).repeat(2, 1) - 128) / 224 for plane in planes[1:])
    red, blue = y + 2 * (1 - KR) * cr, y + 2 * (1 - KB) * cb
    green = (y - KR * red - KB * blue) / (1 - KR - KB)
    rgb = np.stack([red, green, blue], axis=-1)
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def lag(expected: np.ndarray, sound: np.ndarray, reach: int = 1500) -> int:
    """By how many samples `sound` comes later than `expected`."""
    n = min(len(expected), len(sound))
    core = expected[reach : n - reach]
    scores = [core @ sound[reach + k : n - reach + k] for k in range(-reach, reach + 1)]
    return int(np.argmax(scores)) - reach
