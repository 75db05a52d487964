"""Renders docs/images/strip.png: six moments of the demo avatar speaking examples/hello.wav.

Each with another pose, one in a blink. Run after the demo avatar or the engine changed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gt_infer import Pose, Renderer
from gt_infer.audio import stream_mono16k
from gt_infer.media import write_png

ROOT = Path(__file__).resolve().parents[1]
# Frame -> (yaw, pitch, roll in degrees; blink)
MOMENTS = {
    2: (0.0, 0.0, 0.0, 0.0),
    24: (-8.0, 2.0, -2.0, 0.0),
    84: (6.0, -3.0, 1.0, 0.0),
    146: (12.0, 1.0, 3.0, 0.0),
    234: (3.0, 4.0, 0.0, 1.0),
    419: (-12.0, -2.0, -3.0, 0.0),
}


def main() -> None:
    pictures = []
    with Renderer("demo", size=256) as renderer:
        windows = renderer.windows()
        for block in stream_mono16k(ROOT / "examples" / "hello.wav"):
            for frame in windows.push(block):
                if frame in MOMENTS:
                    yaw, pitch, roll, blink = MOMENTS[frame]
                    pose = Pose.from_degrees(yaw=yaw, pitch=pitch, roll=roll)
                    pictures.append(
                        renderer.render_window(windows.window(frame), pose, blink=blink)
                    )
    if len(pictures) != len(MOMENTS):
        raise SystemExit(f"rendered {len(pictures)} of {len(MOMENTS)} moments")
    write_png(ROOT / "docs" / "images" / "strip.png", np.concatenate(pictures, axis=1))


if __name__ == "__main__":
    main()
