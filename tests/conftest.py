"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The trained checkpoints, dataset and speech that lie beside a developer's checkout."""
    path = ROOT.parent / "shared"
    if not (path / "checkpoints").is_dir():
        pytest.skip(f"the trained checkpoints are not at {path}; they are not part of the repo")
    return path
