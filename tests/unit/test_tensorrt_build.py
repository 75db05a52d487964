"""How TensorRT is asked to build: options, timing cache. A stand-in plays the data-centre package,
which needs a GPU to build anything; TensorRT-RTX itself builds in test_onnx_targets.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gt_infer.engines.deform_io import deform_tensors
from gt_infer.engines.tensorrt_api import Flavour
from gt_infer.engines.tensorrt_build import PORTABLE, BuildOptions, batch_profiles, build_engine
from gt_infer.errors import EngineError
from tests.synthetic import make_avatar

GRAPH = b"an ONNX graph"
TIMINGS = b"timings of this GPU"


class Config:
    """Notes what it was told."""

    def __init__(self) -> None:
        self.set: set[str] = set()
        self.cleared: set[str] = set()
        self.profiles: list[dict[str, Any]] = []
        self.hardware_compatibility_level = "none"
        self.timings: bytes | None = None

    def set_flag(self, flag: str) -> None:
        self.set.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.cleared.add(flag)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, data: bytes) -> bytes | None:
        return None if data == b"damaged" else data

    def set_timing_cache(self, cache: bytes, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache == b"of another GPU":
            return False
        self.timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: bytearray(TIMINGS))


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class TensorRT:
    """The module, as far as building goes."""

    __version__ = "10.13.0"

    def __init__(self, *, starts: bool = True, parses: bool = True, builds: bool = True) -> None:
        self.config = Config()
        self.parses, self.builds = parses, builds
        flags = ("TF32", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE")
        self.BuilderFlag = SimpleNamespace(**{name: name for name in flags})
        self.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere and later")
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
        severities = SimpleNamespace(INTERNAL_ERROR=1, ERROR=2)
        self.ILogger = type("ILogger", (), {"Severity": severities})
        self.Builder = (lambda logger: self) if starts else self._fail

    def _fail(self, logger: Any) -> None:
        logger.log(2, "CUDA initialization failure with error: 35")

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << 3, "strongly typed"
        return "network"

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        self.logger = logger
        error = SimpleNamespace(
            desc=lambda: "no importer\nregistered",
            node_operator=lambda: "Own",
            node_name=lambda: "n",
        )
        return SimpleNamespace(
            parse=lambda onnx: self.parses, num_errors=1, get_error=lambda index: error
        )

    def create_builder_config(self) -> Config:
        return self.config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        if not self.builds:
            self.logger.log(2, "out of memory")
        return b"plan" if self.builds else None


def build(trt: TensorRT, **options: Any) -> bytes:
    flavour = Flavour("tensorrt", trt, trt.__version__)
    profiles = batch_profiles(deform_tensors(make_avatar(n=5), "fp16"))
    return build_engine(flavour, GRAPH, profiles, BuildOptions(**options))


def test_three_profiles_each_tuned_for_its_largest() -> None:
    trt = TensorRT()
    assert build(trt, sm="90") == b"plan"
    batches = [[shape[0] for shape in profile["eye"]] for profile in trt.config.profiles]
    assert batches == [[1, 1, 1], [2, 4, 4], [5, 32, 32]]
    assert trt.config.profiles[2]["window"][2] == (32, 8, 29, 16)
    assert trt.config.profiles[2]["features"] == ((4096, 64),) * 3


@pytest.mark.parametrize(
    "options, flags",
    [
        ({}, set()),
        ({"refittable": True}, {"REFIT"}),
        ({"stripped": True}, {"REFIT", "STRIP_PLAN"}),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
    ],
    ids=str,
)
def test_flags(options: dict[str, bool], flags: set[str]) -> None:
    trt = TensorRT()
    build(trt, sm="90", **options)
    assert trt.config.set == flags
    assert trt.config.hardware_compatibility_level == "none"
    assert BuildOptions(**options).flags() == list(options)


def test_float32_means_no_tf32() -> None:
    for is_float32, cleared in ((True, {"TF32"}), (False, set())):
        trt = TensorRT()
        build(trt, sm="90", is_float32=is_float32)
        assert trt.config.cleared == cleared


def test_hardware_compatible() -> None:
    trt = TensorRT()
    build(trt, sm=PORTABLE)
    assert trt.config.hardware_compatibility_level == "ampere and later"


@pytest.mark.parametrize(
    "stored, used",
    [(None, b""), (TIMINGS, TIMINGS), (b"of another GPU", b""), (b"damaged", b"")],
    ids=["none", "good", "foreign", "damaged"],
)
def test_timings_are_kept(stored: bytes | None, used: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.timing-cache"
    if stored is not None:
        path.write_bytes(stored)
    trt = TensorRT()
    build(trt, sm="90", timing_cache=path)
    assert trt.config.timings == used
    assert path.read_bytes() == TIMINGS


def test_timings_that_cannot_be_kept_cost_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert build(TensorRT(), sm="90", timing_cache=tmp_path / "a.timing-cache") == b"plan"
    assert "a.timing-cache: cannot be kept (No space left on device)" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "how, words",
    [
        ({"starts": False}, "tensorrt 10.13.0 does not start: CUDA initialization failure"),
        ({"parses": False}, "does not support this graph: no importer registered at Own 'n'"),
        ({"builds": False}, "could not build the engine for sm 90: out of memory"),
    ],
    ids=["start", "parse", "build"],
)
def test_failures_say_why(how: dict[str, bool], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        build(TensorRT(**how), sm="90")
