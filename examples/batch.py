"""Many sound files to videos, offline, with as many processes as there are cores.

    python examples/batch.py speech/*.wav --output videos

Each process opens the avatar once and renders with one thread: files do not wait for one another,
which uses cores better than one renderer with many threads. A file that cannot be read is named at
the end and does not stop the others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gt_infer
from gt_infer.audio import SoundReader
from gt_infer.media import VideoWriter

renderer: gt_infer.Renderer  # this process's own


def open_renderer(avatar: str, size: int | None) -> None:
    global renderer
    config = gt_infer.EngineConfig(threads=1)
    renderer = gt_infer.Renderer(avatar, size=size, config=config)


def render_file(sound: Path, video: Path) -> int:
    """Renders one file; gives the number of frames. Nothing grows with the file's length."""
    # Its own idle motion, the same each time: two videos side by side do not move alike.
    session = renderer.session(seed=zlib.crc32(sound.name.encode()))
    with (
        SoundReader(sound) as reader,
        VideoWriter(
            video,
            width=renderer.width,
            height=renderer.height,
            sample_rate=reader.sample_rate,
            channels=reader.channels,
        ) as writer,
    ):

        def write_due_frames() -> None:
            for frame in session.frames():
                writer.write_sound(frame.sound)
                writer.write_frame(frame.image)

        for block in reader.blocks():
            session.push(block, reader.sample_rate)
            write_due_frames()
        session.flush()
        write_due_frames()
        return reader.n_frames


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sounds", nargs="+", type=Path, metavar="SOUND")
    parser.add_argument("--output", type=Path, default=Path("videos"), metavar="FOLDER")
    parser.add_argument("--avatar", default="demo")
    parser.add_argument("--size", type=int, help="pixels; default: as trained")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args(argv)

    videos = [arguments.output / f"{sound.stem}.mp4" for sound in arguments.sounds]
    if len(set(videos)) < len(videos):
        parser.error("two of the sounds have the same name and would overwrite each other's video")
    arguments.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ProcessPoolExecutor(
        arguments.processes,
        multiprocessing.get_context("spawn"),  # a process of its own, not a copy of this one
        initializer=open_renderer,
        initargs=(arguments.avatar, arguments.size),
    ) as pool:
        jobs = [
            pool.submit(render_file, sound, video)
            for sound, video in zip(arguments.sounds, videos, strict=True)
        ]
        for video, job in zip(videos, jobs, strict=True):
            try:
                print(f"{video}: {job.result()} frames")
            except gt_infer.GtError as error:
                failed += 1
                print(f"failed: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
