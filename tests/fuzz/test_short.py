"""Eighty damaged files of each kind, the same ones in every run; scripts/fuzz.py runs more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.pool import run_cases
from tests.fuzz.targets import TARGETS

CASES = 80
NEED_TORCH = ("networks", "track_params")
NEED_PILLOW = ("picture",)


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_are_read_or_refused(target: str, tmp_path: Path) -> None:
    if target in NEED_TORCH:
        pytest.importorskip("torch", reason="writes the files to damage")
    if target in NEED_PILLOW:
        pytest.importorskip("PIL", reason="writes the files to damage")
    summary, findings = run_cases(target, 0, CASES, tmp_path)
    assert not findings, findings
    assert summary.accepted + summary.refused == CASES
    assert summary.accepted > 0, "the damage is so great that nothing is reached"
    assert summary.refused > 0
    assert len(summary.places) >= 2, summary.places
