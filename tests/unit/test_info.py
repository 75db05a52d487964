"""gt-info: avatars and machines, for people and for programs."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gt_infer import __version__, _native
from gt_infer.avatar import save_avatar
from gt_infer.cli import common, machine
from gt_infer.cli.info import main
from gt_infer.errors import InputError
from tests.synthetic import make_avatar

COMMAND = [sys.executable, "-c", "import sys; from gt_infer.cli.info import main; sys.exit(main())"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "anna.safetensors"
    save_avatar(make_avatar(n=1234, layers=2), path, "fp16")
    return path


# Avatars.


def test_an_avatar_for_people(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 0
    said = capsys.readouterr()
    for fact in (
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, fp16, sha256 ",
        "name       synthetic-0",
        "gaussians  1,234, SH degree 3",
        "2 attention layer(s) of 2 heads, 64 wide; tri-plane 32 x (16x16, 32x32)",
        "means, scales, quats, opacities, sh",
        "logmel29, 29 channels",
        "64x64, focal 149.76 px",
        "8 training frames: pitch ",
        "made from  seed: 0",
    ):
        assert fact in said.out
    assert said.err == ""


def test_an_avatar_for_programs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file"] == str(path)
    assert report["bytes"] == path.stat().st_size
    assert report["gaussians"] == 1234
    assert report["provenance"] == {"made_by": "tests", "seed": 0}
    assert report["camera"] == {"width": 64, "height": 64, "focal": 149.76}


def test_an_avatar_without_extras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    avatar = make_avatar(n=3, channels=44, torsos=0, heads=())
    path = tmp_path / "plain"
    save_avatar(dataclasses.replace(avatar, poses=None, licence="", provenance={}), path)
    assert main([str(path)]) == 0
    said = capsys.readouterr().out
    assert "(not stated)" in said
    assert "moves      nothing" in said
    assert "features, 44 channels (precomputed: gt-render --features)" in said
    assert "torso      none" in said
    assert "unknown: no dataset at export" in said


def test_what_a_stranger_wrote_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = dataclasses.replace(
        make_avatar(n=3),
        name="\x1b]0;owned\x07",
        licence="a\nfake line",
        provenance={"\x1b[2J": {"x": "\r\x1b[31m"}},
    )
    path = tmp_path / "evil"
    save_avatar(evil, path)
    assert main([str(path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\r" not in said
    assert "name       \\x1b]0;owned\\x07" in said
    assert "a\\nfake line" in said
    assert main([str(path), "--json"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert json.loads(said)["name"] == evil.name


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_file_that_is_none(
    json_flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere"), *json_flag]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path}/nowhere: no such file")
    assert said.err.count("\n") == 1


# This machine.


def test_this_machine_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gt_infer"] == __version__
    assert report["instruction_sets"] == _native.available_isas()
    assert report["build"] == _native.build_info()
    assert set(report["tensorrt"]) == {"tensorrt", "tensorrt_rtx"}
    assert report["engines"], "at least the CPU engine"
    assert report["auto"] == next(e for e in report["engines"] if e["available"])
    assert report["auto"]["reason"]
    assert isinstance(report["gpu"]["devices"], list)


def test_this_machine_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert f"instruction sets, the default first: {', '.join(_native.available_isas())}" in said
    assert 'auto       takes "' in said
    monkeypatch.setattr("gt_infer.engines.survey", list)
    assert main([]) == 0
    assert "auto       finds no engine" in capsys.readouterr().out


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    gpus = machine.find_gpus()
    assert gpus["devices"] == []
    assert gpus["reason"].startswith("no NVIDIA driver")


class FakeDriver:
    """libcuda as far as it is called: one device."""

    status = 0
    count = 1

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        return self._put(out, 13020)

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        return self._put(out, self.count)

    def cuDeviceGet(self, out: Any, index: int) -> int:  # noqa: N802
        return self._put(out, index)

    def cuDeviceGetName(self, out: Any, size: int, device: Any) -> int:  # noqa: N802
        out.value = b"NVIDIA Test"
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: Any) -> int:  # noqa: N802
        return self._put(out, 24 << 30)

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: Any) -> int:  # noqa: N802
        return self._put(out, {75: 8, 76: 9}[attribute])

    def _put(self, out: Any, value: int) -> int:
        out._obj.value = value
        return 0


def test_a_driver_lists_its_devices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    gpus = machine.find_gpus()
    assert gpus == {
        "devices": [{"name": "NVIDIA Test", "memory_bytes": 24 << 30, "compute_capability": "8.9"}],
        "driver_cuda": "13.2",
        "reason": None,
    }
    assert main([]) == 0
    line = "gpu        NVIDIA Test, 24 GiB, compute capability 8.9, driver for CUDA 13.2"
    assert line in capsys.readouterr().out
    driver.count = 0
    assert machine.find_gpus()["reason"] == "the NVIDIA driver lists no device"
    driver.status = 100
    assert "cuInit gives error 100" in machine.find_gpus()["reason"]


def test_tensorrt_is_found_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt_rtx").mkdir()
    (tmp_path / "tensorrt_rtx" / "__init__.py").write_text("raise RuntimeError('imported')")
    info = tmp_path / "tensorrt_rtx-1.5.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-rtx\nVersion: 1.5.0\n")
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.installed_version("tensorrt_rtx") == "1.5.0"
    assert machine.installed_version("tensorrt") == "unknown version"
    assert machine.installed_version("tensorrt_of_the_future") is None


def test_as_a_process_nothing_heavy_is_imported(path: Path) -> None:
    script = (
        "import sys; from gt_infer.cli.info import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'soundfile', 'soxr', 'av', 'tqdm', 'gt_export'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(status)"
    )
    for arguments in ([], [str(path)]):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.strip()) == (0, "set()")


def test_a_reader_that_has_seen_enough(path: Path) -> None:
    """As in `gt-info FILE | head -1`: no traceback, no noise."""
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    done = subprocess.run(
        [*COMMAND, str(path)], stdout=reader.stdin, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 2


def test_closed_output(path: Path) -> None:
    """As in `gt-info FILE >&- 2>&-`: nothing to say, nothing wrong."""
    command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *COMMAND, str(path)]
    assert subprocess.run(command, check=False).returncode == 0


# What every tool does alike.


def test_errors_become_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> int:
        raise error

    for error, status, line in (
        (InputError("x = 3: must be 2\x1b[2J"), 2, "error: x = 3: must be 2\\x1b[2J"),
        (OSError(28, "No space left on device", "/a/b"), 2, "error: /a/b: No space left on device"),
        (OSError("odd"), 2, "error: odd"),
        (MemoryError(), 2, "error: not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):
        assert common.run(lambda error=error: fail(error)) == status
        assert capsys.readouterr().err == f"{line}\n"
    assert common.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):  # a bug of ours keeps its traceback
        common.run(lambda: 1 // 0)
