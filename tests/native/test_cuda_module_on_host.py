"""The whole CUDA engine on the host: the compiled module's own sources, bindings and kernels alike,
against the execution shim, under gt_infer's Renderer, compared with the CPU engine.

What it leaves out: CUB, tensor cores, and that on a device work goes on after it was enqueued
(tests/unit/test_cuda_engine.py has that).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gt_infer import DeviceImage, EngineConfig, Pose, Renderer
from gt_infer.avatar import Avatar
from tests.synthetic import make_avatar

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "tests" / "native"
CSRC = ROOT / "csrc"
INCLUDES = (
    NATIVE / "cuda_module_shim",
    NATIVE / "cuda_shim",
    CSRC / "cuda",
    CSRC / "include",
    CSRC / "cpu",
)
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
DEFINES = ['-DGT_VERSION="shim"', '-DGT_CUDA_ARCHITECTURES="80"']

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    folder = tmp_path_factory.mktemp("module")
    sources = [*CSRC.glob("cuda/*.cc"), *CSRC.glob("cuda/*.cu"), *CSRC.glob("bind/cuda_*.cc")]
    sources += [s for s in CSRC.glob("cpu/*.cc") if not s.name.startswith("kernels_avx")]
    sources = [source for source in sources if source.name != "sort_scan.cu"]
    sources += [
        CSRC / "bind" / "avatar_source.cc",
        NATIVE / "cuda_module_shim" / "module_runtime.cc",
    ]
    sources += [NATIVE / "cuda_shim" / name for name in ("execution.cc", "runtime.cc")]
    paths = [*INCLUDES, sysconfig.get_path("include"), pybind11.get_include()]
    options = [*FLAGS, *DEFINES, *(f"-I{path}" for path in paths)]

    def compiled(source: Path) -> Path:
        result = folder / f"{source.parent.name}-{source.name}.o"
        command = [compiler, "-x", "c++", *options, "-c", str(source), "-o", str(result)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
        return result

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [compiler, "-shared", *map(str, objects), "-lpthread", "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    spec = importlib.util.spec_from_file_location("gt_infer._cuda", library)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(autouse=True)
def _installed(
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The shim's device says compute capability 0.0.
    monkeypatch.setattr("gt_infer.engines.cuda_api._runs_on", lambda built, here: True)
    monkeypatch.setitem(sys.modules, "gt_infer._cuda", module)


def window(avatar: Avatar, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((8, avatar.network.audio_channels, 16), np.float32)


def open_renderer(avatar: Avatar, engine: str, **options: Any) -> Renderer:
    device_output = options.pop("device_output", False)
    config = EngineConfig(precision="fp32", device_output=device_output)
    return Renderer(avatar, engine=engine, config=config, **options)  # type: ignore[arg-type]


def difference(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(np.float64) - other).max())


@pytest.mark.parametrize(
    "shape",
    [
        {"torsos": 2},
        {"layers": 2, "n": 33, "d_model": 32},
        {"sh_degree": 1, "heads": ("means", "sh")},
    ],
    ids=["two-torsos", "two-layers", "sh-degree-1"],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output": "rgba8", "background": "transparent", "size": (70, 90)},
        {"output": "float32", "background": (10, 200, 30)},
        {"output": "bgr8", "size": 100},
    ],
    ids=["rgb8", "rgba8", "float32", "bgr8"],
)
def test_pictures_are_the_cpu_engines(shape: dict[str, Any], options: dict[str, Any]) -> None:
    avatar = make_avatar(**{"n": 90, **shape})
    one_level = 1 / 255 if options.get("output") == "float32" else 1.0
    with (
        open_renderer(avatar, "cpu", **options) as cpu,
        open_renderer(avatar, "cuda", **options) as gpu,
    ):
        for index in range(3):  # one as it is, two replayed
            pose = Pose.from_degrees(yaw=3.0 * index - 4)
            planes = [np.full((cpu.height, cpu.width), np.nan, np.float32) for _ in range(4)]
            want = cpu.render_window(
                window(avatar, index), pose, blink=0.3 * index, alpha=planes[0], depth=planes[1]
            )
            got = gpu.render_window(
                window(avatar, index), pose, blink=0.3 * index, alpha=planes[2], depth=planes[3]
            )
            assert difference(got, want) <= 1.01 * one_level
            assert difference(planes[2], planes[0]) <= 2e-3
            assert difference(planes[3], planes[1]) <= 2e-3 * planes[1].max()


def test_attributes_and_attention() -> None:
    avatar = make_avatar(n=70, layers=2)
    camera = np.linspace(-1, 1, 12, dtype=np.float32)
    with open_renderer(avatar, "cpu") as cpu, open_renderer(avatar, "cuda") as gpu:
        want = cpu.deform(window(avatar), 0.3, camera, attention=True)
        got = gpu.deform(window(avatar), 0.3, camera, attention=True)
        for name in ("means", "quats", "scales", "opacities", "sh", "attention"):
            assert difference(getattr(got, name), getattr(want, name)) <= 2e-4, name
        maps = gpu.render_attention(window(avatar))
        assert difference(maps, cpu.render_attention(window(avatar))) <= 1


def test_sessions_in_batches_stay_on_the_device() -> None:
    avatar = make_avatar(n=60, torsos=2)
    with open_renderer(avatar, "cuda", device_output=True) as renderer:
        groups = [[renderer.session(seed=i, alpha=True) for i in range(3)] for _ in range(2)]
        for group in groups:
            for i, session in enumerate(group):
                sound = 0.1 * np.random.default_rng(i).standard_normal(640 * 9)
                session.push(sound.astype(np.float32))
        together = [renderer.render_many(groups[0]) for _ in range(3)]
        for i, session in enumerate(groups[1]):
            for frame, row in zip(session.frames(), together, strict=True):
                mine: Any = row[i]
                assert isinstance(mine.image, DeviceImage)
                for name in ("image", "alpha"):
                    one, other = getattr(mine, name), getattr(frame, name)
                    np.testing.assert_array_equal(one.to_host(), other.to_host())


def test_lists_that_are_too_short_grow(module: Any) -> None:
    avatar = make_avatar(n=90)

    class ShortLists:
        def __getattr__(self, name: str) -> Any:
            return getattr(module, name)

        def Engine(self, model: Any, **options: Any) -> Any:  # noqa: N802
            return module.Engine(model, **{**options, "pairs": 8})

    from gt_infer.engines.cuda import CudaEngine

    with open_renderer(avatar, "cuda") as renderer:
        want = renderer.render_window(window(avatar))
        old: Any = renderer._canvas
        short: Any = CudaEngine(avatar, EngineConfig(precision="fp32"), ShortLists())  # type: ignore[arg-type]
        renderer._engine, renderer._canvas = short, short.prepare(old.canvas)
        for _ in range(2):
            np.testing.assert_array_equal(renderer.render_window(window(avatar)), want)
        (batch,) = renderer._canvas._batches.values()
        assert batch.drawer.splatter.generation >= 1


def test_memory_goes_round(module: Any) -> None:
    avatar = make_avatar(n=20)
    with open_renderer(avatar, "cuda", device_output=True) as renderer:
        held: Any = renderer.render_window(window(avatar, 1))
        want = held.to_host()
        seen = set()
        for seed in range(5):
            image: Any = renderer.render_window(window(avatar, seed))
            seen.add(image.ptr)
            del image
        assert held.ptr not in seen
        assert len(seen) == 1  # each took what the one before gave back
        np.testing.assert_array_equal(held.to_host(), want)
        free, _ = module.memory_info(0)
        capsule = held.__dlpack__(stream=12345)  # somebody with a stream of their own
        del held, capsule
        assert module.memory_info(0)[0] > free  # freed: nobody knows when it was read last
