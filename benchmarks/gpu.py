"""What a GPU engine gives: latency to the GPU and to the host, batches, memory, a rival in turn.

    python -m gt_bench.gpu --json gpu.json

`make gpu-check` runs it. Every time is taken with the work done: a picture's event was waited for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gt_infer
from gt_infer.avatar import Avatar
from gt_infer.config import TIMING, LifeConfig
from gt_infer.engines.cuda_api import load_cuda
from gt_infer.errors import EngineError
from gt_infer.picture import torso_weights

from . import workload
from .gpu_rival import open_rivals
from .stream import Stream
from .timing import interleave, median, paired_ratio, summarize

__all__ = ["main", "measure_gpu"]

_WARM_UP = 20  # frames: kernels are loaded, the graph captured, the clocks up
_VOICE_SECONDS = 12.0
_MEGABYTE = 1e6
_RIVAL_ROUNDS = 30
_RIVAL_SECONDS = 20.0


def measure_gpu(
    path: Path,
    *,
    engine: str = "cuda",
    seconds: float = 5.0,
    sessions: int = 32,
    rivals: bool = True,
) -> dict[str, Any]:
    """Everything, as JSON values; what cannot be measured has its reason in its place.

    Args:
        path: of the avatar file.
        engine: "cuda" or "tensorrt".
        seconds: of each measurement.

    Raises: EngineError: there is no such engine here.
    """
    avatar = Avatar.load(path)
    memory = _Memory()
    found: dict[str, Any] = {"engine": engine, "avatar": avatar.name, "gaussians": len(avatar)}
    with _open(path, engine, device_output=True) as renderer:
        found["facts"] = {k: v for k, v in renderer.describe().items() if k != "size"}
        found["size"] = [renderer.width, renderer.height]
        found["sound_to_device_ms"] = _latency(renderer, avatar, seconds, _to_device)
        found["memory_mb"] = memory.taken()
    with _open(path, engine) as renderer:
        found["sound_to_host_ms"] = _latency(renderer, avatar, seconds, lambda image: None)
    with _open(path, engine, device_output=True) as renderer:
        memory = _Memory()
        found["batched"] = _batched(renderer, avatar, sessions, seconds)
        found["batched"]["memory_mb"] = memory.taken()
        found["sessions"] = _sessions(renderer, sessions, seconds)
    found["fast_against_fp32"] = _fidelity(path, engine)
    found["rivals"] = _rivals(path, engine) if rivals else "not asked for"
    found["summary"] = _summary(found)
    return found


class _Memory:
    """What of the device's memory is taken from here on, by anybody; beside the context, which is
    there already."""

    def __init__(self) -> None:
        self._api = load_cuda()
        self._api.require_kernels(0)
        self._free = self._api.memory_info(0)[0]

    def taken(self) -> float:
        return round((self._free - self._api.memory_info(0)[0]) / _MEGABYTE, 1)


def _open(path: Path, engine: str, **config: Any) -> gt_infer.Renderer:
    return gt_infer.Renderer(
        path,
        engine=engine,  # type: ignore[arg-type]
        config=gt_infer.EngineConfig(**config),
        life=LifeConfig(pose_range="off"),
    )


def _to_device(image: Any) -> None:
    image.wait()


def _latency(
    renderer: gt_infer.Renderer, avatar: Avatar, seconds: float, finish: Callable[[Any], None]
) -> dict[str, Any]:
    """A 40 ms chunk of sound in, a picture out, one after another."""
    times = []
    end = time.perf_counter() + seconds
    for frame, chunk in enumerate(_voice()):
        pose, blink = workload.pose(avatar, frame), workload.blink(frame)
        start = time.perf_counter()
        finish(renderer.render(chunk, pose, blink=blink))
        if frame >= _WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
        if frame > _WARM_UP and time.perf_counter() > end:
            break
    latency = summarize(times)
    names = ("p50", "p90", "p99", "max", "fps", "frames")
    return {name: round(getattr(latency, name), 4) for name in names}


def _batched(
    renderer: gt_infer.Renderer, avatar: Avatar, count: int, seconds: float
) -> dict[str, Any]:
    """Frames of so many speakers in one launch, from ready windows to pictures on the device."""
    engine: Any = renderer._engine
    canvas = renderer._canvas

    def jobs(frame: int) -> list[Any]:
        made = []
        for speaker in range(count):
            pose = workload.pose(avatar, frame + 7 * speaker)
            if pose.relative and avatar.poses is not None:
                pose = pose.resolve(avatar.poses.mean_euler, avatar.poses.mean_trans)
            window = workload.window(frame + 7 * speaker, avatar.network.audio_channels)
            weights = torso_weights(avatar.torso_poses, pose.euler)
            made.append((window, workload.blink(frame), pose, weights))
        return made

    from gt_infer.engines import FrameJob

    ready = [jobs(frame) for frame in range(8)]
    times = []
    end = time.perf_counter() + seconds
    for step in itertools.count():
        batch = [
            FrameJob(window, eye, pose.camera_vector(), pose.viewmat(), weights, None)
            for window, eye, pose, weights in ready[step % len(ready)]
        ]
        start = time.perf_counter()
        drawn = [
            FrameJob(
                job.window,
                job.eye,
                job.camera,
                job.viewmat,
                job.layer_weights,
                engine.device_image(canvas, None),
            )
            for job in batch
        ]
        engine.render_many(canvas, drawn)
        drawn[-1].out.wait()
        if step >= _WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
        if step > _WARM_UP and time.perf_counter() > end:
            break
    per_batch = median(times)
    return {
        "sessions": count,
        "batch_ms": round(per_batch, 4),
        "frames_per_second": round(count / per_batch * 1e3, 1),
        "what": "windows and poses at hand; pictures on the device",
    }


def _sessions(renderer: gt_infer.Renderer, count: int, seconds: float) -> dict[str, Any]:
    """Whole sessions, all in one Python thread: sound pushed, features, life, `render_many`."""
    try:
        speakers = [renderer.session(seed=index) for index in range(count)]
    except gt_infer.AudioError as err:
        return {"reason": str(err)}
    voices = [itertools.islice(_voice(), index, None) for index in range(count)]
    frames = 0
    start = time.perf_counter()
    for step in itertools.count():
        if step == _WARM_UP:
            frames, start = 0, time.perf_counter()
        for session, voice in zip(speakers, voices, strict=True):
            session.push(next(voice))
        drawn = [frame for frame in renderer.render_many(speakers) if frame is not None]
        if drawn:
            last: Any = drawn[-1].image
            last.wait()
        frames += len(drawn)
        if step > _WARM_UP and time.perf_counter() > start + seconds:
            break
    per_second = frames / (time.perf_counter() - start)
    return {
        "sessions": count,
        "frames_per_second": round(per_second, 1),
        "sessions_in_real_time": int(per_second / TIMING.fps),
    }


def _fidelity(path: Path, engine: str) -> dict[str, Any]:
    """Pictures of "fast" against the CPU engine's "fp32"."""
    avatar = Avatar.load(path)
    worst = []
    with (
        _open(path, engine) as fast,
        _open(path, "cpu", precision="fp32") as exact,
    ):
        for frame in range(8):
            window = workload.window(frame, avatar.network.audio_channels)
            pose, blink = workload.pose(avatar, frame), workload.blink(frame)
            one = fast.render_window(window, pose, blink=blink).astype(np.float64)
            other = exact.render_window(window, pose, blink=blink)
            error = float(np.mean((one - other) ** 2))
            worst.append(999.0 if error == 0 else float(10 * np.log10(255**2 / error)))
    return {"frames": len(worst), "worst_psnr_db": round(min(worst), 2)}


def _rivals(path: Path, engine: str) -> list[dict[str, Any]]:
    """PyTorch eager networks and a splatter on the same GPU, timed in turn with ours."""
    avatar = Avatar.load(path)
    stream = Stream(avatar, engine=engine)
    try:
        inputs = stream.inputs(0)
        with _open(path, engine, device_output=True) as renderer:

            def ours() -> None:
                image: Any = renderer.render_window(inputs.window, inputs.pose, blink=inputs.eye)
                image.wait()

            results: list[dict[str, Any]] = []
            for rival in open_rivals(stream, inputs):
                if rival.call is None:
                    results.append({"name": rival.name, "reason": rival.reason})
                    continue
                mine, theirs = interleave(
                    [ours, rival.call], _RIVAL_ROUNDS, seconds=_RIVAL_SECONDS, warm_up=3
                )
                ratio = paired_ratio(theirs, mine)
                results.append(
                    {
                        "name": rival.name,
                        "ours_ms": round(median(mine), 4),
                        "theirs_ms": round(median(theirs), 4),
                        "ratio": round(ratio.median, 2),
                        "pairs": ratio.pairs,
                    }
                )
            return results
    finally:
        stream.close()


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    ratios = [rival["ratio"] for rival in found["rivals"] if "ratio" in rival]
    return {
        "sound to device picture p50, ms": found["sound_to_device_ms"]["p50"],
        "sound to device picture p99, ms": found["sound_to_device_ms"]["p99"],
        "sound to host picture p50, ms": found["sound_to_host_ms"]["p50"],
        "frames per second, batched": found["batched"]["frames_per_second"],
        "memory beside the context, MB": found["memory_mb"],
        "smallest ratio to a rival": min(ratios) if ratios else None,
    }


def _voice() -> Iterator[Any]:
    """Chunks of 40 ms without end."""
    return itertools.cycle(workload.speech(_VOICE_SECONDS).reshape(-1, TIMING.chunk_samples))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="gt_bench.gpu", description=__doc__.split("\n", 1)[0])
    parser.add_argument("avatar", nargs="?", help="avatar file (default: the frozen workload)")
    parser.add_argument("--engine", choices=("cuda", "tensorrt"), default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="each measurement")
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args(argv)
    path, _ = workload.find_avatar(arguments.avatar)
    try:
        found = measure_gpu(
            path,
            engine=arguments.engine,
            seconds=arguments.seconds,
            sessions=arguments.sessions,
        )
    except EngineError as err:
        print(f"error: {err}")
        return 2
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["summary"], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
