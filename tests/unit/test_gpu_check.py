"""`make gpu-check`, as far as it can go without a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gt_infer.cli.machine import find_gpus

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_parts_that_need_no_gpu(cuda_build: Path, tmp_path: Path) -> None:
    output = tmp_path / "check.json"
    command = [sys.executable, SCRIPT, "--without-gpu", "--build", cuda_build, "--jobs", "2"]
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    steps = {step["name"]: step for step in report["steps"]}
    assert {name: step["outcome"] for name, step in steps.items()} == {
        "facts": "done",
        "build": "done",
        "import": "done",
        "collect": "done",
        "kernels": "skipped",
        "tests": "skipped",
        "memcheck": "skipped",
        "racecheck": "skipped",
        "bench": "skipped",
    }
    assert steps["tests"]["reason"] == "needs a GPU"
    assert steps["import"]["facts"]["architectures"] == "86"
    assert steps["collect"]["facts"]["tests"] > 50
    if find_gpus()["driver_cuda"] is None:
        assert "Install a driver" in steps["import"]["facts"]["unavailable"]
    assert "4 done, 0 failed, 5 skipped" in done.stdout


def test_without_a_gpu_it_says_so_and_builds_nothing(tmp_path: Path) -> None:
    if find_gpus()["devices"]:
        pytest.skip("this machine has a GPU")
    command = [sys.executable, SCRIPT, "--build", tmp_path / "build"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nvidia-smi" in done.stdout
    assert "no GPU was found" in done.stdout
    assert "written" not in done.stdout
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--jobs", "0"], "--jobs: at least 1"),
        (["--jobs", "many"], "invalid int value"),
        (["--output", "no/such/folder/x.json"], "no folder no/such/folder"),
        (["--with-gpu"], "unrecognized arguments"),
    ],
)
def test_arguments(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.fixture
def check(script: Any, tmp_path: Path) -> Any:
    return script.Check(needs_gpu=True, build=tmp_path, library=tmp_path, jobs=1)


def test_a_step_has_its_limit(script: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.LIMITS, "tests", 5)
    code = "import time; print('so far', flush=True); time.sleep(60)"
    start = time.monotonic()
    assert not check.step(
        "tests", lambda: {"said": check.run("tests", [sys.executable, "-c", code])}
    )
    assert time.monotonic() - start < 30
    (step,) = check.steps
    assert step.outcome == "failed"
    assert step.reason.startswith("not done within 5 s")
    assert "so far" in step.reason


def test_what_became_of_the_steps(script: Any, check: Any, tmp_path: Path) -> None:
    python = sys.executable
    assert check.step("import", lambda: {"said": check.run("import", [python, "-c", "print(1)"])})
    broken = [python, "-c", "import sys; print('broken'); sys.exit(3)"]
    assert not check.step("tests", lambda: {"said": check.run("tests", broken)})
    assert not check.step("build", lambda: {"said": check.run("build", ["no-such-program"])})

    def nothing() -> dict[str, Any]:
        raise script.Skip("not there")

    assert not check.step("bench", nothing)
    check.started -= script.TOTAL_SECONDS
    assert not check.step("memcheck", lambda: check.run("memcheck", [python, "-c", ""]))
    assert [(step.outcome, step.reason.split("\n")[0]) for step in check.steps] == [
        ("done", ""),
        ("failed", "exit status 3"),
        ("failed", check.steps[2].reason),
        ("skipped", "not there"),
        ("skipped", "no time is left of the total"),
    ]
    assert "no-such-program" in check.steps[2].reason
    output = tmp_path / "x.json"
    assert script.finish(check, output) == 1
    assert json.loads(output.read_text())["steps"][1]["outcome"] == "failed"
    assert list(tmp_path.glob("*.part")) == []


def test_a_sanitizer_that_cannot_look_is_a_failure(
    script: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_sanitizer", lambda: None)
    with pytest.raises(script.Skip, match="compute-sanitizer is not there"):
        script.sanitize(check, "memcheck", True)
    monkeypatch.setattr(script, "_sanitizer", lambda: "/bin/true")
    for output in ("Device not supported\n6 scenes drawn", "nothing"):
        monkeypatch.setattr(check, "run", lambda name, command, output=output: output)
        with pytest.raises(script.Failed):
            script.sanitize(check, "memcheck", True)
    said = "6 scenes drawn\n========= ERROR SUMMARY: 0 errors\n"
    monkeypatch.setattr(check, "run", lambda name, command: said)
    assert script.sanitize(check, "memcheck", True) == {"summary": "ERROR SUMMARY: 0 errors"}


def test_limits_are_within_eight_minutes(script: Any) -> None:
    assert script.TOTAL_SECONDS < 8 * 60
