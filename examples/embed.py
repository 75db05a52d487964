"""The loop of an app: 40 ms of sound in, one picture out.

    python examples/embed.py examples/hello.wav

A real app takes the chunks from a microphone or a speech synthesizer and shows the pictures.
"""

from __future__ import annotations

import sys

import numpy as np
import soundfile

import gt_infer


def main(path: str) -> None:
    sound, rate = soundfile.read(path, dtype="float32")
    with gt_infer.Renderer("demo") as renderer:
        if rate != renderer.sample_rate or sound.ndim != 1:
            raise SystemExit(f"{path}: this example takes {renderer.sample_rate} Hz mono")
        picture = np.empty((renderer.height, renderer.width, 3), np.uint8)
        n = renderer.chunk_samples
        shown = 0
        for start in range(0, len(sound), n):
            chunk = np.zeros(n, np.float32)
            chunk[: len(sound) - start] = sound[start : start + n]
            renderer.render(chunk, blink=0.0, out=picture)  # show(picture)
            shown += 1
        for _picture in renderer.flush():  # the frames that were waiting for later sound
            shown += 1
        print(f"{shown} pictures, the first {renderer.lookahead} of the resting face")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "examples/hello.wav")
