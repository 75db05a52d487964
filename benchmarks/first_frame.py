"""From nothing to the first picture, and the memory of a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gt_infer.errors import EngineError

from .report import Case, FirstFrame
from .timing import median

__all__ = ["measure_first_frame"]

_CHILD = "gt_bench.first_frame_child"
_FRAMES = 100
_TIMEOUT_S = 300.0


def measure_first_frame(path: Path, case: Case, size: int | None, runs: int) -> FirstFrame:
    """Medians of `runs` fresh processes, one after the other.

    Args:
        path: of the avatar file.
        case: how to run it; `size` is the height asked for.

    Raises: EngineError: the process failed; its last words are in the message.
    """
    request = {
        "path": str(path),
        "frames": _FRAMES,
        "renderer": {"engine": case.engine, "size": size},
        "config": {"isa": case.isa, "threads": case.threads, "precision": case.precision},
    }
    children = [_run_child(request) for _ in range(runs)]

    def middle(name: str) -> float:
        return median([child[name] for child in children])

    return FirstFrame(
        case=case,
        runs=runs,
        process_ms=middle("process_ms"),
        renderer_ms=middle("renderer_ms"),
        frames=_FRAMES,
        resident_mb=middle("resident_mb"),
        peak_mb=middle("peak_mb"),
        growth_mb=middle("growth_mb"),
    )


def _run_child(request: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", _CHILD, json.dumps(request)]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            first = child.stdout.readline()
            process_ms = (time.perf_counter() - start) * 1e3
            rest, errors = child.communicate(timeout=_TIMEOUT_S)
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        last = errors.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise EngineError(f"a fresh process could not render {request['path']}: {last[0]}")
    return {"process_ms": process_ms, **json.loads(first), **json.loads(rest)}
