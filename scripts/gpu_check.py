#!/usr/bin/env python3
"""Builds the CUDA part on a machine with an NVIDIA GPU, tests it, watches it, measures it.

    python scripts/gpu_check.py                 what `make gpu-check` runs; under 8 minutes
    python scripts/gpu_check.py --without-gpu   the parts that need none: build, import, collect

It needs this checkout, Python 3.10 or newer, nvcc, CMake, a C++ compiler and the Python packages
numpy, safetensors, pybind11 and pytest; nothing is fetched. torch, cupy, numba, pycuda and
compute-sanitizer are used where they are. Each step has a limit of its own, and is reported as
done, failed or skipped with the reason. Exit status 1 when one failed. What was measured goes to
benchmarks/results/<gpu>-<date>.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 460.0
# Seconds, by step. On a machine with 16 cores; what is left of the total counts too.
LIMITS = {
    "facts": 20,
    "build": 200,
    "import": 30,
    "collect": 60,
    "kernels": 60,
    "tests": 150,
    "memcheck": 90,
    "racecheck": 90,
    "bench": 120,
}
_TAIL = 2000  # characters of a failed step's output that are kept


class Skip(Exception):  # noqa: N818
    """A step cannot be done here; the message says why."""


class Failed(Exception):  # noqa: N818
    """A step went wrong; the message is the end of its output."""


@dataclass
class Step:
    """What became of one."""

    name: str
    outcome: str = "skipped"
    seconds: float = 0.0
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Check:
    """One run.

    Attributes:
        build: folder of objects.
        library: where the compiled modules go.
        architecture: compute capability to compile for, without the dot.
    """

    needs_gpu: bool
    build: Path
    library: Path
    jobs: int
    started: float = field(default_factory=time.monotonic)
    architecture: str = "86"
    gpu: str = ""
    steps: list[Step] = field(default_factory=list)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> bool:
        """Runs one and says what became of it; whether it is done."""
        step = Step(name)
        begin = time.monotonic()
        try:
            step.facts = work()
            step.outcome = "done"
        except Skip as reason:
            step.reason = str(reason)
        except Failed as reason:
            step.outcome, step.reason = "failed", str(reason)
        step.seconds = round(time.monotonic() - begin, 1)
        self.steps.append(step)
        said = f": {step.reason}" if step.reason else ""
        print(f"{name:10} {step.outcome:8} {step.seconds:6.1f} s{said}", flush=True)
        return step.outcome == "done"

    def run(self, name: str, command: Sequence[str | Path], **environment: str) -> str:
        """A command within the step's limit. Raises: Failed, Skip."""
        left = TOTAL_SECONDS - (time.monotonic() - self.started)
        limit = min(float(LIMITS[name]), left)
        if limit < 5:
            raise Skip("no time is left of the total")
        try:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=ROOT,
                env={**os.environ, **self.environment(), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=limit,
            )
        except subprocess.TimeoutExpired as err:
            output = err.output.decode(errors="replace") if err.output else ""
            raise Failed(f"not done within {limit:.0f} s\n{output[-_TAIL:]}") from err
        except OSError as err:
            raise Failed(f"{command[0]}: {err}") from err
        if done.returncode != 0:
            raise Failed(f"exit status {done.returncode}\n{done.stdout[-_TAIL:]}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """The packages as the installed project has them, without an installation."""
        return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(self.build / "site")])}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--without-gpu", action="store_true", help="the parts that need no GPU")
    parser.add_argument("--build", type=Path, help="folder of objects (default: build/gpu)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--output", type=Path, help="the JSON file")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error("--jobs: at least 1")
    if arguments.output is not None and not arguments.output.parent.is_dir():
        parser.error(f"--output: no folder {arguments.output.parent}")
    build = (arguments.build or ROOT / "build" / "gpu").resolve()
    # Without a GPU the modules stay away from the checkout's own.
    library = build / "gt_infer" if arguments.without_gpu else ROOT / "gt_infer"
    check = Check(not arguments.without_gpu, build, library, arguments.jobs)

    found = check.step("facts", lambda: find_facts(check))
    built = check.step("build", lambda: build_modules(check, found))
    check.step("import", lambda: import_module(check, built))
    check.step("collect", lambda: collect_tests(check))
    check.step("kernels", lambda: run_kernels(check, built))
    check.step("tests", lambda: run_tests(check, built))
    for tool in ("memcheck", "racecheck"):
        check.step(tool, lambda tool=tool: sanitize(check, tool, built))  # type: ignore[misc]
    check.step("bench", lambda: measure(check, built))
    return finish(check, arguments.output)


def find_facts(check: Check) -> dict[str, Any]:
    """The GPU, and what is installed."""
    facts: dict[str, Any] = {"python": sys.version.split()[0], "cores": os.cpu_count()}
    packages = ("numpy", "safetensors", "pybind11", "pytest", "hypothesis")
    exchanged = ("torch", "cupy", "numba", "pycuda", "gsplat", "tensorrt", "tensorrt_rtx")
    for name in (*packages, *exchanged):
        facts[name] = importlib.util.find_spec(name) is not None
    facts["nvcc"] = _nvcc()
    facts["compute_sanitizer"] = _sanitizer()
    if not check.needs_gpu:
        return facts
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total"]
    line = check.run("facts", [*query, "--format=csv,noheader"]).splitlines()[0]
    name, capability, driver, memory = (part.strip() for part in line.split(","))
    check.gpu, check.architecture = name, capability.replace(".", "")
    return {**facts, "gpu": name, "capability": capability, "driver": driver, "memory": memory}


def build_modules(check: Check, found: bool) -> dict[str, Any]:
    """Both modules by CMake; and names for the packages."""
    if not found:
        raise Skip("no GPU was found (--without-gpu checks what needs none)")
    for name, found in (("nvcc", _nvcc()), ("cmake", shutil.which("cmake"))):
        if not found:
            raise (Failed if check.needs_gpu else Skip)(f"{name} is not there")
    if importlib.util.find_spec("pybind11") is None:
        raise (Failed if check.needs_gpu else Skip)("pybind11 is not installed")
    import pybind11

    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": check.library,
        "GT_BUILD_CUDA": "ON",
        "GT_BUILD_TESTS": "ON" if check.needs_gpu else "OFF",
        "GT_CUDA_ARCHITECTURES": check.architecture,
        # CI's compiler has no warnings; a machine's own may find new ones, and is here to test.
        "GT_WERROR": "OFF" if check.needs_gpu else "ON",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    if shutil.which("nvcc") is None:
        options["CMAKE_CUDA_COMPILER"] = _nvcc()
    generator = [] if (check.build / "CMakeCache.txt").exists() or not _ninja() else ["-G", "Ninja"]
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    check.run("build", ["cmake", "-S", ROOT, "-B", check.build, *generator, *definitions])
    targets = ["_cuda", "_cpu", "gt_cuda_kernels"] if check.needs_gpu else ["_cuda"]
    command = ["cmake", "--build", check.build, "--parallel", str(check.jobs), "--target"]
    check.run("build", [*command, *targets])
    site = check.build / "site"
    site.mkdir(exist_ok=True)
    for name, folder in (("gt_export", "export"), ("gt_bench", "benchmarks")):
        if not (site / name).exists():
            (site / name).symlink_to(ROOT / folder, target_is_directory=True)
    return {"architecture": check.architecture}


def import_module(check: Check, built: bool) -> dict[str, Any]:
    """That the module loads, and what it says."""
    if not built:
        raise Skip("nothing was built")
    code = (
        f"import sys, json; sys.path.insert(0, {str(check.library)!r}); import _cuda\n"
        "info = _cuda.build_info()\n"
        "try: info['devices'] = [_cuda.device_info(i) for i in range(_cuda.device_count())]\n"
        "except _cuda.UnavailableError as err: info['unavailable'] = str(err)\n"
        "print(json.dumps(info))"
    )
    info: dict[str, Any] = json.loads(check.run("import", [sys.executable, "-c", code]))
    if check.needs_gpu and not info.get("devices"):
        raise Failed(f"no device: {info.get('unavailable', 'none is listed')}")
    return info


def collect_tests(check: Check) -> dict[str, Any]:
    """That the GPU tests can be imported."""
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest is not installed")
    command = [sys.executable, "-m", "pytest", "--collect-only", "tests/gpu"]
    output = check.run("collect", [*command, "-p", "no:cacheprovider"])
    found = re.search(r"(\d+) tests? collected", output)
    if found is None:
        raise Failed(f"no tests were collected\n{output[-_TAIL:]}")
    return {"tests": int(found.group(1))}


def run_kernels(check: Check, built: bool) -> dict[str, Any]:
    """The kernels against the CPU engine, without Python: what CI does on the host."""
    _require(check, built)
    output = check.run("kernels", [check.build / "gt_cuda_kernels"])
    return {"summary": output.strip().splitlines()[-1]}


def run_tests(check: Check, built: bool) -> dict[str, Any]:
    """The GPU tests. One that is skipped says why, here too."""
    _require(check, built)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"]
    output = check.run("tests", [*command, "-p", "no:cacheprovider"], GT_REQUIRE_GPU="1")
    print("\n".join(line for line in output.splitlines() if line.startswith("SKIPPED")), flush=True)
    return {"summary": output.strip().splitlines()[-1]}


def sanitize(check: Check, tool: str, built: bool) -> dict[str, Any]:
    """Small scenes under one of compute-sanitizer's tools."""
    _require(check, built)
    sanitizer = _sanitizer()
    if sanitizer is None:
        raise Skip("compute-sanitizer is not there")
    scene = [sys.executable, ROOT / "tests" / "gpu" / "scene.py"]
    output = check.run(tool, [sanitizer, "--tool", tool, "--error-exitcode", "9", *scene])
    if "Device not supported" in output or "scenes drawn" not in output:
        raise Failed(output[-_TAIL:])
    return {"summary": " ".join(re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", output))}


def measure(check: Check, built: bool) -> dict[str, Any]:
    """gt-bench on the GPU."""
    _require(check, built)
    path = check.build / "bench.json"
    path.unlink(missing_ok=True)
    check.run("bench", [sys.executable, "-m", "gt_bench.gpu", "--json", path])
    found: dict[str, Any] = json.loads(path.read_text())
    print(json.dumps(found.get("summary", {}), indent=1), flush=True)
    return found


def finish(check: Check, output: Path | None) -> int:
    """Writes what there is. Returns the exit status."""
    outcomes = [step.outcome for step in check.steps]
    seconds = time.monotonic() - check.started
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in ("done", "failed", "skipped"))
    print(f"{counts} in {seconds:.0f} s", flush=True)
    if output is None and check.gpu:
        slug = re.sub(r"[^a-z0-9]+", "-", check.gpu.lower()).strip("-")
        output = ROOT / "benchmarks" / "results" / f"{slug}-{date.today().isoformat()}.json"
    if output is not None:
        report = {"seconds": round(seconds, 1), "steps": [asdict(step) for step in check.steps]}
        part = output.with_name(f"{output.name}.part")
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.replace(part, output)
        print(f"written: {output}", flush=True)
    return 1 if "failed" in outcomes else 0


def _require(check: Check, built: bool) -> None:
    if not check.needs_gpu:
        raise Skip("needs a GPU")
    if not built:
        raise Skip("nothing was built")


def _nvcc() -> str | None:
    return shutil.which("nvcc") or _existing("/usr/local/cuda/bin/nvcc")


def _sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or _existing("/usr/local/cuda/bin/compute-sanitizer")


def _existing(path: str) -> str | None:
    return path if os.access(path, os.X_OK) else None


def _ninja() -> bool:
    return shutil.which("ninja") is not None


if __name__ == "__main__":
    sys.exit(main())
