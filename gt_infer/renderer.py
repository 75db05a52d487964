"""Renderer: sound chunks in, video frames out. The per-frame path, in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from .attention import attention_maps
from .audio import FrameWindows, as_float32
from .avatar import Avatar, resolve
from .behaviour import Behaviour, PoseKeeper, check_blink, open_windows
from .config import TIMING, EngineConfig, LifeConfig
from .engines import Canvas, Engine, EngineName, FrameJob, OutputFormat, create, empty_image
from .errors import ClosedError, InputError
from .picture import Background, compose, fit_camera, torso_weights
from .pose import Pose
from .types import FloatArray, Gaussians

if TYPE_CHECKING:
    from .session import BlinkSource, Overflow, PoseSource, Session
    from .types import Frame

__all__ = ["Renderer"]

Image = npt.NDArray[Any]


class Renderer:
    """Makes one avatar speak.

        with Renderer("anna.safetensors") as renderer:
            for chunk in microphone(renderer.chunk_samples):
                show(renderer.render(chunk))

    Every chunk of 40 ms gives one frame. A frame needs sound from after its own time (as trained:
    six chunks), so chunk k returns frame k - `lookahead`; the first calls show the resting face,
    and `flush` gives the frames still owed when the sound ends. `session` is the way for sound that
    comes in other pieces or rates, and for several speakers at once.

    Args:
        avatar: path of an avatar file, "demo" for the built-in one, or an `Avatar`.
        engine: "tensorrt", "cuda" or "cpu"; "auto" for the first of them that works here (see
            `gt-info`).
        size: (width, height) of the picture, or its height; None as trained. 64 to 2048.
        output: "rgb8", "bgr8", "rgba8" or "float32" (RGB, 1.0 is white, not clipped).
        background: what stands behind the torso: None for the avatar's own backdrop,
            (red, green, blue), a picture uint8 [H, W, 3], or "transparent": then "rgba8" has
            straight alpha, and the other outputs show the head over black.
        lookahead: frames of sound after a frame that are waited for, 0 to 6; None as trained. With
            less, the newest feature stands in for those still to come (docs/latency.md).
        config: threads, instruction set, precision; GPU, stream, pictures that stay on it.
        life: what the head does by itself, and what becomes of poses it was not trained for.

    Attributes:
        avatar: the loaded `Avatar`.
        width, height: of the picture, pixels.

    Raises:
        AvatarError: the file is missing, damaged or not an avatar.
        InputError: an argument is out of range.
        EngineError: the engine cannot run here.

    `render`, `flush` and `reset` are one stream of speech and belong to one thread at a time; the
    other methods may be called from any.
    """

    def __init__(
        self,
        avatar: str | os.PathLike[str] | Avatar = "demo",
        *,
        engine: EngineName = "auto",
        size: int | tuple[int, int] | None = None,
        output: OutputFormat = "rgb8",
        background: Background = None,
        lookahead: int | None = None,
        config: EngineConfig | None = None,
        life: LifeConfig | None = None,
    ) -> None:
        if output not in get_args(OutputFormat):
            raise InputError(
                f"output = {output!r}: must be one of {', '.join(get_args(OutputFormat))}"
            )
        for name, value, kind in (("config", config, EngineConfig), ("life", life, LifeConfig)):
            if not isinstance(value, kind | None):
                raise InputError(
                    f"{name}: expected a gt_infer.{kind.__name__} or None, got "
                    f"{type(value).__name__}"
                )
        if lookahead is None:
            lookahead = TIMING.lookahead_frames
        elif type(lookahead) is not int or not 0 <= lookahead <= TIMING.lookahead_frames:
            raise InputError(f"lookahead = {lookahead!r}: must be 0 to {TIMING.lookahead_frames}")
        folder: Path | None = None
        if not isinstance(avatar, Avatar):
            if not isinstance(avatar, str | os.PathLike):
                raise InputError(
                    f'avatar: expected a path, "demo" or a gt_infer.Avatar, got {avatar!r}'
                )
            path = resolve(avatar)
            folder = Path(path).parent
            avatar = Avatar.load(path)
        self.avatar = avatar
        camera = fit_camera(self.avatar.camera, size)
        self.width = camera.width
        self.height = camera.height
        # Enlarged, the trained dilation would leave holes; shrunk, it stays (MODEL section 3).
        zoom = max(1.0, camera.focal / self.avatar.camera.focal)
        raster = replace(self.avatar.raster, eps2d=self.avatar.raster.eps2d * zoom**2)
        layers, is_transparent = compose(self.avatar, camera, background)
        canvas = Canvas(camera, raster, layers, is_transparent, output)
        self._camera = camera
        self._output: OutputFormat = output
        self._lookahead = lookahead
        self._life = life or LifeConfig()
        self._keeper = PoseKeeper(self.avatar, self._life)
        self._behaviour = Behaviour(self.avatar, self._life, self._keeper, self._life.seed)
        self._windows: FrameWindows | None = None
        self._next_frame = -lookahead
        self._engine: Engine | None = create(
            self.avatar, engine, config or EngineConfig(), folder=folder
        )
        self._canvas = self._engine.prepare(canvas)

    # The stream's constants.

    @property
    def sample_rate(self) -> int:
        """Hz of the sound that `render` takes."""
        return TIMING.sample_rate

    @property
    def fps(self) -> int:
        """Frames per second."""
        return TIMING.fps

    @property
    def chunk_samples(self) -> int:
        """Samples per frame, and per call of `render`."""
        return TIMING.chunk_samples

    @property
    def lookahead(self) -> int:
        """Frames of sound that are waited for: chunk k returns frame k - lookahead."""
        return self._lookahead

    @property
    def latency(self) -> float:
        """Seconds from a frame's sound entering to the frame leaving, computing time apart: its own
        chunk and the lookahead's."""
        return (self._lookahead + 1) / TIMING.fps

    def describe(self) -> dict[str, Any]:
        """What runs, for logs: engine, instruction set, threads, picture size."""
        return {**self._open().describe(), "size": (self.width, self.height)}

    # One frame at a time.

    @overload
    def render(
        self,
        chunk: npt.NDArray[np.float32] | npt.NDArray[np.int16],
        pose: Pose | None = None,
        *,
        blink: float | None = None,
        out: Image | None = None,
        attention: Literal[False] = False,
    ) -> Image: ...

    @overload
    def render(
        self,
        chunk: npt.NDArray[np.float32] | npt.NDArray[np.int16],
        pose: Pose | None = None,
        *,
        blink: float | None = None,
        out: Image | None = None,
        attention: Literal[True],
    ) -> tuple[Image, npt.NDArray[np.uint8]]: ...

    def render(
        self,
        chunk: npt.NDArray[np.float32] | npt.NDArray[np.int16],
        pose: Pose | None = None,
        *,
        blink: float | None = None,
        out: Image | None = None,
        attention: bool = False,
    ) -> Image | tuple[Image, npt.NDArray[np.uint8]]:
        """The frame that one more chunk of sound makes due.

        Args:
            chunk: [640] float32 (full scale 1) or int16, 16 kHz mono.
            pose: of this frame; None for the avatar's own idle motion.
            blink: of this frame, 0 open to 1 shut; None for natural blinking.
            out: receives the picture instead of a new array; with `device_output` any device array
                of cupy, torch or another library that speaks DLPack or `__cuda_array_interface__`.
            attention: also give the attention pictures.

        Returns:
            uint8 [H, W, 3] (or as `output` says), with `device_output` a `DeviceImage`; with
            `attention` a pair of it and uint8 [4, H, W, 3]: grey maps of the audio, eye, camera and
            null token.

        Raises:
            InputError: chunk, pose, blink or out is wrong; the stream is as before the call.
            AudioError: the chunk has NaN or inf, or the avatar's features cannot be computed.
            ClosedError: the renderer was closed.
        """
        self._open()
        if not isinstance(chunk, np.ndarray) or chunk.shape != (TIMING.chunk_samples,):
            got = list(chunk.shape) if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise InputError(
                f"chunk: expected [{TIMING.chunk_samples}] samples (one frame at "
                f"{TIMING.sample_rate} Hz, mono), got {got}"
            )
        as_float32(chunk, name="chunk")
        # All that can be refused comes before the sound is taken in: the call can be repeated.
        view = self._behaviour.pose(self._next_frame, pose)
        eye = self._behaviour.blink(self._next_frame, blink)
        image = self._image(out)
        if self._windows is None:
            self._windows = self.windows()
        (frame,) = self._windows.push(chunk)
        self._next_frame = frame + 1
        window = self._windows.window(frame)
        self._draw(window, view, eye, image)
        return (image, self._attention(window, view, eye, image)) if attention else image

    def flush(self, pose: Pose | None = None, *, blink: float | None = None) -> Iterator[Image]:
        """Ends the sound and gives the frames that are still owed, `lookahead` of them or, after a
        shorter clip, as many as it had chunks. The renderer is ready for new sound at once.

        Args:
            pose, blink: of these frames, as in `render`.

        Raises:
            InputError, ClosedError: as `render`.
        """
        self._open()
        views = [self._behaviour.pose(0, pose)] if pose is not None else None
        eye = None if blink is None else check_blink(blink)
        windows = self._windows
        self.reset()
        if windows is None:
            return iter(())
        first = windows.n_ready

        def owed() -> Iterator[Image]:
            for frame in range(first, windows.flush()):
                view = views[0] if views is not None else self._behaviour.pose(frame, None)
                window, image = windows.window(frame), self._image(None)
                self._draw(window, view, self._behaviour.blink(frame, eye), image)
                yield image

        return owed()

    def reset(self) -> None:
        """Forgets the sound so far, at once: the next chunk starts a new clip."""
        self._open()
        self._windows = None
        self._next_frame = -self._lookahead

    def session(
        self,
        seed: int | None = None,
        *,
        alpha: bool = False,
        depth: bool = False,
        attention: bool = False,
        max_unread: int = 750,
        overflow: Overflow = "error",
    ) -> Session:
        """A stream of its own on this renderer: sound in pieces of any length and rate, frames with
        index, time and sound. Cheap; have as many as there are speakers.

        Args:
            seed: of idle motion and blinks; None for the renderer's.
            alpha, depth, attention: also fill these in every `Frame`.
            max_unread: frames of sound that may wait to be read.
            overflow: what a push beyond that does: "error" raises, "drop" skips the oldest frames.

        Raises:
            InputError: an argument is out of range.
            AudioError: the avatar's features cannot be computed from sound.
            ClosedError: the renderer was closed.
        """
        from .session import Session

        self._open()
        return Session(
            self,
            Behaviour(
                self.avatar, self._life, self._keeper, self._life.seed if seed is None else seed
            ),
            alpha=alpha,
            depth=depth,
            attention=attention,
            max_unread=max_unread,
            overflow=overflow,
        )

    def render_many(
        self,
        sessions: Sequence[Session],
        pose: PoseSource = None,
        *,
        blink: BlinkSource = None,
    ) -> list[Frame | None]:
        """The next due frame of each of several sessions, drawn together: on a GPU one launch for
        all of them. The same frames as each session's own `frames` would give.

        Args:
            sessions: of this renderer, each once.
            pose, blink: as in `Session.frames`; the same for all.

        Returns:
            For each session its frame, or None where none is due.

        Raises:
            InputError: a session is of another renderer or given twice; a pose or blink is wrong.
                Frames stay due.
            ClosedError: the renderer was closed.
        """
        from .session import read_together

        self._open()
        return read_together(self, sessions, pose, blink)

    def render_window(
        self,
        window: FloatArray,
        pose: Pose | None = None,
        *,
        blink: float | None = None,
        frame: int | None = None,
        out: Image | None = None,
        alpha: FloatArray | None = None,
        depth: FloatArray | None = None,
    ) -> Image:
        """One frame from a ready audio window; no state is touched.

        Args:
            window: [8, C, 16] float32, as `windows()` or `PrecomputedFeatures` gives it.
            pose: None for the mean pose or, with `frame`, idle motion.
            blink: None for open eyes or, with `frame`, natural blinking.
            frame: its index, 25 per second.
            out: as in `render`.
            alpha: [H, W] float32, receives 1 - transmittance of the head; with a transparent
                background, of head and torso.
            depth: [H, W] float32, receives the sum of z alpha T, not normalised.

        Raises:
            InputError: an argument is wrong.
        """
        alpha = None if alpha is None else self._plane("alpha", alpha)
        depth = None if depth is None else self._plane("depth", depth)
        image: Image = self._image(out)
        view, eye = self._life_of(frame, pose, blink)
        self._draw(self._check_window(window), view, eye, image, alpha=alpha, depth=depth)
        return image

    def render_attention(
        self,
        window: FloatArray,
        pose: Pose | None = None,
        *,
        blink: float | None = None,
        frame: int | None = None,
    ) -> npt.NDArray[np.uint8]:
        """The attention pictures of one frame: each Gaussian as grey, by the weight that it gives
        the audio, eye, camera and null token (mean over heads and layers, min-max over the head).

        Args:
            window, pose, blink, frame: as in `render_window`.

        Returns:
            uint8 [4, H, W, 3 or 4], over the frame's own background.

        Raises:
            InputError: an argument is wrong, or `output` is "float32".
        """
        view, eye = self._life_of(frame, pose, blink)
        return self._attention(self._check_window(window), view, eye, self._image(None))

    def deform(
        self,
        window: FloatArray,
        eye: float,
        camera: FloatArray,
        *,
        attention: bool = False,
    ) -> Gaussians:
        """The head's Gaussians for one frame, in the checkpoint's order, activated.

        With precision "fast" frames take a shortcut for colours: they are within 4/255 of these,
        but for what example frames did not show.

        Args:
            window: [8, C, 16] float32.
            eye: 0 open to 1 shut.
            camera: [12] float32, the network's camera input (`Pose.camera_vector`).
            attention: also give the attention weights [L, N, 4].

        Raises:
            InputError: a shape, dtype or value is wrong.
        """
        camera = _check_floats("camera", camera, (12,))
        return self._open().deform(
            self._check_window(window), check_blink(eye), camera, attention=attention
        )

    def windows(self) -> FrameWindows:
        """A fresh stream of audio windows for this avatar, for `render_window`.

        Raises:
            AudioError: the avatar's features cannot be computed from sound.
        """
        return open_windows(self.avatar, self._life, self._lookahead)

    def close(self) -> None:
        """Frees threads and memory. Closing twice is fine."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._canvas = self._windows = None

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _life_of(
        self, frame: int | None, pose: Pose | None, blink: float | None
    ) -> tuple[Pose, float]:
        """Without a frame, what is left out is still."""
        if frame is not None:
            return self._behaviour.pose(frame, pose), self._behaviour.blink(frame, blink)
        view = self._keeper.mean() if pose is None else self._keeper.resolve(pose)
        return view, 0.0 if blink is None else check_blink(blink)

    # Below the public edge: everything has been checked.

    def _draw(
        self,
        window: FloatArray,
        pose: Pose,
        eye: float,
        image: Image,
        *,
        alpha: FloatArray | None = None,
        depth: FloatArray | None = None,
    ) -> None:
        self._open().render(
            self._canvas,
            window,
            eye,
            pose.camera_vector(),
            pose.viewmat(),
            image,
            layer_weights=torso_weights(self.avatar.torso_poses, pose.euler),
            alpha=alpha,
            depth=depth,
        )

    def _draw_frame(
        self,
        window: FloatArray,
        pose: Pose,
        eye: float,
        *,
        alpha: bool,
        depth: bool,
        attention: bool,
    ) -> dict[str, Any]:
        """A session's picture, and what else it asks for, by the names of `Frame`."""
        drawn = self._targets(alpha=alpha, depth=depth)
        self._draw(window, pose, eye, **drawn)
        if attention:
            drawn["attention"] = self._attention(window, pose, eye, drawn["image"])
        return drawn

    def _targets(self, *, alpha: bool, depth: bool) -> dict[str, Any]:
        return {
            "image": self._image(None),
            "alpha": self._plane("alpha", None) if alpha else None,
            "depth": self._plane("depth", None) if depth else None,
        }

    def _draw_many(self, frames: Sequence[tuple[FloatArray, Pose, float, dict[str, Any]]]) -> None:
        engine = self._open()
        if frames:
            engine.render_many(self._canvas, [self._job(*frame) for frame in frames])

    def _job(self, window: FloatArray, pose: Pose, eye: float, targets: dict[str, Any]) -> FrameJob:
        return FrameJob(
            window,
            eye,
            pose.camera_vector(),
            pose.viewmat(),
            torso_weights(self.avatar.torso_poses, pose.euler),
            targets["image"],
            targets["alpha"],
            targets["depth"],
        )

    def _attention(
        self, window: FloatArray, pose: Pose, eye: float, image: Image
    ) -> npt.NDArray[np.uint8]:
        return attention_maps(
            self._open(),
            self._canvas,
            window,
            eye,
            pose.camera_vector(),
            pose.viewmat(),
            image,
            layer_weights=torso_weights(self.avatar.torso_poses, pose.euler),
        )

    def _open(self) -> Engine:
        if self._engine is None:
            raise ClosedError("this Renderer is closed; make a new one")
        return self._engine

    def _image(self, out: Any) -> Any:
        engine = self._open()
        if engine.gives_device_images:
            return engine.device_image(self._canvas, out)
        if out is None:
            return empty_image(self._camera, self._output)
        wanted = empty_image(self._camera, self._output)
        return _check_output("out", out, wanted.shape, wanted.dtype)

    def _plane(self, name: str, out: Any) -> Any:
        """Room for alpha or depth, or the caller's."""
        engine = self._open()
        if engine.gives_device_images:
            return engine.device_plane(self._canvas, name, out)
        size = (self.height, self.width)
        if out is None:
            return np.empty(size, np.float32)
        return _check_output(name, out, size, np.dtype(np.float32))

    def _check_window(self, window: FloatArray) -> FloatArray:
        shape = (
            TIMING.windows_per_frame,
            self.avatar.network.audio_channels,
            TIMING.steps_per_window,
        )
        return _check_floats("window", window, shape)


def _check_floats(name: str, array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape != shape:
        got = (
            f"{array.dtype} {list(array.shape)}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        raise InputError(f"{name}: expected float32 {list(shape)}, got {got}")
    floats = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(floats).all():
        raise InputError(f"{name}: NaN or inf at {np.argwhere(~np.isfinite(floats))[0].tolist()}")
    return floats


def _check_output(name: str, out: Image, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        got = (
            f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
        )
        raise InputError(f"{name}: expected {dtype} {list(shape)}, got {got}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise InputError(f"{name}: must be C-contiguous and writeable")
    return out
