"""The compiled deform graph against the authors' vectors, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer.avatar import Avatar

torch = pytest.importorskip("torch", reason="graphs are exported by torch")
pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("onnxscript", reason="torch writes ONNX through onnxscript")

from gt_export.onnx_deform import deform_model  # noqa: E402

from gt_infer.engines.deform_io import avatar_inputs  # noqa: E402

TOLERANCE = 1e-4
NAMES = {
    "means": "means",
    "quats": "rotations",
    "scales": "scales",
    "opacities": "opacity",
    "sh": "shs",
    "attention": "attention",
}


def run(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("which", ["a", "small"])
def test_golden_vectors(shared: Path, which: str, request: pytest.FixtureRequest) -> None:
    """fp32, attention included, batches of several frames."""
    avatar: Avatar = request.getfixturevalue(f"avatar_{which}")
    golden = np.load(shared / "checkpoints" / {"a": "A"}.get(which, which) / "golden_deform.npz")
    model = deform_model(avatar, "fp32", attention=True)
    static = avatar_inputs(avatar)
    frames = len(golden["audio"])
    for start in range(0, frames, 4):
        chosen = slice(start, start + 4)
        got = run(
            model,
            {
                "window": golden["audio"][chosen],
                "eye": golden["eye"][chosen, 0],
                "camera": golden["cam"][chosen],
                **static,
            },
        )
        assert set(got) == set(NAMES)
        for ours, theirs in NAMES.items():
            expected = golden[theirs][chosen]
            picked = got[ours].take(golden["subset"], axis=2 if ours == "attention" else 1)
            worst = np.abs(picked.reshape(expected.shape) - expected).max()
            assert worst <= TOLERANCE, f"{ours}, frames {start}: {worst:.2e}"
        assert got["opacities"][:, len(avatar) :].max(initial=0.0) < 1e-6, "padding shows"
