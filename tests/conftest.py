"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path
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
