"""The process whose start `first_frame` measures: what an app does, and little else.

Takes one JSON argument; prints one line of JSON at the first picture and one at the end. Imports
nothing before the clock that an app would not import.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import gt_infer


def main(request: str) -> None:
    options = json.loads(request)
    start = time.perf_counter()
    config = gt_infer.EngineConfig(**options["config"])
    renderer = gt_infer.Renderer(options["path"], config=config, **options["renderer"])
    sound = renderer.avatar.frontend.kind != "features"
    rng = np.random.default_rng(0)
    chunk = rng.uniform(-0.1, 0.1, renderer.chunk_samples).astype(np.float32)
    window = np.zeros((8, renderer.avatar.network.audio_channels, 16), np.float32)
    half = 0.0
    for frame in range(options["frames"]):
        if sound:
            renderer.render(chunk)
        else:
            renderer.render_window(window)
        if frame == 0:
            print(json.dumps({"renderer_ms": (time.perf_counter() - start) * 1e3}), flush=True)
        elif frame == options["frames"] // 2:
            half = _memory()["resident_mb"]
    memory = _memory()
    print(json.dumps({**memory, "growth_mb": memory["resident_mb"] - half}))


def _memory() -> dict[str, float]:
    from .machine import peak_mb, resident_mb

    return {"resident_mb": resident_mb(), "peak_mb": peak_mb()}


if __name__ == "__main__":
    main(sys.argv[1])
