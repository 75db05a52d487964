"""Vector helpers of every instruction set: stated error bounds, and culling that loses nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gt_infer import _native

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "native" / "simd_check.cc"
FLAGS = {  # as CMakeLists.txt has them
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}


@pytest.mark.parametrize("isa", FLAGS)
def test_vector_helpers(isa: str, tmp_path: Path) -> None:
    if isa not in _native.available_isas():
        pytest.skip(f"this machine or build has no {isa}")
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    figures = measured(compiler, isa, SOURCE, tmp_path)
    assert figures["exp2"] < 3e-7  # simd_math.h states these
    assert figures["exp"] < 2e-7
    assert figures["log"] < 2e-7
    assert figures["helpers_wrong"] == 0
    assert figures["blocks_missed"] == 0
    # Tight enough to be worth it: pixels are a grid, the bound is over the whole block.
    assert figures["blocks_drawn"] > 100_000
    assert figures["blocks_listed"] < 1.2 * figures["blocks_drawn"]


def measured(compiler: str, isa: str, source: Path, folder: Path) -> dict[str, float]:
    program = folder / "simd_check"
    includes = ["-I", str(ROOT / "csrc" / "include"), "-I", str(ROOT / "csrc" / "cpu")]
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", *FLAGS[isa], *includes]
    header = f'-DGT_SIMD_HEADER="simd_{isa}.h"'
    command = [compiler, *options, header, "-w", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: float(value) for name, value in map(str.split, out.splitlines())}
