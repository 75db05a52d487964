"""gt-export --target: graphs and engines of trained and random checkpoints, and their faults."""

from __future__ import annotations

import errno
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gt_infer.avatar import Avatar, save_avatar
from gt_infer.engines.sidecar import read_sidecar
from gt_infer.errors import EngineError, GtError, InputError
from tests.synthetic import make_avatar

torch = pytest.importorskip("torch", reason="graphs are exported by torch")
pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("onnxscript", reason="torch writes ONNX through onnxscript")
pytest.importorskip("polygraphy", reason="the accuracy gate runs in Polygraphy")

from gt_export import targets  # noqa: E402
from gt_export.cli import main  # noqa: E402
from gt_export.onnx_canonical import canonical_model  # noqa: E402
from gt_export.onnx_deform import deform_model  # noqa: E402
from gt_export.onnx_gate import Check, Row, check_deform  # noqa: E402
from gt_export.onnx_rounding import with_explicit_rounding  # noqa: E402
from gt_export.targets import Request, export_targets  # noqa: E402
from gt_export.verify import random_inputs  # noqa: E402

from gt_infer.engines.deform_io import deform_tensors  # noqa: E402
from gt_infer.engines.tensorrt_api import load_flavour  # noqa: E402
from gt_infer.engines.tensorrt_build import (  # noqa: E402
    BuildOptions,
    batch_profiles,
    build_engine,
    supported_sms,
)


@pytest.fixture
def rtx() -> Any:
    pytest.importorskip("tensorrt_rtx", reason="engines are built by tensorrt-rtx")
    return load_flavour("tensorrt-rtx")


# Pairwise over layers, audio channels and d_model; every value meets every other once.
PAIRWISE = [
    (1, 29, 32, "fp16"),
    (2, 29, 64, "bf16"),
    (2, 44, 32, "fp32"),
    (1, 44, 128, "fp16"),
    (1, 1024, 64, "fp16"),
    (2, 1024, 32, "fp16"),
    (2, 29, 128, "fp16"),
    (1, 44, 64, "fp32"),
    (2, 1024, 128, "bf16"),
]


@pytest.mark.slow
@pytest.mark.parametrize("layers, channels, width, precision", PAIRWISE)
def test_random_checkpoints(
    rtx: Any, layers: int, channels: int, width: int, precision: Any
) -> None:
    avatar = make_avatar(n=300, layers=layers, channels=channels, d_model=width)
    model = deform_model(avatar, precision)
    check = check_deform(avatar, model, precision, random_inputs(channels))
    assert check.passed, "\n".join(check.lines())
    specs = deform_tensors(avatar, precision)
    options = BuildOptions(is_float32=precision == "fp32")
    assert build_engine(rtx, model.SerializeToString(), batch_profiles(specs), options)


@pytest.mark.slow
def test_checkpoint_a_makes_everything(
    shared: Path, rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """fp32 for three GPUs and fp16 portable, checked; what needs a GPU is said, not an error."""
    monkeypatch.chdir(tmp_path)
    model = str(shared / "checkpoints" / "A")
    monkeypatch.setattr(targets, "find_gpus", lambda: {"devices": [], "reason": "no driver"})
    assert main([model, "--target", "all"]) == 0
    said = capsys.readouterr().out
    assert "left out   tensorrt: needs the GPU that the engine is for (no driver)" in said
    assert "PSNR" in said
    arguments = ["A.safetensors", "--target", "tensorrt-rtx", "--precision", "fp32", "--no-check"]
    assert main([*arguments, "--sm", "86,89,120"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    engines = {
        "A.tensorrt-rtx-portable-fp16.engine",
        "A.canonical.tensorrt-rtx-portable-fp32.engine",
        *(f"A.tensorrt-rtx-{sm}-fp32.engine" for sm in (86, 89, 120)),
        *(f"A.canonical.tensorrt-rtx-{sm}-fp32.engine" for sm in (86, 89, 120)),
    }
    graphs = {"A.safetensors", "A.canonical.onnx", "A.deform-fp16.onnx", "A.deform-fp32.onnx"}
    assert names == engines | graphs | {f"{name}.json" for name in engines}

    facts = read_sidecar(tmp_path / "A.tensorrt-rtx-portable-fp16.engine")
    assert facts.avatar == Avatar.load("A.safetensors").sha256
    assert (facts.flavour, facts.version, facts.sm) == ("tensorrt-rtx", rtx.version, "portable")
    assert list(facts.profiles) == [1, 4, 32]
    assert facts.widths["padded"] == 36864
    pictures = facts.accuracy["checks"][-1]["picture"]
    assert pictures["largest"] >= pictures["limit"] == 45.0


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return make_avatar(n=100)


@pytest.fixture(scope="module")
def model(avatar: Avatar) -> Any:
    return deform_model(avatar, "fp16")


@pytest.fixture
def exported(avatar: Avatar, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The avatar's file; its graphs are at hand, which saves ten seconds each time."""
    graph = canonical_graph(avatar)
    monkeypatch.setattr("gt_export.onnx_deform.deform_model", lambda *_, **__: model)
    monkeypatch.setattr("gt_export.onnx_canonical.canonical_model", lambda *_, **__: graph)
    save_avatar(avatar, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@functools.cache
def canonical_graph(avatar: Avatar) -> Any:
    return canonical_model(avatar)


def test_the_gate_sees_a_wrong_graph(avatar: Avatar, model: Any) -> None:
    import onnx

    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
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
    kinds = {node.op_type for node in wide.graph.node}
    assert "Cast" in kinds
    halves = sum(
        attribute.i == 10
        for node in wide.graph.node
        for attribute in node.attribute
        if node.op_type == "Cast" and attribute.name == "to"
    )
    assert halves > 20


def test_equal_avatars_give_equal_graphs(avatar: Avatar, model: Any) -> None:
    again = deform_model(avatar, "fp16")
    assert again.SerializeToString() == model.SerializeToString()
    text = model.SerializeToString()
    assert b".py" not in text, "no paths of this machine"


def test_grid_samples_are_read_as_linear(rtx: Any, avatar: Avatar) -> None:
    """The trap of opset 20: a parser that takes "linear" for nearest gives no error."""
    graph = canonical_graph(avatar)
    modes = {
        attribute.s
        for node in graph.graph.node
        for attribute in node.attribute
        if node.op_type == "GridSample" and attribute.name == "mode"
    }
    assert modes == {b"bilinear"}
    trt = rtx.api
    logger, _ = rtx.logger()
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph.SerializeToString())
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    samplers = [layer for layer in layers if layer.type == trt.LayerType.GRID_SAMPLE]
    assert len(samplers) == 6
    for layer in samplers:
        layer.__class__ = trt.IGridSampleLayer
        assert layer.interpolation_mode == trt.InterpolationMode.LINEAR
        assert layer.sample_mode == trt.SampleMode.CLAMP
        assert layer.align_corners


def test_unsupported_operator(rtx: Any) -> None:
    import onnx

    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> g (float[4] x) => (float[4] y) '
        "{ y = own.Invented(x) }"
    )
    with pytest.raises(EngineError, match=r"does not support this graph: .*Invented"):
        build_engine(rtx, graph.SerializeToString(), [], BuildOptions())


def test_unknown_sm(rtx: Any, avatar: Avatar, tmp_path: Path) -> None:
    assert {"86", "89", "120"} <= set(supported_sms(rtx))
    request = Request(target="tensorrt-rtx", sms=["90"])
    with pytest.raises(InputError, match=r"sm = '90': .* builds for portable .* or 75, 80"):
        export_targets(avatar, tmp_path / "x", request)
    assert not list(tmp_path.iterdir())


def test_a_target_by_name_that_cannot_be_made_is_an_error(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "find_gpus", lambda: {"devices": [], "reason": "no driver"})
    with pytest.raises(EngineError, match="target tensorrt: needs the GPU"):
        export_targets(avatar, tmp_path / "x", Request(target="tensorrt"))
    monkeypatch.setattr(targets, "installed_flavours", list)
    with pytest.raises(EngineError, match=r"pip install 'gt-infer\[tensorrt-rtx\]'"):
        export_targets(avatar, tmp_path / "x", Request(target="tensorrt-rtx"))
    assert not list(tmp_path.iterdir())


def test_missing_onnx(avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(GtError, match=r"pip install 'gt-infer\[export\]'"):
        export_targets(avatar, tmp_path / "x", Request(target="onnx"))


def test_a_failed_gate_is_stored_and_exits_with_1(
    rtx: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("gt_export.onnx_gate.PSNR_LIMIT", 500.0)
    assert main([str(exported), "--target", "tensorrt-rtx"]) == 1
    assert "a does not pass the accuracy gate" in capsys.readouterr().err
    facts = json.loads((tmp_path / "a.tensorrt-rtx-portable-fp16.engine.json").read_text())
    assert facts["accuracy"]["passed"] is False


def test_a_full_disk_leaves_nothing_half_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(exported), "--target", "onnx", "--no-check"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


def test_cache_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("GT_INFER_CACHE", str(tmp_path))
    (tmp_path / "x.engine").write_bytes(b"123")
    assert main(["--list-cache"]) == 0
    said = capsys.readouterr().out
    assert "1 engine(s)" in said
    assert "x.engine" in said
    assert "damaged" in said
    assert main(["--clear-cache"]) == 0
    assert not list(tmp_path.iterdir())


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
    from gt_export import engine_gate
    from gt_export.onnx_gate import _onnx_runtime

    graph = _onnx_runtime(with_explicit_rounding(model), {})

    class Network:
        def __init__(self, flavour: Any, plan: bytes, specs: Any, *, onnx: Any = None) -> None:
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
