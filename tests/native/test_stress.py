"""gt_stress: the native core under many threads and absurd avatars, plain and watched for races.

The short run of what `make sanitize` does at length. That also looks for wild memory and undefined
behaviour.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gt_infer import _native

ROOT = Path(__file__).resolve().parents[2]


def compiler_has(sanitizer: str, folder: Path) -> bool:
    source = folder / "empty.cc"
    source.write_text("int main() { return 0; }\n")
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, f"-fsanitize={sanitizer}", str(source), "-o", str(folder / "empty")]
    return subprocess.run(command, capture_output=True).returncode == 0


def build(folder: Path, sanitizer: str) -> Path:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed; pip install 'gt-infer[test]' brings it")
    options = {
        "GT_BUILD_PYTHON": "OFF",
        "GT_BUILD_TESTS": "ON",
        "GT_SANITIZE": sanitizer,
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "CMAKE_CXX_FLAGS_RELWITHDEBINFO": "-O1",  # compiles in half the time of -O3
    }
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(folder), *(f"-D{k}={v}" for k, v in options.items())],
        [cmake, "--build", str(folder), "--target", "gt_stress", "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "gt_stress"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["", "thread"], ids=["plain", "thread"])
def test_native_core_under_stress(tmp_path: Path, sanitizer: str) -> None:
    if sanitizer and not compiler_has(sanitizer, tmp_path):
        pytest.skip(f"this compiler has no -fsanitize={sanitizer}")
    program = build(tmp_path / "build", sanitizer)
    # Threads are the same for every instruction set; the watched run is slow.
    chosen = ["1", _native.available_isas()[0]] if sanitizer else ["1"]
    done = subprocess.run(
        [str(program), *chosen],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [_native.available_isas()[0]] if sanitizer else _native.available_isas()
    assert done.stdout.split("\n")[:-1] == [f"gt_stress: {isa} passed" for isa in passed]
