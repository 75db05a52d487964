"""Small scenes through every kernel, for compute-sanitizer: python tests/gpu/scene.py"""

from __future__ import annotations

import numpy as np

from gt_infer import EngineConfig, Pose, Renderer
from tests.synthetic import make_avatar


def main() -> None:
    rng = np.random.default_rng(0)
    count = 0
    for precision, shape in (
        ("fast", {"n": 130, "torsos": 2}),
        ("fp32", {"n": 33, "layers": 2, "d_model": 32}),
        ("fast", {"n": 65, "d_model": 128, "channels": 44}),
    ):
        avatar = make_avatar(**shape)  # type: ignore[arg-type]
        for background, output in ((None, "rgb8"), ("transparent", "rgba8")):
            with Renderer(
                avatar,
                engine="cuda",
                size=(80, 72),
                output=output,  # type: ignore[arg-type]
                background=background,  # type: ignore[arg-type]
                config=EngineConfig(precision=precision),  # type: ignore[arg-type]
            ) as renderer:
                window = rng.standard_normal((8, avatar.network.audio_channels, 16), np.float32)
                alpha, depth = (np.empty((72, 80), np.float32) for _ in range(2))
                for yaw in (0, 3):
                    pose = Pose.from_degrees(yaw=yaw)
                    renderer.render_window(window, pose)
                    renderer.render_window(window, pose, alpha=alpha, depth=depth)
                    count += 2
                renderer.deform(window, 0.5, np.zeros(12, np.float32), attention=True)
                if output == "rgb8" and avatar.network.audio_channels == 29:
                    sessions = [renderer.session(seed=i) for i in range(3)]
                    for session in sessions:
                        session.push(rng.uniform(-0.1, 0.1, 640 * 8).astype(np.float32))
                    for _ in range(2):
                        count += sum(f is not None for f in renderer.render_many(sessions))
    print(f"{count} scenes drawn")


if __name__ == "__main__":
    main()
