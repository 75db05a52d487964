"""The one place that knows how gt_infer is driven: opening streams, one frame, its stages.

Everything else in gt_bench asks a `Stream` or a `Stage`. When gt_infer's way of serving speakers
changes, this file changes with it.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gt_infer import EngineConfig, Renderer
from gt_infer.avatar import Avatar
from gt_infer.config import TIMING, LifeConfig
from gt_infer.picture import compose, fit_camera, torso_weights
from gt_infer.pose import Pose
from gt_infer.types import FloatArray, Gaussians

from . import workload
from .report import Case

__all__ = ["SESSIONS_ARE", "STAGES", "Inputs", "Speaker", "Stage", "Stream"]

Image = npt.NDArray[np.uint8]

# What the engine calls its stages, and what a report calls them, in the order of a frame.
# On a GPU a frame is one launch: all of it is one stage.
_ENGINE_STAGES = {
    "tokens": "tokens",
    "deform_project": "deform",
    "bin": "sort",
    "blend": "splat",
    "gpu": "gpu",
}
STAGES = ("audio", *_ENGINE_STAGES.values(), "python")

SESSIONS_ARE = "sessions of one Renderer, a thread each, sharing its engine"

_SH_COEFFICIENTS = 16  # that engines draw: avatars of a lower degree lack the last ones

_VOICE_SECONDS = 12.0  # then it begins again


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What one frame is computed from, for peers: audio window [8, C, 16], blink, absolute pose."""

    window: FloatArray
    eye: float
    pose: Pose


class Stream:
    """One speaking head, frame by frame.

    Attributes:
        case: what runs, everything resolved.
        clock: "sound": a step is one chunk of sound in, one picture out. "window": the avatar's
            features come precomputed, so a step is one window of them in, one picture out.
        stages: milliseconds of the last step by stage; they add up to the step.
    """

    def __init__(self, avatar: Avatar, **options: Any) -> None:
        """The options are those of `Stage`."""
        renderer, self.case = _open(avatar, **options)
        self.clock = "window" if avatar.frontend.kind == "features" else "sound"
        self.stages: dict[str, float] = {}
        self.avatar = avatar
        self.renderer = renderer
        self._frames = itertools.count()
        self._chunks = _voice()
        self._engine_ms: dict[str, float] = {}
        self._watch_engine()
        if self.clock == "sound":
            self._watch_sound()

    def step(self) -> tuple[Image, float]:
        """The next frame and its time in milliseconds. Pose, blink and sound are at hand before
        the clock starts; the picture is a new array each time."""
        frame = next(self._frames)
        pose, blink = workload.pose(self.avatar, frame), workload.blink(frame)
        self._engine_ms.clear()
        if self.clock == "sound":
            chunk = self._chunks[frame % len(self._chunks)]
            start = time.perf_counter()
            image = self.renderer.render(chunk, pose, blink=blink)
        else:
            window = workload.window(frame, self.avatar.network.audio_channels)
            start = time.perf_counter()
            image = self.renderer.render_window(window, pose, blink=blink)
        elapsed = (time.perf_counter() - start) * 1e3
        self.stages = {name: self._engine_ms.get(name, 0.0) for name in STAGES}
        self.stages["python"] = elapsed - sum(self._engine_ms.values())
        return image, elapsed

    def close(self) -> None:
        self.renderer.close()

    # One frame in parts, for comparison with peers.

    def inputs(self, frame: int) -> Inputs:
        """Of the workload's frame; the stream stays where it is. Windows are of unit variance, as
        normalised features are."""
        window = workload.window(frame, self.avatar.network.audio_channels)
        pose = workload.pose(self.avatar, frame)
        if pose.relative and self.avatar.poses is not None:
            pose = pose.resolve(self.avatar.poses.mean_euler, self.avatar.poses.mean_trans)
        return Inputs(window, workload.blink(frame), pose)

    def render(self, inputs: Inputs) -> Image:
        """The whole frame: uint8 [H, W, 3]."""
        return self.renderer.render_window(inputs.window, inputs.pose, blink=inputs.eye)

    @property
    def tells_networks(self) -> bool:
        """Whether `networks_ms` can be had: on a GPU a frame is one launch."""
        return self.case.engine == "cpu"

    @property
    def networks_ms(self) -> float:
        """Of the last frame: tokens, networks, projection and colours."""
        return self._engine_ms["tokens"] + self._engine_ms["deform"]

    def deform(self, inputs: Inputs) -> Gaussians:
        """The networks alone, every attribute written out."""
        return self.renderer.deform(inputs.window, inputs.eye, inputs.pose.camera_vector())

    def splat(self, gaussians: Gaussians, inputs: Inputs) -> Image:
        """Projection, colours, sorting and blending of given Gaussians: uint8 [H, W, 3]."""
        engine: Any = self.renderer._engine
        if missing := _SH_COEFFICIENTS - gaussians.sh.shape[1]:
            sh = np.pad(gaussians.sh, ((0, 0), (0, missing), (0, 0)))
            gaussians = replace(gaussians, sh=sh)
        out = np.empty((self.renderer.height, self.renderer.width, 3), np.uint8)
        weights = torso_weights(self.avatar.torso_poses, inputs.pose.euler)
        canvas = self.renderer._canvas
        engine.splat(canvas, gaussians, inputs.pose.viewmat(), out, layer_weights=weights)
        return out

    def background(self, inputs: Inputs) -> FloatArray:
        """What is behind the head in that pose: float32 [H, W, 3] in [0, 1]."""
        size = (self.renderer.width, self.renderer.height)
        layers, _ = compose(self.avatar, fit_camera(self.avatar.camera, size), None)
        weights = torso_weights(self.avatar.torso_poses, inputs.pose.euler) or [1.0]
        mixed = np.tensordot(np.array(weights, np.float32), layers[..., :3], axes=1)
        return np.ascontiguousarray(mixed, np.float32)

    # The renderer does not tell where a frame's time goes; its engine does.

    def _watch_engine(self) -> None:
        engine: Any = self.renderer._engine
        render = engine.render

        def watched(*arguments: Any, **options: Any) -> dict[str, float]:
            stages: dict[str, float] = render(*arguments, **options)
            for name, milliseconds in stages.items():
                self._engine_ms[_ENGINE_STAGES[name]] = milliseconds
            return stages

        engine.render = watched

    def _watch_sound(self) -> None:
        windows: Any = self.renderer.windows()

        def timed(method: Any) -> Any:
            def call(argument: Any) -> Any:
                start = time.perf_counter()
                result = method(argument)
                spent = (time.perf_counter() - start) * 1e3
                self._engine_ms["audio"] = self._engine_ms.get("audio", 0.0) + spent
                return result

            return call

        windows.push, windows.window = timed(windows.push), timed(windows.window)
        self.renderer._windows = windows


class Stage:
    """One renderer that several speakers share, left as an app would have it.

    Args:
        engine, isa, threads, precision, size: as `Renderer` and `EngineConfig` take them.

    Attributes:
        case: what runs, everything resolved.

    Raises: InputError, EngineError: as `Renderer`.
    """

    def __init__(self, avatar: Avatar, **options: Any) -> None:
        self._renderer, self.case = _open(avatar, **options)

    def speaker(self, index: int) -> Speaker:
        """Raises: AudioError: the avatar's features cannot be computed from sound."""
        return Speaker(self._renderer.session(seed=index), index)

    def close(self) -> None:
        self._renderer.close()


class Speaker:
    """One session, moving and blinking by itself. Used from one thread."""

    def __init__(self, session: Any, index: int) -> None:
        self._session = session
        self._chunks = _voice()
        self._next = itertools.count(index)  # not all say the same at the same time

    def step(self) -> int:
        """One more chunk of sound in; gives how many frames came out."""
        self._session.push(self._chunks[next(self._next) % len(self._chunks)])
        return sum(1 for _ in self._session.frames())


def _open(
    avatar: Avatar,
    *,
    engine: str = "auto",
    isa: str | None = None,
    threads: int | None = None,
    precision: str = "fast",
    size: int | None = None,
) -> tuple[Renderer, Case]:
    renderer = Renderer(
        avatar,
        engine=engine,  # type: ignore[arg-type]
        size=size,
        config=EngineConfig(precision=precision, threads=threads, isa=isa),  # type: ignore[arg-type]
        # Poses are drawn as the workload has them, whatever the avatar was trained on.
        life=LifeConfig(pose_range="off"),
    )
    facts = renderer.describe()
    case = Case(
        engine=facts["engine"],
        isa=facts.get("isa"),
        threads=facts["threads"],
        precision=precision,
        width=renderer.width,
        height=renderer.height,
        avatar=avatar.name,
        gaussians=len(avatar),
        layers=len(avatar.network.layers),
    )
    return renderer, case


def _voice() -> FloatArray:
    """[chunks, 640] of the workload's voice."""
    return workload.speech(_VOICE_SECONDS).reshape(-1, TIMING.chunk_samples)
