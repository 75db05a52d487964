"""gt-export --target: graphs and engines of trained and random checkpoints, and their faults."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from gt_infer.avatar import Avatar, save_avatar
from gt_infer.engines.sidecar import read_sidecar
from gt_infer.engines.tensorrt_files import Device, open_deform_engine
from gt_infer.errors import EngineError, GtError, InputError
from tests.graphs import canonical_graph, copied, deform_graph, small_avatar
from tests.official_layout import state_dict, write_model
from tests.synthetic import make_avatar

torch = pytest.importorskip("torch", reason="graphs are exported by torch")
pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("onnxscript", reason="torch writes ONNX through onnxscript")
pytest.importorskip("polygraphy", reason="the accuracy gate runs in Polygraphy")

from gt_export import planning, targets  # noqa: E402
from gt_export.cli import main  # noqa: E402
from gt_export.planning import Request, plan_targets  # noqa: E402

from gt_infer.engines.tensorrt_api import load_flavour  # noqa: E402
from gt_infer.engines.tensorrt_build import (  # noqa: E402
    BuildOptions,
    build_engine,
    supported_sms,
)

ADA = Device("NVIDIA GeForce RTX 4090", "89", "13.0")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is one."""

    def find_device() -> Device:
        raise EngineError("no GPU: no driver")

    monkeypatch.setattr(planning, "find_device", find_device)


@pytest.fixture
def rtx() -> Any:
    pytest.importorskip("tensorrt_rtx", reason="engines are built by tensorrt-rtx")
    return load_flavour("tensorrt-rtx")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def with_sidecars(*engines: str) -> set[str]:
    return {*engines, *(f"{name}.json" for name in engines)}


# Everything, of trained and random checkpoints

# Each channel count meets each width once, and each of them each precision and layer count.
CHANNELS, WIDTHS, PRECISIONS, LAYERS = (29, 44, 1024), (32, 64, 128), ("fp32", "fp16", "bf16"), 2
PAIRWISE = [
    (1 + (a + 2 * b) % 3 % LAYERS, CHANNELS[a], WIDTHS[b], PRECISIONS[(a + b) % 3])
    for a in range(3)
    for b in range(3)
]


@pytest.mark.slow
@pytest.mark.parametrize("layers, channels, width, precision", PAIRWISE)
def test_random_checkpoints(
    rtx: Any, tmp_path: Path, layers: int, channels: int, width: int, precision: str
) -> None:
    """Both graphs, F_can included, through the gate and into engines."""
    avatar = make_avatar(n=300, layers=layers, channels=channels, d_model=width)
    write_model(tmp_path / "model", avatar)
    (out := tmp_path / "out").mkdir()
    output = ["-o", str(out / "x.safetensors")]
    arguments = ["--target", "tensorrt-rtx", "--precision", precision, *output]
    assert main([str(tmp_path / "model"), *arguments]) == 0
    assert names_in(out) == {
        "x.safetensors",
        "x.canonical.onnx",
        f"x.deform-{precision}.onnx",
        *with_sidecars(
            f"x.tensorrt-rtx-portable-{precision}.engine",
            "x.canonical.tensorrt-rtx-portable-fp32.engine",
        ),
    }
    facts = read_sidecar(out / "x.canonical.tensorrt-rtx-portable-fp32.engine")
    assert facts.accuracy["passed"]
    assert "predicted_sh" in facts.accuracy["checks"][0], "F_can is in the graph"


@pytest.mark.slow
def test_checkpoint_a_makes_everything(
    shared: Path, rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """fp16 and fp32, portable and for three GPUs; what needs a GPU is said, and no error."""
    monkeypatch.chdir(tmp_path)
    sms = ["portable", "86", "89", "120"]
    model = str(shared / "checkpoints" / "A")
    assert main([model, "--target", "all", "--sm", ",".join(sms)]) == 0
    said = capsys.readouterr().out
    assert "left out   tensorrt: needs the GPU that the engine is for (no GPU: no driver)" in said
    assert "PSNR" in said
    assert main([model, "--target", "all", "--sm", ",".join(sms), "--precision", "fp32"]) == 0
    said = capsys.readouterr().out
    assert "deform fp32: ONNX Runtime - golden vectors, 12 frames" in said
    engines = {
        *(
            f"A.tensorrt-rtx-{sm}-{precision}.engine"
            for sm in sms
            for precision in ("fp16", "fp32")
        ),
        *(f"A.canonical.tensorrt-rtx-{sm}-fp32.engine" for sm in sms),
    }
    graphs = {"A.safetensors", "A.canonical.onnx", "A.deform-fp16.onnx", "A.deform-fp32.onnx"}
    assert names_in(tmp_path) == with_sidecars(*engines) | graphs

    sha256 = Avatar.load("A.safetensors").sha256
    for sm in sms:
        facts = read_sidecar(tmp_path / f"A.tensorrt-rtx-{sm}-fp16.engine")
        assert facts.avatar == sha256
        assert (facts.flavour, facts.version, facts.sm) == ("tensorrt-rtx", rtx.version, sm)
        assert list(facts.profiles) == [1, 4, 32]
        assert facts.widths["padded"] == 36864
        pictures = facts.accuracy["checks"][-1]["picture"]
        assert pictures["largest"] >= pictures["limit"] == 45.0


def test_grid_samples_are_read_as_linear(rtx: Any) -> None:
    """The trap of opset 20: a parser that takes "linear" for nearest gives no error."""
    trt = rtx.api
    logger, _ = rtx.logger()
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(canonical_graph().SerializeToString())
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    samplers = [layer for layer in layers if layer.type == trt.LayerType.GRID_SAMPLE]
    assert len(samplers) == 6
    for layer in samplers:
        layer.__class__ = trt.IGridSampleLayer
        assert layer.interpolation_mode == trt.InterpolationMode.LINEAR
        assert layer.sample_mode == trt.SampleMode.CLAMP
        assert layer.align_corners


# What cannot be made


@pytest.mark.parametrize(
    "text, words",
    [
        (
            '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> g (float[4] x) => (float[4] y) '
            "{ y = own.Invented(x) }",
            "does not support this graph: .*Invented",
        ),
        (
            '<ir_version: 9, opset_import: ["" : 18]> g (float[4,3] x) => (float[4,3] y) '
            "{ y = MatMul(x, x) }",
            "does not support this graph: .*at MatMul",
        ),
        (
            '<ir_version: 9, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) '
            "{ y = Relu(x) }",
            r"tensorrt-rtx .* could not build the engine for sm portable: .*profile",
        ),
    ],
    ids=["operator", "shape", "profile"],
)
def test_unsupported_graphs(rtx: Any, text: str, words: str) -> None:
    import onnx

    graph = onnx.parser.parse_model(text)
    with pytest.raises(EngineError, match=words):
        build_engine(rtx, graph.SerializeToString(), [], BuildOptions())


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs gt-export on a model directory; gives the one line that it refuses with, having
    written nothing."""
    write_model(tmp_path / "model", small_avatar())
    (out := tmp_path / "out").mkdir()

    def run(*arguments: str) -> str:
        given = [str(tmp_path / "model"), "-o", str(out / "x.safetensors"), *arguments]
        assert main(given) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert not names_in(out)
        return line

    return run


def test_unknown_sm(rtx: Any, refused: Any) -> None:
    assert {"86", "89", "120"} <= set(supported_sms(rtx))
    line = refused("--target", "tensorrt-rtx", "--sm", "86,90")
    assert "sm = '90': tensorrt-rtx" in line
    assert "builds for portable (8.0, 8.6, 8.9, 12.0 and later) or 75, 80, 86" in line


def test_a_target_by_name_that_cannot_be_made_is_an_error(
    refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused("--target", "tensorrt")
    assert "target tensorrt: needs the GPU that the engine is for (no GPU: no driver)" in line
    for option in ("--refittable", "--strip-weights"):
        monkeypatch.setattr(planning, "installed_flavours", lambda: ["tensorrt-rtx"])
        line = refused("--target", "tensorrt-rtx", option)
        assert "can be refitted or are left out need the GPU" in line
    monkeypatch.setattr(planning, "installed_flavours", list)
    line = refused("--target", "tensorrt-rtx")
    assert "target tensorrt-rtx: not installed: pip install 'gt-infer[tensorrt-rtx]'" in line


def test_options_of_another_target(refused: Any) -> None:
    for target, option in (
        ("onnx", ["--sm", "86"]),
        ("tensorrt", ["--sm", "86"]),
        ("onnx", ["--strip-weights"]),
        ("tensorrt-rtx", ["--version-compatible"]),
        ("tensorrt-rtx", ["--hardware-compatible"]),
    ):
        assert f"{option[0]} does nothing for target {target}" in refused(
            "--target", target, *option
        )
    assert "--sm needs --target" in refused("--sm", "86")
    assert "--no-check needs --target" in refused("--no-check")
    with pytest.raises(InputError, match="precision = 'int8': must be one of fp32, fp16, bf16"):
        Request(target="onnx", precision="int8")  # type: ignore[arg-type]


def test_options_of_a_checkpoint(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.safetensors"
    save_avatar(small_avatar(), path)
    assert main([str(path), "--target", "onnx", "--storage", "fp16"]) == 2
    assert "--storage is for a model directory" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript", "onnxruntime", "polygraphy"])
def test_missing_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GtError, match=rf"needs .*{package}.*pip install 'gt-infer\[export\]'"):
        plan_targets(Request(target="onnx"))
    if package in ("onnxruntime", "polygraphy"):
        plan_targets(Request(target="onnx", checks=False))


def test_a_broken_package_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "installed_flavours", lambda: ["tensorrt-rtx"])
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    plan = plan_targets(Request(target="all"))
    assert not plan.builds
    assert [reason.partition(":")[0] for reason in plan.left_out] == ["tensorrt", "tensorrt-rtx"]
    assert "cannot import tensorrt_rtx" in plan.left_out[1]
    with pytest.raises(EngineError, match="target tensorrt-rtx: cannot import tensorrt_rtx"):
        plan_targets(Request(target="tensorrt-rtx"))


# While it is made


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small avatar's file; its graphs are at hand, which saves seconds each time."""

    def deform_model(avatar: Avatar, *_: Any, **__: Any) -> Any:
        model = copied(deform_graph())
        next(item for item in model.metadata_props if item.key == "avatar").value = avatar.sha256
        return model

    monkeypatch.setattr(targets, "deform_model", deform_model)
    monkeypatch.setattr(targets, "canonical_model", lambda *_: copied(canonical_graph()))
    save_avatar(small_avatar(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_failed_gate_is_stored_and_exits_with_1(
    rtx: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The runtime takes neither the engine nor the graph, of which it could build another."""
    monkeypatch.setattr("gt_export.onnx_gate.PSNR_LIMIT", 500.0)
    assert main([str(exported), "--target", "tensorrt-rtx"]) == 1
    assert "a does not pass the accuracy gate" in capsys.readouterr().err
    engine = tmp_path / "a.tensorrt-rtx-portable-fp16.engine"
    facts = json.loads(engine.with_name(f"{engine.name}.json").read_text())
    assert facts["accuracy"]["passed"] is False
    canonical = read_sidecar(tmp_path / "a.canonical.tensorrt-rtx-portable-fp32.engine")
    assert canonical.accuracy["passed"], "the canonical graph is as it should be"
    avatar = Avatar.load(exported)
    with pytest.raises(EngineError) as caught:
        open_deform_engine(avatar, tmp_path, rtx, "fp16", ADA)
    for name in (engine.name, "a.deform-fp16.onnx"):
        assert f"{name}: it failed its accuracy gate" in str(caught.value)


def test_an_unusable_f_can_is_left_out(tmp_path: Path, exported: Path, capsys: Any) -> None:
    state = state_dict(small_avatar().network)
    del state["deformation_net.tri_plane.shs.3.bias"]
    write_model(tmp_path / "model", small_avatar(), state=state)
    output = str(tmp_path / "x.safetensors")
    assert main([str(tmp_path / "model"), "--target", "onnx", "--no-check", "-o", output]) == 0
    said = capsys.readouterr().out
    assert "left out   F_can's attributes: deformation_net.tri_plane.shs.3: weight or" in said


@pytest.mark.parametrize("written", range(6))
def test_a_full_disk_leaves_nothing_half_written(
    written: int,
    rtx: Any,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """Full after so many files: those are whole, no engine is without its facts, and the message
    names the file."""
    monkeypatch.setattr(targets, "build_engine", lambda *_: b"engine")
    fsync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(exported), "--target", "tensorrt-rtx", "--no-check"]) == 2
    engines = [
        "a.tensorrt-rtx-portable-fp16.engine",
        "a.canonical.tensorrt-rtx-portable-fp32.engine",
    ]
    order = ["a.canonical.onnx", "a.deform-fp16.onnx"]
    order += [name for engine in engines for name in (engine, f"{engine}.json")]
    expected = order[:written]
    if expected and expected[-1] in engines:
        expected.pop()
    assert names_in(tmp_path) == {"a.safetensors", *expected}
    assert f"{order[written]}: No space left on device" in capsys.readouterr().err


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
    shutil.rmtree(tmp_path)
    assert main(["--list-cache"]) == 0
    assert main(["--clear-cache"]) == 0
