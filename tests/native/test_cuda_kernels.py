"""The kernels of csrc/cuda on the host: compiled as they are against a small execution shim,
compared with the CPU engine on small scenes (gt_cuda_kernels), and shown to fail when broken.

Needs a C++ compiler and neither nvcc nor a GPU. What it leaves out: CUB's sort and scan and the
tensor cores' own arithmetic, which plain versions stand for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "csrc" / "cuda"
NATIVE = ROOT / "tests" / "native"
SHIM = NATIVE / "cuda_shim"

# As CMakeLists.txt has them for the two halves; contraction off is nvcc's -fmad=false.
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
FLAGS += ["-ffp-contract=off"]
# One exact edit each: file, what must be there once, what it becomes.
FAULTS = {
    "blending without the barrier behind its loads": (
        "blend.cu",
        "    }\n    __syncthreads();\n    for (int i = 0;",
        "    }\n    for (int i = 0;",
    ),
    "weights used before all have arrived": (
        "deform.cu",
        "    __syncthreads();\n    start(stage + 1);",
        "    start(stage + 1);",
    ),
    "a splat's tiles start one too far right": (
        "lists.cu",
        "tiles.x0 + k % tiles.columns;",
        "tiles.x0 + k % tiles.columns + 1;",
    ),
    "a tile's list starts one too late": (
        "lists.cu",
        "job.sorted_tiles[middle] < static_cast<std::uint32_t>(tile)",
        "job.sorted_tiles[middle] <= static_cast<std::uint32_t>(tile)",
    ),
    "an overflow that reports no more than there is room for": (
        "lists.cu",
        "*job.report = {needed, job.capacity};",
        "*job.report = {needed < job.capacity ? needed : job.capacity, job.capacity};",
    ),
    "a frame that overflowed is drawn all the same": (
        "blend.cu",
        "if (has_overflowed(*job.report)) return;",
        "if (false) return;",
    ),
}


def compile_all(sources: Iterable[Path], includes: Iterable[Path], folder: Path) -> list[Path]:
    """Objects of the sources, in parallel."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder.mkdir()

    def compile_one(source: Path) -> Path:
        result = folder / f"{source.name}.o"
        paths = [f"-I{path}" for path in includes]
        command = [compiler, "-x", "c++", *FLAGS, *paths, "-c", str(source), "-o", str(result)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return result

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))


def link(objects: Iterable[Path], program: Path) -> Path:
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, *map(str, objects), "-lpthread", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def includes(cuda: Path) -> list[Path]:
    return [SHIM, cuda, ROOT / "csrc" / "include", ROOT / "csrc" / "cpu", NATIVE]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Of every source by its file's name; sort_scan.cu is CUB's, a plain version is linked."""
    sources = [source for pattern in ("*.cc", "*.cu") for source in sorted(CUDA.glob(pattern))]
    sources = [source for source in sources if source.name != "sort_scan.cu"]
    # The CPU engine with its portable instruction set alone: the others want flags of their own.
    cpu = sorted((ROOT / "csrc" / "cpu").glob("*.cc"))
    sources += [source for source in cpu if not source.name.startswith("kernels_avx")]
    sources += [*sorted(SHIM.glob("*.cc")), NATIVE / "cuda_kernels.cc"]
    folder = tmp_path_factory.mktemp("cuda_kernels") / "objects"
    compiled = compile_all(sources, includes(CUDA), folder)
    return {source.name: built for source, built in zip(sources, compiled, strict=True)}


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program)], capture_output=True, text=True, timeout=300)


def test_kernels_agree_with_the_cpu_engine(objects: Mapping[str, Path], tmp_path: Path) -> None:
    done = run(link(objects.values(), tmp_path / "gt_cuda_kernels"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("gt_cuda_kernels: passed\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_kernels_are_found_out(
    objects: Mapping[str, Path], tmp_path: Path, fault: str
) -> None:
    name, was, becomes = FAULTS[fault]
    broken = tmp_path / "cuda"
    shutil.copytree(CUDA, broken)
    text = (CUDA / name).read_text()
    assert text.count(was) == 1, f"{name} has changed: this edit does not fit any more"
    (broken / name).write_text(text.replace(was, becomes))
    # Headers that reach outside csrc/cuda do so by a relative path.
    (tmp_path / "cpu").symlink_to(ROOT / "csrc" / "cpu")
    [built] = compile_all([broken / name], includes(broken), tmp_path / "objects")
    done = run(link({**objects, name: built}.values(), tmp_path / "gt_cuda_kernels"))
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr
    assert done.stderr.startswith("gt_cuda_kernels: "), done.stderr
