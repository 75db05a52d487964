"""Runs `harness` in processes of their own, and turns their deaths into findings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.harness import Finding, Summary, damaged
from tests.fuzz.targets import TARGETS

__all__ = ["Result", "file_of", "run_cases"]

ROOT = Path(__file__).resolve().parents[2]
# Large blocks go back to the system when they are freed: otherwise a case could use what an earlier
# one left, and its peak would not show.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

Result = tuple[Summary, list[Finding]]


def run_cases(target: str, first: int, stop: int, folder: Path) -> Result:
    """Cases first .. stop - 1, going on behind any that kills its process."""
    folder.mkdir(parents=True, exist_ok=True)
    summary, findings = Summary(), []
    while first < stop:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.harness"]
        command += [target, str(first), str(stop), str(folder)]
        progress, errors = folder / "progress", folder / "errors"
        progress.unlink(missing_ok=True)
        with open(errors, "wb") as stderr:
            child = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                check=False,
            )
        for line in child.stdout.splitlines():
            match json.loads(line):
                case {"finding": found}:
                    findings.append(Finding(**found))
                case {"summary": counts}:
                    summary.add(Summary(**counts))
        if child.returncode == 0:
            break
        tail = errors.read_bytes()[-2000:].decode(errors="replace")
        if not progress.exists():
            raise RuntimeError(f"{target}: the valid files are not read:\n{tail}")
        case = int(progress.read_text())
        kind = "hang" if "Timeout (" in tail else "crash"
        findings.append(Finding(target, case, kind, f"exit {child.returncode}: {tail}"))
        first = case + 1
    return summary, findings


def file_of(target: str, case: int) -> bytes:
    """What the reader was given."""
    kind = TARGETS[target]
    return damaged(kind, kind.seeds(), target, case)
