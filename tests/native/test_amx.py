"""The kernels of AMX without AMX: their machine code runs as it is, and a signal handler does what
each tile instruction would have done (amx_trap.cc).

Where the processor has AMX the same programs run on it. Either way it needs AVX-512 with VNNI,
whose results these must equal to the last bit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gt_infer import _native

ROOT = Path(__file__).resolve().parents[2]
CPU = ROOT / "csrc" / "cpu"
NATIVE = ROOT / "tests" / "native"

# As CMakeLists.txt has them.
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-DGT_HAVE_X86", "-DGT_HAVE_VNNI", "-DGT_HAVE_AMX"]
WIDE = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mavx512vnni"]
WIDE += ["-mprefer-vector-width=512", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
AMX = [*WIDE, "-mamx-tile", "-mamx-int8"]
# gt_cpu knows every instruction set of this processor; these programs take two by name.
FEWER = ["-UGT_HAVE_X86", "-UGT_HAVE_VNNI", "-UGT_HAVE_AMX"]

# gt_cpu as CMakeLists.txt lists it, and what only some processors get.
CORE = re.search(r"add_library\(gt_cpu STATIC([^)]+)\)", (ROOT / "CMakeLists.txt").read_text())
assert CORE is not None
PRODUCTS = {"amx_trap": ["-O2"], "amx": ["-O1"], "packed": ["-O1"], "quantized": ["-O1"]}
ENGINE = {
    **{name: ["-O1"] for name in re.findall(r"(\w+)\.cc", CORE[1])},
    **PRODUCTS,
    "context": ["-O1", *FEWER],
    "kernels_amx": ["-O3", *AMX],  # as it ships
    "kernels_avx512vnni": ["-O1", *WIDE],
    "amx_engine": ["-O1"],
}
# `project` is for the table, which a test of products does not make.
PRODUCTS_TEST = ["-O1", *AMX, "-Wno-unused-function"]

# One exact edit each: file, what must be there once, what it becomes.
FAULTS = {
    "signs of weights and inputs exchanged": ("tiles_amx.h", '"tdpbsud', '"tdpbusd'),
    "low bytes taken for signed": (
        "tile_products.inl",
        "tile_dot<Bytes::kUnsigned, Bytes::kUnsigned, 2",
        "tile_dot<Bytes::kUnsigned, Bytes::kSigned, 2",
    ),
    "operands exchanged": (
        "tiles_amx.h",
        '"tdpbssd %%tmm%c2, %%tmm%c1,',
        '"tdpbssd %%tmm%c1, %%tmm%c2,',
    ),
    "rows of words half as far apart": (
        "tile_products.inl",
        "kWordStride = kTileGaussians *",
        "kWordStride = kBlockGaussians *",
    ),
    "a sum that is not cleared": ("tile_products.inl", "    tile_zero<2>();\n", ""),
    "the last row of every tile left out": ("tiles_amx.h", "rows[16] = {16", "rows[16] = {15"),
    "high and low bytes of weights exchanged": ("quantized.cc", ">> (8 * b)", ">> (8 - 8 * b)"),
}


def compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("c++")
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.fixture(scope="module", autouse=True)
def needs(tmp_path_factory: pytest.TempPathFactory) -> None:
    if "avx512vnni" not in _native.available_isas():
        pytest.skip("this machine or build has no avx512vnni")
    source = tmp_path_factory.mktemp("flags") / "empty.cc"
    source.write_text("int main() { return 0; }\n")
    command = [compiler(), *AMX, "-fsyntax-only", str(source)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this compiler has no -mamx-int8")


def compile_one(name: str, flags: Iterable[str], folder: Path, cpu: Path = CPU) -> Path:
    source = cpu / f"{name}.cc"
    if not source.exists():
        source = NATIVE / f"{name}.cc"
    paths = [f"-I{path}" for path in (cpu, NATIVE, ROOT / "csrc" / "include")]
    built = folder / f"{name}.o"
    command = [compiler(), *FLAGS, *flags, *paths, "-c", str(source), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("amx")
    with ThreadPoolExecutor(2) as pool:
        built = pool.map(lambda item: compile_one(*item, folder), ENGINE.items())
        return dict(zip(ENGINE, built, strict=True))


def link_and_run(objects: Iterable[Path], program: Path) -> subprocess.CompletedProcess[str]:
    command = [compiler(), *map(str, objects), "-lpthread", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return subprocess.run([str(program)], capture_output=True, text=True, timeout=120)


def expected(program: str) -> str:
    return f"{program}: passed, {'on AMX' if 'amx' in _native.available_isas() else 'emulated'}\n"


def test_tiles_give_the_sums_of_lanes(objects: Mapping[str, Path], tmp_path: Path) -> None:
    test = compile_one("amx_products", PRODUCTS_TEST, tmp_path)
    done = link_and_run([test, *(objects[name] for name in PRODUCTS)], tmp_path / "amx_products")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == expected("amx_products")


def test_the_deformer_is_the_same_to_the_last_bit(
    objects: Mapping[str, Path], tmp_path: Path
) -> None:
    done = link_and_run(objects.values(), tmp_path / "amx_engine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == expected("amx_engine")


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_tiles_are_found_out(
    objects: Mapping[str, Path], tmp_path: Path, fault: str
) -> None:
    name, was, becomes = FAULTS[fault]
    broken = tmp_path / "cpu"
    shutil.copytree(CPU, broken)
    text = (CPU / name).read_text()
    assert text.count(was) == 1, f"{name} has changed: this edit does not fit any more"
    (broken / name).write_text(text.replace(was, becomes))
    built = [compile_one("amx_products", PRODUCTS_TEST, tmp_path, broken)]
    for source, flags in PRODUCTS.items():
        is_broken = name == f"{source}.cc"
        built.append(compile_one(source, flags, tmp_path, broken) if is_broken else objects[source])
    done = link_and_run(built, tmp_path / "amx_products")
    assert done.returncode in (1, 3), done.stdout + done.stderr
    assert done.stderr.startswith(("amx_products: ", "AMX: ")), done.stderr


def test_the_object_holds_tile_instructions_and_one_name(objects: Mapping[str, Path]) -> None:
    objdump, nm = shutil.which("objdump"), shutil.which("nm")
    if objdump is None or nm is None:
        pytest.skip("objdump and nm are not installed")
    built = str(objects["kernels_amx"])
    code = subprocess.run([objdump, "-d", built], capture_output=True, text=True, check=True).stdout
    if "(bad)" in code:
        pytest.skip("this objdump does not know AMX")
    found = set(re.findall(r"\b(?:tdpb|tile|ldtile)[a-z0-9]+\b", code))
    assert found == {
        *("ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored"),
        *("tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud"),
    }
    names = subprocess.run([nm, "-gC", "--defined-only", built], capture_output=True, text=True)
    assert re.findall(r"^\w+ \w (.+)$", names.stdout, re.M) == ["gt::cpu::kAmxKernels"]
