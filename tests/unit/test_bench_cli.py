"""gt-bench from end to end, on avatars that take no time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gt_bench import cli, latency, runner
from gt_bench.report_file import read_report, write_report
from gt_bench.runner import Amounts
from gt_bench.stream import STAGES

from gt_infer.avatar import save_avatar
from tests.synthetic import make_avatar

Run = Callable[..., int]


@pytest.fixture(scope="module")
def avatar_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("avatar") / "tiny.safetensors"
    save_avatar(make_avatar(n=300), path)
    return str(path)


@pytest.fixture
def bench(avatar_file: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """gt-bench on the tiny avatar without what takes seconds; options may bring some of it back."""

    def quick(**given: float) -> Amounts:
        return Amounts(**{**given, "first_frames": 0, "fidelity_frames": 5})  # type: ignore[arg-type]

    monkeypatch.setattr(cli, "Amounts", quick)

    def run(*options: str) -> int:
        words = [avatar_file, "--seconds", "0.1", "--sessions", "0", "--quiet", *options]
        return cli.main(words)

    return run


def test_everything(avatar_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user runs it: with a fresh process for the first frame, and real time for a session."""
    path = tmp_path / "report.json"
    options = ["--seconds", "0.2", "--sessions", "1", "--json", str(path), "--threads", "1"]
    assert cli.main([avatar_file, *options]) == 0
    out, err = capsys.readouterr()
    assert "... frame latency: 1 way to run" in err
    assert max(map(len, out.splitlines())) <= 80
    report = read_report(path)
    assert report.complete
    assert report.command.startswith(f"gt-bench {Path(avatar_file).name} --seconds 0.2")
    assert "/" not in report.command  # where files lay is nobody's business elsewhere
    (result,) = report.cases
    assert result.case.threads == 1
    assert (result.case.width, result.case.height) == (64, 64)
    assert result.clock == "sound"
    assert result.changed == 1.0
    assert set(result.stages) == set(STAGES)
    assert result.stages.pop("gpu") == 0
    assert all(value > 0 for value in result.stages.values())
    total = sum(result.stages.values())
    assert 0.5 * result.latency.p50 < total < 1.5 * result.latency.p50
    (first,) = report.first_frame
    assert first.process_ms > first.renderer_ms > 0
    assert first.peak_mb >= first.resident_mb > 10
    (sessions,) = report.sessions
    assert sessions.sustained in (0, 1)
    assert sessions.trials[0].frames <= 75
    (pictures,) = report.fidelity
    assert pictures.frames == 200
    assert {item.what for item in report.unavailable} >= {"engine tensorrt"}
    for words in ("from Renderer()", "at 25 FPS without a late frame", "pipelined", "published"):
        assert words in " ".join(out.split())


def test_a_stream_from_features(
    tmp_path: Path, bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    avatar = tmp_path / "deepspeech.safetensors"
    save_avatar(make_avatar(n=50, channels=44), avatar)
    words = [str(avatar), "--seconds", "0.1", "--sessions", "1", "--quiet"]
    assert cli.main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "one window of precomputed features in" in out
    assert "not here sessions:" in out


def test_ways_to_run(bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    status = bench(
        *("--size", "64,128", "--gaussians", "100,300", "--layers", "1,2", "--markdown"),
        *("--json", str(path)),
    )
    assert status == 0
    cases = [result.case for result in read_report(path).cases]
    assert len(cases) == len(set(cases)) == 8
    assert {case.height for case in cases} == {64, 128}
    assert {(case.gaussians, case.layers) for case in cases} == {
        (n, layers) for n in (100, 300) for layers in (1, 2)
    }
    assert "| cpu" in capsys.readouterr().out


def slowed(path: Path, factor: float) -> None:
    report = read_report(path)
    report.cases = [
        dataclasses.replace(result, round_ms=[factor * value for value in result.round_ms])
        for result in report.cases
    ]
    write_report(report, path)


def test_compare(bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The older run is doctored, so that the machine's mood decides nothing."""
    old = tmp_path / "old.json"
    assert bench("--json", str(old)) == 0
    capsys.readouterr()
    slowed(old, 100.0)
    assert bench("--compare", str(old)) == 0
    out, err = capsys.readouterr()
    assert "Compared with" in out
    assert err == ""
    slowed(old, 1e-4)
    assert bench("--compare", str(old)) == 1
    out, err = capsys.readouterr()
    assert "WORSE" in out
    assert err.startswith("slower: frame, cpu: ")


def test_compare_with_another_avatar_is_refused_before_measuring(
    bench: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = tmp_path / "old.json"
    assert bench("--json", str(old)) == 0
    report = read_report(old)
    report.avatar = dataclasses.replace(report.avatar, sha256="0" * 64)
    write_report(report, old)
    capsys.readouterr()
    monkeypatch.setattr(cli, "measure", lambda *_: pytest.fail("it measured"))
    assert bench("--compare", str(old)) == 2
    assert "another avatar" in capsys.readouterr().err


def test_what_cannot_be_compared_is_printed_all_the_same(
    bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    assert bench("--json", str(old), "--threads", "1") == 0
    capsys.readouterr()
    assert bench("--compare", str(old), "--threads", "2") == 2
    out, err = capsys.readouterr()
    assert "Frame latency" in out
    assert "no way to run in common" in err


def test_ctrl_c_keeps_what_was_measured(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "measure_fidelity", interrupted)
    path = tmp_path / "report.json"
    assert bench("--json", str(path)) == 130
    out = capsys.readouterr().out
    assert "interrupted: this is what was measured so far" in " ".join(out.split())
    assert "Frame latency" in out
    report = read_report(path)
    assert not report.complete
    assert len(report.cases) == 1


def test_ctrl_c_between_rounds(
    bench: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole rounds count; a way to run that had none is not in the table."""
    rounds = []
    measure = latency._Tally.measure

    def counted(self: latency._Tally, seconds: float) -> None:
        if len(rounds) == 1:
            raise KeyboardInterrupt
        rounds.append(seconds)
        measure(self, seconds)

    monkeypatch.setattr(latency._Tally, "measure", counted)
    assert bench("--threads", "1,2") == 130
    out = capsys.readouterr().out
    assert "Frame latency" in out
    assert "cpu 2t" not in out


def test_ctrl_c_before_anything(
    bench: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: object, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency.LatencyRun, "run", interrupted)
    assert bench() == 130
    assert "Frame latency" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "cuda"], "--engine cuda: "),
        (["--engine", "tensorrt"], "--engine tensorrt: "),
        (["--isa", "sse9"], "--isa sse9: this machine and build have"),
        (["--size", "8"], "64 to 2048"),
        (["--size", "4096"], "64 to 2048"),
        (["--threads", "0"], "threads = 0"),
        (["--precision", "int4"], "--precision int4: must be one of fast, fp32"),
        (["--gaussians", "0"], "gaussians = 0"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder: no such directory"),
        (["--json", "/"], "is a directory"),
        (["--compare", "/no/such.json"], "/no/such.json"),
    ],
)
def test_refusals(
    bench: Run, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert bench(*options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "quantum"], "invalid choice: 'quantum'"),
        (["--size", "512,big"], "expected whole numbers separated by commas"),
        (["--seconds", "-1"], "expected a number from 0.1 to 3600"),
        (["--seconds", "nan"], "expected a number"),
        (["--threshold", "x"], "expected a number"),
    ],
)
def test_usage(
    bench: Run, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench(*options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_no_such_avatar(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["/no/such.safetensors"]) == 2
    assert "/no/such.safetensors" in capsys.readouterr().err


def test_plots_need_matplotlib_before_minutes_are_spent(
    bench: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(cli, "measure", lambda *_: pytest.fail("it measured"))
    assert bench("--plot", str(tmp_path / "x.png")) == 2
    assert "pip install 'gt-infer[bench]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_plot(bench: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are matplotlib's")
    from PIL import Image

    path = tmp_path / "plot.png"
    assert bench("--plot", str(path), "--gaussians", "100,300", "--threads", "1,2") == 0
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]
    with Image.open(path) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50


def test_missing_peers_are_named(
    bench: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "gt_bench.peers.torch_splatter", raising=False)
    path = tmp_path / "report.json"
    assert bench("--peers", "--json", str(path)) == 0
    report = read_report(path)
    assert report.peers == []
    missing = {item.what: item.reason for item in report.unavailable}
    assert "pip install 'gt-infer[bench]'" in missing["peer networks"]
    assert "Peers:" not in capsys.readouterr().out


def test_gt_infer_does_not_depend_on_it() -> None:
    code = "import gt_bench.cli, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    for heavy in ("torch", "matplotlib", "onnxruntime", "openvino", "gt_export"):
        assert heavy not in loaded


def test_history(bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="plots are matplotlib's")
    from gt_bench import history

    assert history.main([str(tmp_path)]) == 2
    assert "no <machine>/bench-*.json" in capsys.readouterr().err
    machine = tmp_path / "some-machine"
    machine.mkdir()
    assert bench("--json", str(machine / "bench-1.json")) == 0
    races = [{"name": "bench_deform", "ratio": 4.5}]
    record = {"created": "2026-11-22T18:00:00+00:00", "races": races}
    (machine / "suites-1.json").write_text(json.dumps(record))
    assert history.main([str(tmp_path)]) == 0
    assert (machine / "history.png").stat().st_size > 10_000
    (machine / "suites-2.json").write_text("{}")
    assert history.main([str(tmp_path)]) == 2
    assert "suites-2.json" in capsys.readouterr().err
