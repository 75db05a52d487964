"""Which machine this is, and how busy."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import gt_infer
from gt_infer import _native
from gt_infer.cli.machine import cpu_model, find_gpus

from .report import Machine

__all__ = [
    "core_seconds",
    "describe_machine",
    "is_quiet",
    "load_average",
    "machine_slug",
    "peak_mb",
    "resident_mb",
]

_MB = 1e6
_QUIET_WAIT = 0.05
_QUIET_LOAD = 0.25  # of the cores; where the wait is unknown


def describe_machine() -> Machine:
    """Everything that speed depends on and that can be asked without privileges."""
    build = _native.build_info()
    return Machine(
        cpu=cpu_model(),
        cores=_native.usable_cores(),
        instruction_sets=_native.available_isas(),
        memory_mb=_memory_mb(),
        gpus=[device["name"] for device in find_gpus()["devices"]],
        platform=platform.platform(),
        python=platform.python_version(),
        gt_infer=gt_infer.__version__,
        compiler=build["compiler"],
        commit=_commit(),
        load_before=load_average(),
    )


def machine_slug(machine: Machine) -> str:
    """A folder's name for results of machines like this one."""
    parts = [*machine.gpus[:1], machine.cpu, f"{machine.cores}-cores", machine.instruction_sets[0]]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def core_seconds() -> tuple[float, float] | None:
    """How long the threads of this process have run, and how long they waited for a core while
    they could have. None where the system does not tell."""
    ran = waited = 0
    try:
        for path in Path("/proc/self/task").glob("*/schedstat"):
            try:
                values = path.read_text().split()
            except (FileNotFoundError, ProcessLookupError):  # it ended just now
                continue
            ran, waited = ran + int(values[0]), waited + int(values[1])
    except (OSError, ValueError, IndexError):
        return None
    return (ran / 1e9, waited / 1e9) if ran else None


def is_quiet(machine: Machine) -> bool:
    """Whether nothing else of weight ran beside the measurement; unknown counts as quiet."""
    if machine.core_wait is not None:
        return machine.core_wait <= _QUIET_WAIT
    return machine.load_before is None or machine.load_before <= _QUIET_LOAD * machine.cores


def resident_mb() -> float:
    """Memory that this process occupies now; where the system does not tell, its peak."""
    found = _status_mb("VmRSS")
    return peak_mb() if found is None else found


def peak_mb() -> float:
    """The most memory that this process has occupied."""
    # Not getrusage on Linux: that counts the parent's memory before exec, too.
    found = _status_mb("VmHWM")
    if found is not None:
        return found
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024) / _MB


def _status_mb(name: str) -> float | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024 / _MB
    except (OSError, ValueError, IndexError):  # not Linux
        pass
    return None


def _memory_mb() -> float | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MB
    except (AttributeError, ValueError, OSError):
        return None


def _commit() -> str | None:
    """Of the checkout that gt_infer runs from, `-dirty` when it has changes; None without one."""
    folder = Path(gt_infer.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
