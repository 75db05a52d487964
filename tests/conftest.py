"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gt_infer import Avatar

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The trained checkpoints, dataset and speech that lie beside a developer's checkout."""
    path = ROOT.parent / "shared"
    if not (path / "checkpoints").is_dir():
        pytest.skip(f"the trained checkpoints are not at {path}; they are not part of the repo")
    return path


def _exported(checkpoint: Path, dataset: Path, folder: Path) -> Avatar:
    from gt_export.cli import main

    from gt_infer import Avatar

    path = folder / f"{checkpoint.name}.safetensors"
    assert main([str(checkpoint), "-o", str(path), "--dataset", str(dataset)]) == 0
    return Avatar.load(path)


@pytest.fixture(scope="session")
def avatar_a(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    """Checkpoint A through gt-export, fp32 storage."""
    pytest.importorskip("torch", reason="gt-export needs torch")
    folder = tmp_path_factory.mktemp("export")
    return _exported(shared / "checkpoints" / "A", shared / "dataset" / "anna", folder)


@pytest.fixture(scope="session")
def avatar_small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    """The random two-layer checkpoint through gt-export, fp32 storage."""
    pytest.importorskip("torch", reason="gt-export needs torch")
    folder = tmp_path_factory.mktemp("export")
    return _exported(shared / "checkpoints" / "small", shared / "dataset" / "anna", folder)


@pytest.fixture(scope="session")
def cuda_build() -> Path:
    """The CUDA part built with every warning an error, for one architecture and PTX. The folder
    stays, so that a second run compiles what changed."""
    for tool, way in (("nvcc", "is not on the PATH"), ("cmake", "is not installed")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} {way}: the CUDA part cannot be compiled here")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    folder = ROOT / "build" / "cuda"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": folder / "gt_infer",
        "GT_BUILD_CUDA": "ON",
        "GT_CUDA_ARCHITECTURES": "86",
        "GT_WERROR": "ON",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *(f"-D{k}={v}" for k, v in options.items())],
        ["cmake", "--build", str(folder), "--target", "_cuda", "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return folder


@pytest.fixture(scope="session")
def cuda_module(cuda_build: Path) -> ModuleType:
    """The compiled module, beside any that is installed."""
    (path,) = (cuda_build / "gt_infer").glob("_cuda.*.so")
    spec = importlib.util.spec_from_file_location("built._cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
