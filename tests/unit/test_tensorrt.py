"""TensorRT's side of the runtime, as far as no GPU is needed: selection, addresses, binding.

A stand-in with TensorRT's Python API plays the library; the real one builds engines in
test_onnx_targets.py.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gt_infer.avatar import Avatar, save_avatar
from gt_infer.engines import create, survey
from gt_infer.engines import tensorrt as runtime
from gt_infer.engines.cache import EngineCache
from gt_infer.engines.deform_io import TensorSpec, deform_tensors
from gt_infer.engines.sidecar import sidecar_path, write_engine
from gt_infer.engines.tensorrt import DeformNetwork, plan_buffers, profile_of
from gt_infer.engines.tensorrt_api import Flavour, load_flavour
from gt_infer.engines.tensorrt_files import FAILED_GATE, Device, deform_key, open_deform_engine
from gt_infer.errors import ClosedError, EngineError, InputError
from tests.synthetic import make_avatar

ADA = Device("NVIDIA GeForce RTX 4090", "89", "13.0")
STREAM = 77


class FakeContext:
    def __init__(self, engine: FakeEngine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.calls: list[tuple[Any, ...]] = []

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.calls.append(("profile", profile, stream))
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.calls.append(("address", name, address))
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.calls.append(("shape", name, shape))
        return self.engine.accepts

    def execute_async_v3(self, stream: int) -> bool:
        self.calls.append(("execute", stream))
        return self.engine.accepts

    def is_stream_capturable(self, stream: int) -> bool:
        return stream == STREAM


class FakeJitCache:
    stored = b""

    def deserialize(self, blob: bytes) -> bool:
        self.stored = blob
        return blob != b"foreign"

    def serialize(self) -> bytes:
        return b"compiled"


class FakeEngine:
    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.contexts: list[FakeContext] = []
        self.accepts = True
        self.num_io_tensors = len(specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "output" if self.specs[name].role == "output" else "input"

    def get_tensor_dtype(self, name: str) -> str:
        return {"float32": "f", "float16": "h", "bfloat16": "b"}[self.specs[name].dtype]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.specs[name].shape

    def create_execution_context(self, config: Any = None) -> FakeContext:
        self.contexts.append(FakeContext(self, config))
        return self.contexts[-1]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(
            create_runtime_cache=FakeJitCache, set_runtime_cache=lambda cache: True
        )


def fake_flavour(
    engine: FakeEngine | None = None, *, name: str = "tensorrt-rtx", valid: bool = True
) -> Flavour:
    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            if engine is None:
                self.logger.log(2, "Serialization  assertion failed")
            return engine

        def get_engine_validity(self, plan: bytes) -> tuple[str, int]:
            return ("valid", 0) if valid else ("invalid", 1 | 4)

    api = SimpleNamespace(
        ILogger=type("ILogger", (), {"Severity": SimpleNamespace(INTERNAL_ERROR=1, ERROR=2)}),
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(OUTPUT="output"),
        DataType=SimpleNamespace(FLOAT="f", HALF="h", BF16="b"),
        CudaGraphStrategy=SimpleNamespace(DISABLED="disabled"),
        EngineValidity=SimpleNamespace(INVALID="invalid"),
        EngineInvalidityDiagnostics=SimpleNamespace(
            __members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
        ),
    )
    return Flavour(name, api, "1.7.1")  # type: ignore[arg-type]


@pytest.fixture
def specs() -> tuple[TensorSpec, ...]:
    return deform_tensors(make_avatar(n=50), "fp16")


# Addresses


@pytest.mark.parametrize("batch, profile", [(1, 0), (2, 1), (4, 1), (5, 2), (32, 2)])
def test_profiles(batch: int, profile: int) -> None:
    assert profile_of(batch) == profile


@pytest.mark.parametrize("batch", [0, -1, 33])
def test_batches_that_no_profile_serves(batch: int) -> None:
    with pytest.raises(InputError, match="1 to 32"):
        profile_of(batch)


def test_buffers_do_not_overlap_and_hold_the_largest_batch(specs: tuple[TensorSpec, ...]) -> None:
    plan = plan_buffers(specs, 3)
    addresses = plan.addresses(1 << 20)
    end = 1 << 20
    for spec in specs:
        assert addresses[spec.name] >= end
        assert addresses[spec.name] % 256 == 0
        end = addresses[spec.name] + spec.bytes_at(4)
    assert end <= (1 << 20) + plan.size
    with pytest.raises(InputError, match="multiple of 256"):
        plan.addresses(100)


# The network


def bound(engine: FakeEngine, specs: tuple[TensorSpec, ...], **more: Any) -> DeformNetwork:
    network = DeformNetwork(fake_flavour(engine), b"plan", specs, **more)
    network.bind(plan_buffers(specs, 32).addresses(1 << 20))
    return network


def test_outputs_go_where_the_splatter_reads(specs: tuple[TensorSpec, ...]) -> None:
    """Every tensor gets its own address, once per context, and only batches change shapes."""
    engine = FakeEngine(specs)
    network = bound(engine, specs)
    for batch in (1, 3, 4, 2):
        network.enqueue(batch, STREAM)
    assert len(engine.contexts) == 2, "one for batch 1, one for 2 to 4"
    one, few = engine.contexts
    assert one.calls[0] == ("profile", 0, STREAM)
    assert few.calls[0] == ("profile", 1, STREAM)
    expected = plan_buffers(specs, 32).addresses(1 << 20)
    for context in engine.contexts:
        given = {
            name: where for kind, name, where in (c for c in context.calls if c[0] == "address")
        }
        assert given == expected
        assert context.config.cuda_graph_strategy == "disabled"
    shapes = [call for call in few.calls if call[:2] == ("shape", "window")]
    assert [shape[2][0] for shape in shapes] == [3, 4, 2]
    assert [call for call in few.calls if call[0] == "execute"] == [("execute", STREAM)] * 3
    assert network.is_capturable(1, STREAM)
    assert not network.is_capturable(1, 0)


def test_binding_is_checked(specs: tuple[TensorSpec, ...]) -> None:
    network = DeformNetwork(fake_flavour(FakeEngine(specs)), b"plan", specs)
    with pytest.raises(InputError, match="bind the tensors"):
        network.enqueue(1, STREAM)
    addresses = plan_buffers(specs, 1).addresses(1 << 20)
    with pytest.raises(InputError, match="sh missing or not known"):
        network.bind({name: where for name, where in addresses.items() if name != "sh"})
    with pytest.raises(InputError, match="multiple of 256"):
        network.bind(addresses | {"sh": 12})
    with pytest.raises(InputError, match="multiple of 256"):
        network.bind(addresses | {"sh": 0})
    network.bind(addresses)
    with pytest.raises(InputError, match="bound once"):
        network.bind(addresses)


def test_an_engine_of_another_avatar_is_refused(specs: tuple[TensorSpec, ...]) -> None:
    other = deform_tensors(make_avatar(n=5000), "fp16")
    with pytest.raises(EngineError, match="another avatar"):
        DeformNetwork(fake_flavour(FakeEngine(other)), b"plan", specs)
    with_attention = deform_tensors(make_avatar(n=50), "fp16", attention=True)
    with pytest.raises(EngineError, match="nobody fills: attention"):
        DeformNetwork(fake_flavour(FakeEngine(with_attention)), b"plan", specs)


def test_what_tensorrt_says_reaches_the_user(specs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(EngineError, match=r"1\.7\.1 cannot load the engine: Serialization asser"):
        DeformNetwork(fake_flavour(None), b"plan", specs)
    engine = FakeEngine(specs)
    network = bound(engine, specs)
    engine.accepts = False
    with pytest.raises(EngineError, match="refuses window of shape"):
        network.enqueue(1, STREAM)


def test_host_code_runs_only_where_it_is_allowed(specs: tuple[TensorSpec, ...]) -> None:
    for name, allowed, expected in (
        ("tensorrt", False, False),
        ("tensorrt", True, True),
        ("tensorrt-rtx", True, False),
    ):
        flavour = fake_flavour(FakeEngine(specs), name=name)
        network = DeformNetwork(flavour, b"plan", specs, allow_host_code=allowed)
        assert network._runtime.engine_host_code_allowed is expected


def test_closed(specs: tuple[TensorSpec, ...]) -> None:
    network = bound(FakeEngine(specs), specs)
    network.close()
    network.close()
    with pytest.raises(ClosedError):
        network.enqueue(1, STREAM)


def test_compiled_kernels_are_kept(
    specs: tuple[TensorSpec, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache" / "kernels.bin"
    network = bound(FakeEngine(specs), specs, runtime_cache=path)
    network.close()
    assert path.read_bytes() == b"compiled"
    path.write_bytes(b"foreign")
    bound(FakeEngine(specs), specs, runtime_cache=path).close()
    assert "does not fit this machine" in caplog.text
    assert path.read_bytes() == b"compiled"


# Which engine


@pytest.fixture
def avatar(tmp_path: Path) -> Avatar:
    save_avatar(make_avatar(n=50), tmp_path / "anna.safetensors")
    return Avatar.load(tmp_path / "anna.safetensors")


def place(of: Avatar, folder: Path, name: str, **change: Any) -> Path:
    facts = deform_key(of, fake_flavour(), "fp16", ADA).facts()
    path = folder / f"{name}.engine"
    write_engine(path, name.encode(), facts)
    if change:
        data = json.loads(sidecar_path(path).read_text())
        sidecar_path(path).write_text(json.dumps(data | change))
    return path


def open_(avatar: Avatar, folder: Path, **flavour: Any) -> Any:
    cache = EngineCache(folder / "cache")
    return open_deform_engine(avatar, folder, fake_flavour(**flavour), "fp16", ADA, cache=cache)


def test_the_engine_beside_the_avatar_is_taken(avatar: Avatar, tmp_path: Path) -> None:
    place(avatar, tmp_path, "a-portable")
    assert open_(avatar, tmp_path).plan == b"a-portable"
    place(avatar, tmp_path, "b-exact", sm="89")
    assert open_(avatar, tmp_path).plan == b"b-exact"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"version": "1.6.0"}, "made by tensorrt-rtx 1.6.0"),
        ({"sm": "120"}, "made for sm 120"),
        ({"flags": ["version_compatible"]}, "holds code that would be run"),
        ({"flags": ["stripped"]}, "its weights are in the fp16 graph, which is not beside it"),
        ({"device": "NVIDIA L4, CUDA 12.8"}, "made on NVIDIA L4"),
        ({"widths": {}}, "other widths"),
        ({"accuracy": {"passed": False}}, "failed its accuracy gate"),
        ({"sha256": "0" * 64}, "truncated or damaged"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_that_does_not_fit_is_named(
    avatar: Avatar, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    place(avatar, tmp_path, "a", **change)
    with pytest.raises(EngineError, match=words) as caught:
        open_(avatar, tmp_path)
    assert "gt-export NAME.safetensors --target tensorrt-rtx --precision fp16" in str(caught.value)


def test_portable_engines_begin_with_ampere(avatar: Avatar, tmp_path: Path) -> None:
    place(avatar, tmp_path, "a")
    turing = Device("NVIDIA T4", "75", "13.0")
    with pytest.raises(EngineError, match="made for sm 80 and later, NVIDIA T4 is 75"):
        open_deform_engine(avatar, tmp_path, fake_flavour(), "fp16", turing)


@pytest.mark.parametrize(
    "version, fits",
    [("1.6.0", True), ("1.7.1", True), ("1.7.2", False), ("1.10.0", False), ("0.9", False)],
)
def test_version_compatible_engines(
    avatar: Avatar, tmp_path: Path, version: str, fits: bool
) -> None:
    """Of the same major version, and not newer than what is installed (1.7.1)."""
    place(avatar, tmp_path, "a", version=version, flags=["version_compatible"])

    def find() -> Any:
        return open_deform_engine(
            avatar, tmp_path, fake_flavour(), "fp16", ADA, allow_host_code=True
        )

    if fits:
        assert find().plan == b"a"
    else:
        with pytest.raises(EngineError, match=f"made by tensorrt-rtx {version}"):
            find()


def test_host_code_is_a_users_choice() -> None:
    from gt_infer import EngineConfig

    assert not EngineConfig().allow_host_code
    with pytest.raises(InputError, match="allow_host_code = 1: must be True or False"):
        EngineConfig(allow_host_code=1)  # type: ignore[arg-type]


def test_a_stripped_engine_brings_its_graph_along(avatar: Avatar, tmp_path: Path) -> None:
    place(avatar, tmp_path, "a", flags=["stripped", "refittable"])
    graph = b"..." + avatar.sha256.encode()
    (tmp_path / "anna.deform-fp16.onnx").write_bytes(graph)
    found = open_(avatar, tmp_path)
    assert (found.plan, found.onnx) == (b"a", graph)


def test_a_graph_that_failed_the_gate_is_not_built(avatar: Avatar, tmp_path: Path) -> None:
    graph = avatar.sha256.encode() + FAILED_GATE.encode()
    (tmp_path / "anna.deform-fp16.onnx").write_bytes(graph)
    with pytest.raises(EngineError, match="it failed its accuracy gate"):
        open_(avatar, tmp_path)


def test_the_drivers_verdict_is_named(avatar: Avatar, tmp_path: Path) -> None:
    place(avatar, tmp_path, "a")
    with pytest.raises(EngineError, match="VERSION_MISMATCH, OLD_CUDA_DRIVER"):
        open_(avatar, tmp_path, valid=False)


def test_another_avatars_engine_is_passed_over(avatar: Avatar, tmp_path: Path) -> None:
    place(avatar, tmp_path, "a", avatar="f" * 64)
    place(avatar, tmp_path, "b", graph="canonical")
    place(avatar, tmp_path, "c", precision="fp32")
    with pytest.raises(EngineError, match=r"no tensorrt-rtx 1\.7\.1 engine or fp16 graph"):
        open_(avatar, tmp_path)


def test_an_engine_is_built_from_the_graph_and_kept(
    avatar: Avatar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An engine of another version is passed over with a warning; the graph beside it is built."""
    built = []

    def build(flavour: Flavour, onnx: bytes, profiles: Any, options: Any) -> bytes:
        built.append((len(profiles), options.sm, options.is_float32))
        return b"fresh"

    monkeypatch.setattr("gt_infer.engines.tensorrt_files.build_engine", build)
    place(avatar, tmp_path, "old", version="1.6.0")
    (tmp_path / "other.deform-fp16.onnx").write_bytes(b"of another avatar")
    (tmp_path / "anna.deform-fp16.onnx").write_bytes(b"..." + avatar.sha256.encode())
    with caplog.at_level(logging.WARNING):
        found = open_(avatar, tmp_path)
    assert found.plan == b"fresh"
    assert "anna.deform-fp16.onnx" in found.origin
    assert "made by tensorrt-rtx 1.6.0" in caplog.text
    assert open_(avatar, tmp_path).plan == b"fresh"
    assert built == [(3, "portable", False)], "the second start takes it from the cache"


# Without TensorRT, without a driver


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"pip install 'gt-infer\[tensorrt-rtx\]'"):
        load_flavour("tensorrt-rtx")


def test_survey_and_create_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "installed_flavours", list)
    monkeypatch.setattr(
        runtime, "find_gpus", lambda: {"devices": [], "driver_cuda": None, "reason": "no driver"}
    )
    status = {engine.name: engine for engine in survey()}["tensorrt"]
    assert not status.available
    assert "pip install 'gt-infer[tensorrt-rtx]'" in status.reason
    assert "no GPU: no driver" in status.reason
    from gt_infer import EngineConfig

    with pytest.raises(EngineError, match=r'engine = "tensorrt": neither .* Or pass engine="cpu"'):
        create(make_avatar(n=5), "tensorrt", EngineConfig())
    assert create(make_avatar(n=5), "auto", EngineConfig()).name == "cpu"


def test_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "devices": [{"name": "NVIDIA L4", "compute_capability": "8.9", "memory_bytes": 1}],
        "driver_cuda": "12.8",
        "reason": None,
    }
    monkeypatch.setattr(runtime, "find_gpus", lambda: found)
    assert runtime.find_device() == Device("NVIDIA L4", "89", "12.8")
    with pytest.raises(EngineError, match="device 1: this machine has 1 GPU"):
        runtime.find_device(1)


def test_importing_it_imports_no_tensorrt() -> None:
    code = (
        "import sys, gt_infer.engines.tensorrt, gt_infer.engines as e; e.survey();"
        "print([m for m in ('tensorrt', 'tensorrt_rtx', 'torch', 'onnx') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
