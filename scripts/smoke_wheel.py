"""Tries an installed gt_infer as its first user would. Run by scripts/wheel.sh, away from the tree.

python -I smoke_wheel.py SOUND [AVATAR]

AVATAR: a file, when gt_infer was built without its demo.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import soundfile

import gt_infer
from gt_infer import _native


def check(is_true: bool, what: str) -> None:
    if not is_true:
        raise SystemExit(f"smoke test: {what}")


def installation() -> None:
    package = Path(gt_infer.__file__)
    check(package.is_relative_to(sys.prefix), f"{package} is not the installed one")
    version = importlib.metadata.version("gt-infer")
    check(version == gt_infer.__version__ == _native.build_info()["version"], "versions differ")
    files = importlib.resources.files(gt_infer)
    for name in ("py.typed", "_cpu.pyi"):
        check(files.joinpath(name).is_file(), f"{name} is not installed")
    licences = [file.name for file in importlib.metadata.files("gt-infer") or []]
    check({"LICENSE", "NOTICE"} <= set(licences), "the licence is not installed")
    check("torch" not in sys.modules, "torch was imported")


def tools(folder: Path, sound: Path, avatar: str) -> None:
    """gt-info, and gt-render on a second of speech."""
    samples, rate = soundfile.read(sound, frames=16_000)
    clip, video = folder / "second.wav", folder / "second.mp4"
    soundfile.write(clip, samples, rate)
    scripts = Path(sys.executable).parent
    told = subprocess.run([scripts / "gt-info"], capture_output=True, text=True, check=True).stdout
    check("cpu" in told and gt_infer.__version__ in told, f"gt-info says {told}")
    subprocess.run([scripts / "gt-render", avatar, clip, "-o", video, "--quiet"], check=True)
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    check(len(frames) == 25 * len(samples) // rate, f"{len(frames)} frames in {video.name}")
    check(frames[0].std() > 20, "the picture is flat")
    with av.open(str(video)) as container:
        check(len(container.streams.audio) == 1, "the video has no sound")


def session(sound: Path, avatar: str) -> None:
    """Every instruction set of this machine draws the same speech, in odd pieces."""
    samples, rate = soundfile.read(sound, frames=16_000, dtype="float32")
    pictures = []
    for isa in _native.available_isas():
        config = gt_infer.EngineConfig(isa=isa)
        with gt_infer.Renderer(avatar, size=128, config=config) as renderer:
            speaker = renderer.session(seed=1)
            start = time.perf_counter()
            frames = []
            for piece in np.array_split(samples, 7):
                speaker.push(piece, rate)
                frames += speaker.frames()
            speaker.flush()
            frames += speaker.frames()
            elapsed = time.perf_counter() - start
        check([frame.index for frame in frames] == list(range(25)), f"{isa}: wrong frames")
        heard = np.concatenate([frame.sound for frame in frames])
        check(np.array_equal(heard, samples), f"{isa}: the frames' sound is not what was pushed")
        pictures.append(frames[-1].image.astype(int))
        print(f"{isa}: {len(frames) / elapsed:.0f} frames/s at 128x128")
    for picture in pictures[1:]:
        check(abs(picture - pictures[0]).max() <= 2, "instruction sets draw different pictures")


def without_demo() -> None:
    try:
        gt_infer.Renderer("demo")
    except gt_infer.AvatarError as error:
        check("demo" in str(error), f"unclear: {error}")
    else:
        raise SystemExit("smoke test: a demo avatar is there all the same")


def main() -> None:
    sound = Path(sys.argv[1])
    avatar = sys.argv[2] if len(sys.argv) > 2 else "demo"
    installation()
    if avatar != "demo":
        without_demo()
    with tempfile.TemporaryDirectory() as folder:
        tools(Path(folder), sound, avatar)
    session(sound, avatar)
    print(f"gt_infer {gt_infer.__version__} works in {sys.prefix}")


if __name__ == "__main__":
    main()
