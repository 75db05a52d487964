"""The CUDA part compiles for one architecture without a warning, links, and stays within its stated
registers; without a driver it says so."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

# As ptxas prints it: a kernel of ours that spills, one of CUB's, one of ours with many registers.
PRINTED = """\
ptxas info    : Compiling entry function '_ZN2gt4cuda12_GLOBAL__N_111blend_tilesENS0_8BlendJobE' \
for 'sm_86'
ptxas info    : Function properties for _ZN2gt4cuda12_GLOBAL__N_111blend_tilesENS0_8BlendJobE
    24 bytes stack frame, 40 bytes spill stores, 60 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 12288 bytes smem, 496 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN3cub11EmptyKernelIvEEvv' for 'sm_86'
ptxas info    : Function properties for _ZN3cub11EmptyKernelIvEEvv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 4 registers, used 0 barriers
ptxas info    : Compiling entry function '_ZN2gt4cuda12_GLOBAL__N_110find_tilesENS1_7FindJobE' \
for 'sm_86'
ptxas info    : Function properties for _ZN2gt4cuda12_GLOBAL__N_110find_tilesENS1_7FindJobE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 77 registers, used 0 barriers, 464 bytes cmem[0]
"""


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "cuda_report", ROOT / "scripts" / "cuda_report.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cuda_report", module)
    spec.loader.exec_module(module)
    return module


def test_spills_and_registers_past_the_limit_are_told(report: ModuleType) -> None:
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is not installed")
    usages = report.read_usages(PRINTED)
    assert [usage.kernel for usage in usages] == ["find_tiles", "blend_tiles"]
    assert usages[1].warps == 48  # 40 registers: six blocks of eight warps
    wrong = report.problems(usages, [86])
    assert "blend_tiles for sm_86: 100 bytes of spills" in wrong
    assert "find_tiles for sm_86: 77 registers, more than the 32 stated" in wrong
    assert "deform_gaussians<64, false> for sm_86: not among what was compiled" in wrong
    assert len(wrong) == len(report.KERNELS)


@pytest.mark.slow
def test_the_cuda_part_compiles_and_links(tmp_path: Path) -> None:
    for tool in ("nvcc", "cmake", "ninja", "c++filt"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path / "cuda"
    report = ROOT / "scripts" / "cuda_report.py"
    done = subprocess.run(
        [sys.executable, str(report), "86", "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "| `deform_gaussians<64, false>` | 128 |" in done.stdout

    program = subprocess.run(
        [str(folder / "gt_cuda_kernels")], capture_output=True, text=True, timeout=300
    )
    if program.returncode == 77:
        assert program.stderr.startswith("gt_cuda_kernels: skipped: CUDA cannot "), program.stderr
    else:  # there is a GPU: the kernels agree with the CPU engine on it
        assert program.returncode == 0, program.stdout[-3000:] + program.stderr
