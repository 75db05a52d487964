"""What the lists of pyproject.toml and MANIFEST.in leave out would be missing from the wheel or the
sdist. scripts/wheel.sh tries those; this says at once which line is missing."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "pyproject.toml").read_text()
FOLDERS = {"gt_infer": "gt_infer", "gt_export": "export", "gt_bench": "benchmarks"}


def setting(pattern: str) -> list[str]:
    found = re.search(pattern, SETTINGS)
    assert found is not None, pattern
    result = ast.literal_eval(found[1])
    assert isinstance(result, list)
    return result


def test_every_package_is_listed() -> None:
    listed = set(setting(r"\npackages = (\[.*?\])"))
    there = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert there == listed


def test_every_data_file_is_listed() -> None:
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "gt_infer"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout of git")
    patterns = setting(r"\ngt_infer = (\[.*?\])")
    data = [Path(name).relative_to("gt_infer") for name in tracked if not name.endswith(".py")]
    assert data
    for name in data:
        assert any(name.match(pattern) for pattern in patterns), f"{name} would not be installed"


def test_the_sdist_has_what_cmake_reads() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text().splitlines()
    assert "include CMakeLists.txt" in manifest
    assert "graft csrc" in manifest
    needed = re.findall(r"\b(\w+/[\w/]+\.(?:cc|cu|cmake))\b", (ROOT / "CMakeLists.txt").read_text())
    assert len(needed) > 10
    for name in needed:
        assert name.startswith(("csrc/", "tests/native/")), name  # tests: GT_BUILD_TESTS alone


def test_nothing_is_tuned_to_the_machine_that_builds() -> None:
    for name in ("CMakeLists.txt", "setup.py", "Makefile", "scripts/wheel.sh"):
        assert "native" not in re.findall(r"-m(?:arch|tune|cpu)=(\w+)", (ROOT / name).read_text())
