"""What a type checker makes of an app that uses gt_infer. Checked by scripts/wheel.sh.

mypy --strict complains of an ignored error that is none: so the lines that misuse gt_infer prove
that its types arrive, and are not merely Any.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import gt_infer


def good(renderer: gt_infer.Renderer, chunk: npt.NDArray[np.float32]) -> list[float]:
    picture: npt.NDArray[np.uint8] = renderer.render(chunk, gt_infer.Pose.from_degrees(yaw=5.0))
    picture, maps = renderer.render(chunk, attention=True)
    session: gt_infer.Session = renderer.session(seed=3)
    session.push(chunk, sample_rate=24_000)
    times: list[float] = [frame.pts for frame in session.frames()]
    pacer = gt_infer.Pacer(lambda: 0.0)
    return [*times, pacer.wait(times[0]), float(picture.mean() + maps.mean())]


def wrong(renderer: gt_infer.Renderer, frame: gt_infer.Frame) -> None:
    renderer.render("hello")  # type: ignore[call-overload]
    renderer.session(overflow="wait")  # type: ignore[arg-type]
    renderer.size  # type: ignore[attr-defined]  # noqa: B018
    gt_infer.Renderer(engine="tpu")  # type: ignore[arg-type]
    index: str = frame.index  # type: ignore[assignment]
    print(index, gt_infer.Render)  # type: ignore[attr-defined]
