"""What less lookahead costs: how the lips follow speech for each number of frames waited for.

    scripts/lookahead.py ../shared

For each lookahead the curve of the lips' aperture (tests/lips.py) goes through the same code as an
app's: the renderer's windows, its silence gate, its networks. Speech of the avatar's own recording
that it was not trained on is compared with the truth; other speech, which has none, with the curve
of the trained lookahead. docs/latency.md has the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gt_infer import Avatar, EngineConfig, Pose, Renderer
from gt_infer.audio import stream_mono16k
from gt_infer.avatar import resolve
from gt_infer.config import TIMING
from gt_infer.tracking import read_blink, read_poses

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.lips import lips_alone, scaled  # noqa: E402

TRAINED_FRAMES = 1545  # of anna; the rest was never seen in training
FRAME_MS = 1000 // TIMING.fps


def aperture_curve(
    avatar: Avatar,
    neutral: np.ndarray,
    speech: Path,
    lookahead: int,
    poses: Sequence[Pose] | None = None,
    blinks: Sequence[float] | None = None,
) -> np.ndarray:
    """[frames] aperture, frame by frame as the sound arrives in chunks of 40 ms."""
    alone, lips = lips_alone(avatar, neutral)
    known = alone.poses
    assert known is not None
    mean = Pose(known.mean_euler, known.mean_trans)
    sound = np.concatenate(list(stream_mono16k(speech)))
    curve: list[float] = []
    with Renderer(alone, lookahead=lookahead, config=EngineConfig(threads=1)) as renderer:
        windows = renderer.windows()

        def measure(frame: int) -> None:
            if frame < 0:
                return
            pose = mean if poses is None else poses[frame]
            blink = 0.0 if blinks is None else float(blinks[frame])
            gaussians = renderer.deform(windows.window(frame), blink, pose.camera_vector())
            curve.append(lips.aperture(gaussians.means))

        for start in range(0, len(sound), TIMING.chunk_samples):
            for frame in windows.push(sound[start : start + TIMING.chunk_samples]):
                measure(frame)
        due = windows.n_ready
        for frame in range(due, windows.flush()):
            measure(frame)
    return np.array(curve)


def correlation(curve: np.ndarray, truth: np.ndarray, lag: int = 0) -> float:
    """Of the curve with what the truth was `lag` frames before."""
    if lag > 0:
        curve, truth = curve[lag:], truth[:-lag]
    elif lag < 0:
        curve, truth = curve[:lag], truth[-lag:]
    return float(np.corrcoef(curve, truth)[0, 1])


def lateness(curve: np.ndarray, truth: np.ndarray) -> float:
    """Frames by which the curve follows the truth: where their correlation is largest, by a
    parabola through the three best lags."""
    lags = range(-4, 5)
    values = [correlation(curve, truth, lag) for lag in lags]
    best = int(np.argmax(values))
    if best in (0, len(values) - 1):
        return float(lags[best])
    left, middle, right = values[best - 1 : best + 2]
    return lags[best] + 0.5 * (left - right) / (left - 2 * middle + right)


def own_speech(avatar: Avatar, shared: Path) -> None:
    folder = shared / "dataset" / "anna"
    extras = folder / "extras"
    neutral = np.load(extras / "landmarks3d_neutral.npy")
    truth = np.load(extras / "aperture.npy")
    must_close = np.load(extras / "lip_closure.npy") > 0.5
    poses, blinks = list(read_poses(folder / "track_params.pt")), read_blink(folder / "au.csv")
    held_out = slice(TRAINED_FRAMES, None)
    print("held-out speech of the recording, against the truth")
    print("lookahead   waits  correlation  late by  error  lips closed")
    for lookahead in range(TIMING.lookahead_frames + 1):
        curve = aperture_curve(avatar, neutral, folder / "aud.wav", lookahead, poses, blinks)
        ours, want = scaled(curve), scaled(truth)
        error = np.sqrt(np.mean((ours[held_out] - want[held_out]) ** 2))
        closed = (ours[must_close] < 0.2).mean()
        print(
            f"{lookahead:9}  {(lookahead + 1) * FRAME_MS:3} ms  "
            f"{correlation(curve[held_out], truth[held_out]):11.3f}  "
            f"{lateness(curve[held_out], truth[held_out]) * FRAME_MS:4.0f} ms  {error:5.3f}  "
            f"{100 * closed:9.0f} %"
        )


def other_speech(avatar: Avatar, shared: Path, speech: Path) -> None:
    neutral = np.load(shared / "dataset" / "anna" / "extras" / "landmarks3d_neutral.npy")
    curves = [
        aperture_curve(avatar, neutral, speech, lookahead)
        for lookahead in range(TIMING.lookahead_frames + 1)
    ]
    trained = curves[-1]
    print(f"\n{speech.name}, {len(trained)} frames, against lookahead {len(curves) - 1}")
    print("lookahead  correlation  late by  error  opening")
    for lookahead, curve in enumerate(curves):
        low, high = np.percentile(trained, (5, 95))
        error = np.sqrt(np.mean((curve - trained) ** 2)) / (high - low)
        print(
            f"{lookahead:9}  {correlation(curve, trained):11.3f}  "
            f"{lateness(curve, trained) * FRAME_MS:4.0f} ms  {error:5.3f}  "
            f"{curve.std() / trained.std():7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with dataset/anna and speech")
    parser.add_argument("--avatar", default="demo")
    args = parser.parse_args()
    avatar = Avatar.load(resolve(args.avatar))
    own_speech(avatar, args.shared)
    for speech in sorted((args.shared / "speech").glob("librivox_*.wav")):
        other_speech(avatar, args.shared, speech)


if __name__ == "__main__":
    main()
