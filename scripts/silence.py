"""What the silence gate does: how far lips open in pauses, and what it costs speech.

    scripts/silence.py ../shared

Speech of the avatar's own recording is compared with the truth, a reader's with the curve that no
gate gives. Both with more of the noise of the reader's room, and the reader with breaths in the
pauses. Levels are those above 200 Hz. docs/life.md has the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gt_infer import Avatar, EngineConfig, LifeConfig, Pose, Renderer
from gt_infer.audio import stream_mono16k
from gt_infer.avatar import resolve
from gt_infer.config import TIMING
from gt_infer.tracking import read_blink, read_poses

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.lips import Lips, lips_alone  # noqa: E402

RATE, CHUNK = TIMING.sample_rate, TIMING.chunk_samples
THRESHOLDS = (None, -60.0, -55.0, -50.0, -45.0, -40.0)
PAUSE = 60  # frames, before, between and after what the reader says
CAREFUL = 12  # frames at a pause's edges that the networks' windows still see speech in


@dataclass(frozen=True)
class Face:
    """An avatar's lips, and the scale on which 0 and 1 are the 5th and 95th percentile of how far
    they open over its own recording."""

    alone: Avatar
    lips: Lips
    low: float = 0.0
    high: float = 1.0

    def curve(
        self,
        sound: np.ndarray,
        gate: float | None,
        poses: Sequence[Pose] | None = None,
        blinks: Sequence[float] | None = None,
    ) -> np.ndarray:
        """[frames] how far the lips are open."""
        known = self.alone.poses
        assert known is not None
        mean = Pose(known.mean_euler, known.mean_trans)
        curve = []
        life, one = LifeConfig(silence_gate=gate), EngineConfig(threads=1)
        with Renderer(self.alone, life=life, config=one) as renderer:
            windows = renderer.windows()

            def measure(frame: int) -> None:
                pose = mean if poses is None else poses[frame]
                blink = 0.0 if blinks is None else float(blinks[frame])
                camera = pose.camera_vector()
                moved = renderer.deform(windows.window(frame), blink, camera).means
                curve.append((self.lips.aperture(moved) - self.low) / (self.high - self.low))

            for start in range(0, len(sound), CHUNK):
                for frame in windows.push(sound[start : start + CHUNK]):
                    if frame >= 0:
                        measure(frame)
            due = windows.n_ready
            for frame in range(due, windows.flush()):
                measure(frame)
        return np.array(curve)


def read(path: Path) -> np.ndarray:
    return np.concatenate(list(stream_mono16k(path)))


def shaped(rng: np.random.Generator, samples: int, gain: Callable[..., np.ndarray]) -> np.ndarray:
    """Noise with this amplitude over frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(samples, 1 / RATE)), samples)


def at_level(sound: np.ndarray, level_db: float) -> np.ndarray:
    """Scaled so that its root mean square above 200 Hz is this, in dB re full scale."""
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(len(sound), 1 / RATE) < 200] = 0
    return sound * 10 ** (level_db / 20) / np.fft.irfft(spectrum, len(sound)).std()


class Room:
    """More of the noise of the room in which recordings were made: steady, random, and in each band
    as strong, relative to the others, as in their quietest twentieth."""

    def __init__(self, recordings: Sequence[np.ndarray]) -> None:
        blocks = np.concatenate([r[: len(r) // 400 * 400].reshape(-1, 400) for r in recordings])
        power = np.abs(np.fft.rfft(blocks * np.hanning(400))) ** 2
        loudness = power[:, 5:].sum(axis=1)  # from 200 Hz
        quietest = loudness <= np.percentile(loudness, 5)
        self._hz = np.fft.rfftfreq(400, 1 / RATE)
        self._amplitude = np.sqrt(power[quietest].mean(axis=0))

    def noise(self, samples: int, level_db: float | None) -> np.ndarray:
        """None for silence."""
        if level_db is None:
            return np.zeros(samples)
        rng = np.random.default_rng(0)
        like = shaped(rng, samples, lambda f: np.interp(f, self._hz, self._amplitude))
        return at_level(like, level_db)


def breath(level_db: float) -> np.ndarray:
    """0.7 s, swelling and fading, most of it between 0.4 and 2.5 kHz; its level at its loudest."""
    samples = int(0.7 * RATE)
    noise = shaped(
        np.random.default_rng(1),
        samples,
        lambda f: (f / 400) / (1 + (f / 400) ** 2) / np.sqrt(1 + (f / 2500) ** 4),
    )
    return at_level(noise, level_db) * np.sin(np.pi * np.arange(samples) / samples) ** 2


def own_speech(face: Face, shared: Path, room: Room) -> None:
    folder = shared / "dataset" / "anna"
    sound = read(folder / "aud.wav")
    truth = np.load(folder / "extras" / "aperture.npy")
    must_close = np.load(folder / "extras" / "lip_closure.npy") > 0.5
    poses, blinks = list(read_poses(folder / "track_params.pt")), read_blink(folder / "au.csv")
    loud = np.abs(sound[: len(truth) * CHUNK].reshape(-1, CHUNK)).max(axis=1) > 0.01
    still = np.convolve(loud, np.ones(9), "same") == 0
    print(f"own recording, {len(truth)} frames, {still.sum()} of them in pauses")
    print("noise  gate  correlation  closed on p, b, m  pauses: mean  most")
    for level in (None, -60.0, -55.0, -50.0, -45.0):
        noisy = (sound + room.noise(len(sound), level)).astype(np.float32)
        for gate in THRESHOLDS:
            curve = face.curve(noisy, gate, poses, blinks)
            print(
                f"{level!s:5}  {gate!s:5}  {np.corrcoef(curve, truth)[0, 1]:.3f}  "
                f"{100 * (curve[must_close] < 0.2).mean():3.0f} %  "
                f"{curve[still].mean():5.2f} {curve[still].max():5.2f}"
            )


def reader(face: Face, recordings: Sequence[np.ndarray], room: Room) -> None:
    gap = np.zeros(PAUSE * CHUNK)
    parts, spoken = [gap], [np.zeros(PAUSE, bool)]
    for words in recordings:
        frames = len(words) // CHUNK
        parts += [words[: frames * CHUNK], gap]
        spoken += [np.ones(frames, bool), np.zeros(PAUSE, bool)]
    sound, speech = np.concatenate(parts), np.concatenate(spoken)
    still = np.convolve(speech, np.ones(2 * CAREFUL + 1), "same") == 0
    print(f"\nreader, {speech.sum()} frames of speech, {still.sum()} well inside pauses")
    print("added       gate   pauses: mean  most   speech: error  correlation")
    for name, noise, breaths in (
        ("nothing", None, None),
        ("room -60", -60.0, None),
        ("room -55", -55.0, None),
        ("room -50", -50.0, None),
        ("room -45", -45.0, None),
        ("breath -55", None, -55.0),
        ("breath -50", None, -50.0),
        ("breath -45", None, -45.0),
    ):
        mixed = sound + room.noise(len(sound), noise)
        if breaths is not None:
            puff = breath(breaths)
            for first in np.flatnonzero(np.diff(np.concatenate([[0], still])) == 1):
                mixed[(first + 6) * CHUNK :][: len(puff)] += puff
        plain = None
        for gate in THRESHOLDS:
            curve = face.curve(mixed.astype(np.float32), gate)
            plain = curve if plain is None else plain
            error = np.sqrt(np.mean((curve - plain)[speech] ** 2))
            print(
                f"{name:11} {gate!s:5}  {curve[still].mean():5.2f} {curve[still].max():5.2f}  "
                f"{error:.3f}  {np.corrcoef(curve[speech], plain[speech])[0, 1]:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with dataset/anna and speech")
    parser.add_argument("--avatar", default="demo")
    args = parser.parse_args()
    folder = args.shared / "dataset" / "anna"
    neutral = np.load(folder / "extras" / "landmarks3d_neutral.npy")
    face = Face(*lips_alone(Avatar.load(resolve(args.avatar)), neutral))
    low, high = np.percentile(face.curve(read(folder / "aud.wav"), None), (5, 95))
    face = Face(face.alone, face.lips, low, high)
    recordings = [read(path) for path in sorted((args.shared / "speech").glob("librivox_*.wav"))]
    room = Room(recordings)
    own_speech(face, args.shared, room)
    reader(face, recordings, room)


if __name__ == "__main__":
    main()
