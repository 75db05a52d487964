"""gt_bench.gpu on the stand-in: that every number is taken, and what is missing says why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from gt_bench import gpu

from gt_infer.avatar import save_avatar
from tests.fake_cuda import FakeCuda
from tests.synthetic import make_avatar


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_avatar(make_avatar(n=60), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_every_number_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gt_infer._cuda", FakeCuda())  # type: ignore[arg-type]
    output = tmp_path / "gpu.json"
    options = ["--seconds", "0.05", "--sessions", "3", "--json", str(output)]
    assert gpu.main([str(path), *options]) == 0
    found = json.loads(output.read_text())
    for name in ("sound_to_device_ms", "sound_to_host_ms"):
        assert 0 < found[name]["p50"] <= found[name]["p99"] <= found[name]["max"]
        assert found[name]["frames"] >= 1
    assert found["batched"]["sessions"] == found["sessions"]["sessions"] == 3
    for name in ("batched", "sessions"):
        assert found[name]["frames_per_second"] > 0
    assert found["memory_mb"] > 0
    assert found["fast_against_fp32"]["worst_psnr_db"] > 30
    assert [set(rival) for rival in found["rivals"]] == [{"name", "reason"}]
    assert found["summary"]["smallest ratio to a rival"] is None
    assert None not in [v for k, v in found["summary"].items() if "rival" not in k]


def test_without_a_gpu(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = FakeCuda()
    api.driver = 0
    monkeypatch.setitem(sys.modules, "gt_infer._cuda", api)  # type: ignore[arg-type]
    assert gpu.main([str(path)]) == 2
    assert "no NVIDIA driver" in capsys.readouterr().out
