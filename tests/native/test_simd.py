"""Vector helpers of every instruction set: stated error bounds, culling that loses nothing, and the
hidden units that are left out because they are zero."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gt_infer import _native

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "tests" / "native"
FLAGS = {  # as CMakeLists.txt has them
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}
FLAGS["avx512vnni"] = [*FLAGS["avx512"], "-mavx512vnni"]
FLAGS["avx2vnni"] = [*FLAGS["avx2"], "-mavxvnni"]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_vector_helpers(isa: str, tmp_path: Path) -> None:
    figures = measured("simd_check", isa, tmp_path)
    assert figures["exp2"] < 3e-7  # simd_math.h states these
    assert figures["exp"] < 2e-7
    assert figures["log"] < 2e-7
    assert figures["helpers_wrong"] == 0
    assert figures["blocks_missed"] == 0
    # Tight enough to be worth it: pixels are a grid, the bound is over the whole block.
    assert figures["blocks_drawn"] > 100_000
    assert figures["blocks_listed"] < 1.2 * figures["blocks_drawn"]


@pytest.mark.parametrize("isa", ["avx512vnni", "avx2vnni"])
def test_hidden_units_that_are_left_out(isa: str, tmp_path: Path) -> None:
    """Against every unit of every Gaussian in float64."""
    figures = measured("hidden_units_check", isa, tmp_path)
    # With a reach of the whole |w|, the limit holds for any Gaussian.
    assert figures["above_zero"] > 5_000
    assert figures["above_zero_but_left_out_by_the_bound"] == 0
    # With three, next to nothing is missed (units are of order 1), most zeros left out.
    assert figures["missed"] <= 1e-3 * figures["above_zero"]
    assert figures["worst_miss"] < 0.3
    assert figures["left_out"] > 0.6 * figures["zero_for_a_tile"]
    # Where the tile itself was observed, only the rounding of its centre is left to miss by.
    assert figures["missed_as_observed"] <= 1e-3 * figures["above_zero"]
    assert figures["worst_miss_as_observed"] < 0.01
    assert figures["left_out_as_observed"] > 0.95 * figures["zero_for_a_tile"]
    assert figures["keeper_wrong"] == 0
    assert figures["columns_wrong"] == 0


@pytest.mark.parametrize("isa", ["avx512vnni", "avx2vnni"])
def test_outputs_of_heads(isa: str, tmp_path: Path) -> None:
    """Against float64, of values of order 1."""
    figures = measured("head_outputs_check", isa, tmp_path)
    assert figures["worst_16_bits"] < 3e-4
    assert figures["worst_8_bits"] < 0.015
    assert figures["worst_color"] < 0.03  # the sum of 16 harmonics
    assert figures["color_error_wrong"] < 1e-5
    assert figures["constants_wrong"] == 0
    assert figures["pair_distance"] < 0.5  # or hardly anyone would share colours
    assert figures["order_wrong"] == 0


def measured(name: str, isa: str, folder: Path) -> dict[str, float]:
    """What tests/native/<name>.cc prints for an instruction set."""
    if isa not in _native.available_isas():
        pytest.skip(f"this machine or build has no {isa}")
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = folder / name
    includes = ["-I", str(ROOT / "csrc" / "include"), "-I", str(ROOT / "csrc" / "cpu")]
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", *FLAGS[isa], *includes]
    header = f'-DGT_SIMD_HEADER="simd_{isa}.h"'
    parts = [
        str(ROOT / "csrc" / "cpu" / part)
        for part in ("gaussian_order.cc", "packed.cc", "quantized.cc")
    ]
    sources = [str(NATIVE / f"{name}.cc"), *parts]
    subprocess.run([compiler, *options, header, "-w", *sources, "-o", str(program)], check=True)
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: float(value) for name, value in map(str.split, out.splitlines())}
