"""The ONNX graphs themselves, and the gate that judges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gt_infer.avatar import Avatar
from tests.graphs import canonical_graph, copied, deform_graph, small_avatar
from tests.official_layout import state_dict
from tests.reference.network import triplane_features
from tests.synthetic import make_avatar

torch = pytest.importorskip("torch", reason="graphs are exported by torch")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("onnxscript", reason="torch writes ONNX through onnxscript")
pytest.importorskip("polygraphy", reason="the accuracy gate runs in Polygraphy")

from gt_export import engine_gate  # noqa: E402
from gt_export.onnx_canonical import (  # noqa: E402
    Predictor,
    canonical_model,
    canonical_profile,
)
from gt_export.onnx_deform import deform_model  # noqa: E402
from gt_export.onnx_gate import Check, Row, _onnx_runtime, check_deform  # noqa: E402
from gt_export.onnx_rounding import with_explicit_rounding  # noqa: E402
from gt_export.verify import random_inputs  # noqa: E402

from gt_infer.errors import CheckpointError  # noqa: E402


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return small_avatar()


@pytest.fixture(scope="module")
def model() -> Any:
    return deform_graph()


# The canonical graph


def test_f_can_by_hand() -> None:
    """Features and attributes against numpy, from the checkpoint's own tensors."""
    avatar = make_avatar(n=50)
    state = state_dict(avatar.network)
    graph = canonical_model(avatar, Predictor(state, 64))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    positions = avatar.gaussians.means
    got = dict(zip(names, session.run(names, {"positions": positions}), strict=True))

    def affine(x: np.ndarray, name: str) -> np.ndarray:
        root = f"deformation_net.tri_plane.{name}"
        weight, bias = (state[f"{root}.{part}"].numpy() for part in ("weight", "bias"))
        return x @ weight.T + bias

    features = triplane_features(avatar.network, positions)
    trunk = affine(np.maximum(affine(features, "feature_out.0"), 0), "feature_out.2")
    expected = {"features": features}
    for name in ("scales", "rotations", "opacity", "shs"):
        hidden = np.maximum(affine(np.maximum(trunk, 0), f"{name}.1"), 0)
        expected[name] = affine(hidden, f"{name}.3")
    expected["scales"] -= 2  # of stage 1
    for ours, theirs in (
        ("features", "features"),
        ("predicted_log_scales", "scales"),
        ("predicted_quats", "rotations"),
        ("predicted_logit_opacities", "opacity"),
        ("predicted_sh", "shs"),
    ):
        np.testing.assert_allclose(got.pop(ours), expected[theirs], rtol=0, atol=2e-5)
    assert not got


@pytest.mark.parametrize(
    "change, words",
    [
        ({"opacity.3.bias": None}, r"opacity\.3: weight or bias is missing"),
        ({"feature_out.2.weight": torch.zeros(16, 15)}, r"feature_out\.2: weight \[16, 15\]"),
        ({"shs.1.bias": torch.zeros(3)}, r"shs\.1: .* expected \[n, 16\] and \[n\]"),
    ],
)
def test_half_an_f_can_is_refused(change: dict[str, Any], words: str) -> None:
    state = state_dict(small_avatar().network)
    for name, tensor in change.items():
        state[f"deformation_net.tri_plane.{name}"] = tensor
    with pytest.raises(CheckpointError, match=words):
        Predictor(state, 64)


@pytest.mark.parametrize("count, largest", [(100, 131072), (140_000, 143_360)])
def test_the_canonical_profile_has_room_for_the_avatar(count: int, largest: int) -> None:
    assert canonical_profile(make_avatar(n=count))["positions"][2] == (largest, 3)


# The deform graph


@pytest.mark.parametrize("heads", [(), ("means", "quats")], ids=str)
def test_heads_that_are_switched_off(heads: tuple[str, ...]) -> None:
    """What no head moves is the canonical attribute, in graph and reference."""
    avatar = make_avatar(n=20, heads=heads, sh_degree=1)
    graph = deform_model(avatar, "fp32", attention=True)
    check = check_deform(avatar, graph, "fp32", random_inputs(29))
    assert check.passed, "\n".join(check.lines())
    found = {row.what: row.largest for row in check.rows}
    assert "attention" in found
    for name in {"means", "sh"} - set(heads):
        assert found[name] == 0


def test_equal_avatars_give_equal_graphs(avatar: Avatar, model: Any) -> None:
    again = deform_model(avatar, "fp16")
    assert again.SerializeToString() == model.SerializeToString()
    text = model.SerializeToString()
    assert b".py" not in text, "no paths of this machine"


def test_grid_samples_are_linear_before_opset_20() -> None:
    """The trap: from 20 on the mode is "linear", which older parsers take for nearest."""
    graph = canonical_graph()
    modes = [
        attribute.s
        for node in graph.graph.node
        for attribute in node.attribute
        if node.op_type == "GridSample" and attribute.name == "mode"
    ]
    assert modes == [b"bilinear"] * 6
    assert [item.version for item in graph.opset_import if item.domain == ""] == [18]


# The gate


def test_the_gate_sees_a_wrong_graph(avatar: Avatar, model: Any) -> None:
    wrong = copied(model)
    bias = next(item for item in wrong.graph.initializer if item.name == "heads.out.4.bias")
    moved = onnx.numpy_helper.to_array(bias) + np.float32(0.3)  # of the colours
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    good = check_deform(avatar, model, "fp16", random_inputs(29))
    bad = check_deform(avatar, wrong, "fp16", random_inputs(29))
    assert good.passed
    assert not bad.passed
    assert any("FAILED" in line for line in bad.lines())


def test_rows_and_nan() -> None:
    nan = float("nan")
    assert not Row("means", nan, nan, 1e-4).passed
    assert not Row("means", nan, nan, None).passed
    assert not Row("picture", nan, None, 45.0).passed
    assert Row("picture", float("inf"), None, 45.0).passed
    assert not Check("x", (Row("sh", 2e-4, 0.0, 1e-4),)).passed


def test_half_types_are_rounded(model: Any) -> None:
    """The judge rounds every half-precision result; without that fp16 looks like fp32."""
    wide = with_explicit_rounding(model)
    halves = sum(
        attribute.i == onnx.TensorProto.FLOAT16
        for node in wide.graph.node
        for attribute in node.attribute
        if node.op_type == "Cast" and attribute.name == "to"
    )
    assert halves > 20


class FakeCuda:
    """Device memory that is the host's."""

    class DeviceArray:
        made: list[Any] = []  # noqa: RUF012

        def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
            self.host = np.zeros(shape, dtype)
            self.made.append(self)
            self.ptr = 256 * len(self.made)

        def copy_from(self, array: np.ndarray) -> None:
            assert array.shape == self.host.shape
            assert array.dtype == self.host.dtype
            self.host[:] = array

        def copy_to(self, array: np.ndarray) -> np.ndarray:
            array[:] = self.host
            return array

    class Stream:
        ptr = 7

        def synchronize(self) -> None:
            pass


def test_the_gate_runs_a_built_engine(
    avatar: Avatar, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU; here its memory and its library are stand-ins, and the graph answers for it."""
    graph = _onnx_runtime(with_explicit_rounding(model), {})

    class Network:
        def __init__(self, flavour: Any, plan: bytes, specs: Any, **options: Any) -> None:
            self.specs = specs

        def bind(self, addresses: dict[str, int]) -> None:
            by_address = {buffer.ptr: buffer for buffer in FakeCuda.DeviceArray.made}
            self.buffers = {name: by_address[where] for name, where in addresses.items()}

        def enqueue(self, batch: int, stream: int) -> None:
            inputs = {s.name: self.buffers[s.name].host for s in self.specs if s.role != "output"}
            inputs["features"] = inputs["features"].view(np.float16).astype(np.float32)
            for name, array in graph(inputs).items():
                self.buffers[name].host[:] = array

    monkeypatch.setattr(engine_gate, "DeformNetwork", Network)
    run = engine_gate.engine_function(None, b"", avatar, "fp16", cuda=FakeCuda)  # type: ignore[arg-type]
    check = check_deform(avatar, model, "fp16", random_inputs(29), run=run, by="TensorRT")
    assert check.passed
    assert check.title == "deform fp16: TensorRT - torch float32, 3 frames"
