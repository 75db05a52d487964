"""gt-render: a sound file in, a video of the avatar speaking it out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..config import TIMING, EngineConfig, LifeConfig, Precision
from ..errors import AudioError, InputError
from ..types import FloatArray
from .common import printable, run

if TYPE_CHECKING:
    from ..audio import FrameWindows, SoundReader
    from ..media import PngFolderWriter, VideoWriter
    from ..picture import Background
    from ..renderer import Renderer

__all__ = ["main"]

_IN_FLIGHT = 4  # writes between the renderer and the encoder
_MISMATCH_FRAMES = TIMING.fps  # extractors differ by a few frames at a clip's end; not by a second


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    with _sigterm_unwinds():
        return run(lambda: _render(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gt-render",
        description="Render a video of an avatar that speaks a sound file.",
        epilog="example: gt-render demo hello.wav -o hello.mp4",
    )
    parser.add_argument("avatar", metavar="AVATAR", help='avatar file, or "demo", the built-in one')
    parser.add_argument("audio", metavar="AUDIO", help="wav, flac, ogg or mp3; any rate, channels")
    parser.add_argument("-o", "--output", metavar="OUT.mp4", help="video with the sound")
    parser.add_argument("--frames", metavar="DIR", help="also (or only) write DIR/000000.png, ...")
    parser.add_argument(
        "--poses",
        metavar="FILE",
        default="idle",
        help='track_params.pt or transforms.json of a recording; "still": the mean pose; "idle" '
        "(default): the avatar's own motion",
    )
    parser.add_argument(
        "--blink",
        metavar="FILE",
        default="auto",
        help='au.csv of a recording (OpenFace AU45_r); "none": open eyes; "auto" (default): '
        "natural blinking",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of motion and blinking (default: 0)"
    )
    parser.add_argument(
        "--background",
        metavar="COLOR|IMAGE",
        help='#rrggbb, a png or jpg, or "transparent" (for --frames); default: the avatar\'s',
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="beside the picture, what the head attends to: audio, eye, camera, null token",
    )
    parser.add_argument(
        "--features",
        metavar="X.npy",
        help="precomputed features [frames, 16, C] of AUDIO instead of the avatar's front-end",
    )
    parser.add_argument("--size", metavar="N|WxH", type=_size, help="pixels; default: as trained")
    parser.add_argument("--engine", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="fast")
    parser.add_argument("--threads", metavar="N", type=int, help="default: all usable cores")
    parser.add_argument("--isa", help="instruction set of the CPU engine, see gt-info")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _size(text: str) -> int | tuple[int, int]:
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a height such as 512, or 640x480")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Makes SIGTERM an exception, so that a terminated run tidies up as an interrupted one does."""

    def unwind(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    previous = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    def note(message: Warning | str, *where: Any, **more: Any) -> None:
        print(f"note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = note
        yield


def _render(arguments: argparse.Namespace) -> int:
    from ..audio import SoundReader
    from ..renderer import Renderer
    from ..tracking import read_blink, read_poses

    if arguments.output is None and arguments.frames is None:
        raise InputError("nothing to write: give -o OUT.mp4, --frames DIR, or both")
    _check_output_is_new(arguments)
    config = EngineConfig(
        precision=arguments.precision, threads=arguments.threads, isa=arguments.isa
    )
    poses = None if arguments.poses in ("still", "idle") else read_poses(arguments.poses)
    blinks = None if arguments.blink in ("none", "auto") else read_blink(arguments.blink).tolist()
    life = LifeConfig(
        idle_motion=arguments.poses == "idle",
        blinking=arguments.blink == "auto",
        seed=arguments.seed,
    )
    background = _background(arguments.background)
    is_transparent = isinstance(background, str)
    if is_transparent and arguments.output is not None:
        raise InputError("--background transparent: an mp4 has no alpha; use --frames alone")
    with (
        _warnings_as_notes(),
        SoundReader(arguments.audio) as sound,
        Renderer(
            arguments.avatar,
            engine=arguments.engine,
            size=arguments.size,
            output="rgba8" if is_transparent else "rgb8",
            background=background,
            config=config,
            life=life,
        ) as renderer,
        ExitStack() as stack,
    ):
        if poses is None and renderer.avatar.poses is None:
            raise InputError(
                f"{arguments.avatar}: was exported without its dataset and has no pose of its own. "
                "Give --poses FILE, or export it again with --dataset."
            )
        notes = [
            f"{name}: {len(recorded)} recorded for {sound.n_frames} frames, played to and fro"
            for name, recorded in (("poses", poses), ("blinks", blinks))
            if recorded is not None and len(recorded) < sound.n_frames
        ]
        windows: FrameWindows | _StoredWindows
        if arguments.features is None:
            windows = renderer.windows()
        else:
            windows = _StoredWindows(arguments.features, renderer.avatar.frontend.channels)
            notes += windows.compare(sound)
        if not arguments.quiet:
            for note in notes:
                print(f"note: {note}", file=sys.stderr)

        start = time.perf_counter()
        output = stack.enter_context(_Output(arguments, renderer, sound))
        progress = stack.enter_context(_progress_bar(sound.n_frames, quiet=arguments.quiet))
        for frame, window in enumerate(_each_window(sound, windows, output.write_sound)):
            pose = None if poses is None else poses[_to_and_fro(frame, len(poses))]
            blink = None if blinks is None else blinks[_to_and_fro(frame, len(blinks))]
            image = renderer.render_window(window, pose, blink=blink, frame=frame)
            if arguments.attention:
                maps = renderer.render_attention(window, pose, blink=blink, frame=frame)
                image = np.concatenate([image, *maps], axis=1)
            output.write_frame(image)
            progress.update()
        output.close()
        progress.close()
        if not arguments.quiet:
            _summarize(output.names, sound.n_frames, time.perf_counter() - start)
    return 0


def _background(text: str | None) -> Background:
    from ..media import read_image

    if text is None:
        return None
    if text == "transparent":
        return "transparent"
    if text.startswith("#"):
        try:
            red, green, blue = bytes.fromhex(text[1:])
        except ValueError as error:
            raise InputError(
                f"--background {text}: expected # and six hexadecimal digits, such as #00ff00"
            ) from error
        return red, green, blue
    return np.ascontiguousarray(read_image(text)[..., :3])


def _check_output_is_new(arguments: argparse.Namespace) -> None:
    """Refuse to replace what is read, or one output by the other."""
    output = arguments.output
    if output is None:
        return
    exist = os.path.exists(output) and os.path.exists(arguments.audio)
    if exist and os.path.samefile(output, arguments.audio):
        raise InputError(f"{output}: is the sound itself; give -o another name")
    if os.path.abspath(output) == os.path.abspath(arguments.frames or ""):
        raise InputError(f"{output}: the video and the folder of frames need different names")


class _StoredWindows:
    """Precomputed features behind the face of `FrameWindows`."""

    def __init__(self, path: str, channels: int) -> None:
        from ..audio import PrecomputedFeatures

        self._features = PrecomputedFeatures(path, channels=channels)
        self._samples = 0
        self.n_ready = 0

    def compare(self, sound: SoundReader) -> list[str]:
        """What to tell the user when features and sound are not equally long.

        Raises:
            AudioError: they cannot belong together.
        """
        features = self._features
        if features.n_frames == sound.n_frames:
            return []
        lengths = f"{features.n_frames} frames of features, {sound.n_frames} of sound"
        if abs(features.n_frames - sound.n_frames) > _MISMATCH_FRAMES:
            raise AudioError(
                f"{features.path} does not belong to {sound.path}: {lengths} (25 per second)"
            )
        return [f"{lengths}: the video is as long as the sound"]

    def push(self, samples: FloatArray) -> range:
        first = self.n_ready
        self._samples += len(samples)
        self.n_ready = self._samples // TIMING.chunk_samples
        return range(first, self.n_ready)

    def flush(self) -> int:
        self.n_ready = -(-self._samples // TIMING.chunk_samples)
        return self.n_ready

    def window(self, frame: int) -> FloatArray:
        return self._features.window(frame)


def _each_window(
    sound: SoundReader,
    windows: FrameWindows | _StoredWindows,
    hear: Callable[[FloatArray], None],
) -> Iterator[FloatArray]:
    """The audio windows of frames 0 .. n-1; `hear` gets the original sound as it is read."""
    from ..audio import Resampler

    resampler = Resampler(sound.sample_rate, sound.channels)
    for block in sound.blocks():
        hear(block)
        for frame in windows.push(resampler.push(block)):
            if frame >= 0:
                yield windows.window(frame)
    for frame in windows.push(resampler.flush()):
        if frame >= 0:
            yield windows.window(frame)
    for frame in range(windows.n_ready, windows.flush()):
        yield windows.window(frame)


def _to_and_fro(frame: int, length: int) -> int:
    """Index into a recording that is played forward and backward: 0 1 2 1 0 1 2 ..."""
    if length == 1:
        return 0
    position = frame % (2 * length - 2)
    return min(position, 2 * length - 2 - position)


class _Output:
    """The files that are asked for, written by one thread beside the renderer's.

    A failed write is raised by a later call. Leaving the block before `close` removes the files.
    """

    def __init__(
        self, arguments: argparse.Namespace, renderer: Renderer, sound: SoundReader
    ) -> None:
        from ..media import PngFolderWriter, VideoWriter

        self.names = [name for name in (arguments.output, arguments.frames) if name is not None]
        self._video: VideoWriter | None = None
        self._writers: list[VideoWriter | PngFolderWriter] = []
        self._pending: deque[Future[None]] = deque()
        with ExitStack() as stack:
            if arguments.output is not None:
                self._video = VideoWriter(
                    arguments.output,
                    width=renderer.width * (5 if arguments.attention else 1),
                    height=renderer.height,
                    fps=renderer.fps,
                    sample_rate=sound.sample_rate,
                    channels=sound.channels,
                )
                self._writers.append(stack.enter_context(self._video))
            if arguments.frames is not None:
                self._writers.append(stack.enter_context(PngFolderWriter(arguments.frames)))
            # Above the writers on the stack: on the way out it comes to rest before they do.
            self._thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            self._stack = stack.pop_all()

    def write_sound(self, block: FloatArray) -> None:
        if self._video is not None:
            self._submit(self._video.write_sound, block)

    def write_frame(self, image: npt.NDArray[np.uint8]) -> None:
        for writer in self._writers:
            self._submit(writer.write_frame, image)

    def close(self) -> None:
        """Completes the files."""
        while self._pending:
            self._pending.popleft().result()
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> _Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _submit(self, write: Callable[[Any], None], data: npt.NDArray[Any]) -> None:
        self._pending.append(self._thread.submit(write, data))
        while len(self._pending) > _IN_FLIGHT:
            self._pending.popleft().result()


def _progress_bar(n_frames: int, *, quiet: bool) -> Any:
    from tqdm import tqdm

    # None: only on a terminal.
    return tqdm(total=n_frames, unit="frame", disable=True if quiet else None, leave=False)


def _summarize(names: Sequence[str], n_frames: int, seconds: float) -> None:
    length = n_frames / TIMING.fps
    print(
        f"{printable(' and '.join(names))}: {n_frames} frames, {length:.2f} s of video in "
        f"{seconds:.2f} s: {n_frames / seconds:.1f} FPS ({length / seconds:.2f}x real time)"
    )
