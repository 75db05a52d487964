"""gt-bench's arithmetic, words and files, on made-up timings."""

from __future__ import annotations

import dataclasses
import json
import mmap
import re
import time
import typing
from pathlib import Path

import numpy as np
import pytest
from gt_bench import workload
from gt_bench.compare import compare
from gt_bench.machine import core_seconds, is_quiet, machine_slug, peak_mb, resident_mb
from gt_bench.plan import Choices, choose_engines, choose_isas, make_ways
from gt_bench.report import (
    SCHEMA,
    AvatarFacts,
    Case,
    CaseResult,
    Fidelity,
    FirstFrame,
    Machine,
    Peer,
    Ratio,
    Report,
    Sessions,
    SessionTrial,
    Unavailable,
)
from gt_bench.report_file import read_report, to_json, write_report
from gt_bench.sections import number, sections_of
from gt_bench.sessions import search_upward
from gt_bench.stream import STAGES
from gt_bench.synthetic import resembling
from gt_bench.table import WIDTH, as_markdown, as_text
from gt_bench.timing import interleave, paired_ratio, summarize
from hypothesis import given
from hypothesis import strategies as st

from gt_infer.errors import EngineError, InputError
from tests.synthetic import make_avatar

ROOT = Path(__file__).resolve().parents[2]


def a_case(**changes: typing.Any) -> Case:
    facts = {
        "engine": "cpu",
        "isa": "avx512",
        "threads": 2,
        "precision": "fast",
        "width": 512,
        "height": 512,
        "avatar": "anna",
        "gaussians": 36448,
        "layers": 1,
    }
    return Case(**{**facts, **changes})


def a_result(case: Case, round_ms: list[float], changed: float = 1.0) -> CaseResult:
    frame_ms = [value for value in round_ms for _ in range(5)]
    return CaseResult(
        case=case,
        clock="sound",
        latency=summarize(frame_ms),
        stages=dict.fromkeys(STAGES, round_ms[0] / len(STAGES)),
        round_ms=round_ms,
        frame_ms=frame_ms,
        changed=changed,
        mean_change=0.5,
    )


def a_report(*results: CaseResult, memory: float = 90.0, **changes: typing.Any) -> Report:
    """A full one: every kind of finding is in it."""
    machine = Machine(
        cpu="AMD EPYC 9755 128-Core Processor",
        cores=2,
        instruction_sets=["avx512", "avx2", "portable"],
        memory_mb=24000.0,
        gpus=["NVIDIA GeForce RTX 4090"],
        platform="Linux",
        python="3.11.7",
        gt_infer="0.1.0",
        compiler="GNU 12.2.0",
        commit="0123abcd-dirty",
        load_before=0.1,
        load_after=1.5,
    )
    case = results[0].case if results else a_case()
    facts: dict[str, typing.Any] = {
        "created": "2026-11-22T18:00:00+00:00",
        "command": "gt-bench",
        "machine": machine,
        "avatar": AvatarFacts(
            name="anna", origin="workload", sha256="af" * 32, gaussians=36448, layers=1
        ),
        "complete": True,
        "seconds": 50.0,
        "cases": list(results),
        "first_frame": [
            FirstFrame(
                case=case,
                runs=3,
                process_ms=400.0,
                renderer_ms=200.0,
                frames=100,
                resident_mb=memory,
                peak_mb=120.0,
                growth_mb=0.1,
            )
        ],
        "sessions": [
            Sessions(
                case=case,
                what="sessions of one Renderer",
                sustained=2,
                is_limit=False,
                trials=[
                    SessionTrial(sessions=2, frames=150, late=0, p50=11.0, p99=20.0, max=22.0),
                    SessionTrial(sessions=4, frames=30, late=1, p50=30.0, p99=41.0, max=44.0),
                ],
            )
        ],
        "fidelity": [
            Fidelity(case=case, frames=200, identical=3, mean_psnr_db=48.12, worst_psnr_db=44.46)
        ],
        "peers": [
            Peer(
                name="torch.compile + torch splatter",
                version="2.13.0",
                stage="frame",
                batch=1,
                threads=2,
                ours_ms=20.0,
                peer_ms=1234.5,
                ratio=Ratio(median=61.7, low=55.0, high=70.0, pairs=15),
                error=1.0,
                error_of="of 255",
            )
        ],
        "unavailable": [Unavailable(what="engine cuda", reason="not in this version")],
    }
    return Report(**{**facts, **changes})


class TestArithmetic:
    def test_summary(self) -> None:
        latency = summarize([10.0] * 98 + [50.0, 90.0])
        assert latency.p50 == latency.p90 == 10.0
        assert latency.max == 90.0
        assert latency.frames == 100
        assert latency.missed == 2
        assert latency.fps == pytest.approx(1000 * 100 / (980 + 140))

    def test_forty_milliseconds_are_in_time(self) -> None:
        assert summarize([40.0, 40.001]).missed == 1

    def test_paired_ratio_takes_the_median_of_pairs(self) -> None:
        # A neighbour slows the second pair tenfold: the ratios stay.
        ratio = paired_ratio([20.0, 200.0, 22.0], [10.0, 100.0, 10.0])
        assert ratio.median == pytest.approx(2.0)
        assert ratio.pairs == 3
        assert 2.0 <= ratio.low <= ratio.median <= ratio.high <= 2.2

    def test_interleaving_turns_around(self) -> None:
        calls: list[str] = []
        pauses: list[int] = []
        times = interleave(
            [lambda: calls.append("A"), lambda: calls.append("B")],
            3,
            between=lambda: pauses.append(len(calls)),
        )
        assert "".join(calls) == "AB" + "ABBAAB"
        assert pauses == [2, 3, 4, 5, 6, 7]
        assert [len(each) for each in times] == [3, 3]

    def test_interleaving_ends_when_time_is_up(self) -> None:
        times = interleave([lambda: None], 1000, seconds=0.0)
        assert len(times[0]) == 3

    @given(capacity=st.integers(0, 70), most=st.integers(1, 64))
    def test_search_upward_finds_the_capacity(self, capacity: int, most: int) -> None:
        tried: list[int] = []

        def holds(count: int) -> bool:
            tried.append(count)
            return count <= capacity

        assert search_upward(holds, most) == min(capacity, most)
        assert len(tried) == len(set(tried)) <= 2 * most.bit_length() + 1
        assert all(1 <= count <= most for count in tried)

    def test_waiting_for_a_core_is_measured(self) -> None:
        before = core_seconds()
        if before is None:
            pytest.skip("this system does not tell")
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        after = core_seconds()
        assert after is not None
        assert after[0] - before[0] >= 0.045
        assert after[1] >= before[1]

    def test_memory_is_measured(self) -> None:
        before = resident_mb()
        block = mmap.mmap(-1, 20_000_000)  # fresh pages, whatever the heap has to spare
        block.write(b"x" * 20_000_000)
        assert resident_mb() - before > 15
        assert peak_mb() >= resident_mb() - 1
        block.close()


WAYS = [
    a_result(
        a_case(isa=isa, threads=t, width=s, height=s, gaussians=n, layers=layers, precision=p),
        [1234.5, 1300.0],
    )
    for isa in ("avx512", "portable")
    for t in (2, 128)
    for s in (512, 2048)
    for n in (9000, 1_000_000)
    for layers in (1, 2)
    for p in ("fast", "fp32")
]


class TestTable:
    @pytest.mark.parametrize("ways", [WAYS, WAYS[:1], []], ids=len)
    def test_fits_eighty_columns(self, ways: list[CaseResult]) -> None:
        text = as_text(sections_of(a_report(*ways)))
        assert max(map(len, text.splitlines())) <= WIDTH == 80
        for word in ("36,448 Gaussians", "af" * 8, "44.5 dB", "61.7x", "engine cuda"):
            assert word in " ".join(text.split())

    def test_markdown_has_whole_tables(self) -> None:
        text = as_markdown(sections_of(a_report(*WAYS[:2])))
        for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
            rows = block.strip().split("\n")
            assert len({row.count("|") for row in rows}) == 1
            assert re.fullmatch(r"\|(---:?\|)+", rows[1])

    def test_says_what_differs_and_no_more(self) -> None:
        results = [a_result(a_case(isa=isa), [10.0]) for isa in ("avx512", "avx2")]
        text = as_text(sections_of(a_report(*results)))
        assert re.search(r"^cpu avx2 +10", text, re.M)
        assert "L=1" not in text

    def test_published_figures_stand_beside_ours(self) -> None:
        two = a_case(layers=2, avatar="synthetic: anna with 2 layers")
        text = as_text(sections_of(a_report(a_result(a_case(), [20.0]), a_result(two, [25.0]))))
        assert re.search(r"GaussianTalker, 2 layer\(s\) \(synthetic\) +98 +40.0", text)
        assert re.search(r"GaussianTalker\*, 1 layer\(s\) +121 +50.0", text)
        assert "24 GB GPU, batch 128" in " ".join(text.split())

    def test_other_sizes_do_not_enter_the_papers_column(self) -> None:
        small = a_result(a_case(width=256, height=256), [5.0])
        fewer = a_result(a_case(gaussians=9000), [5.0])
        text = as_text(sections_of(a_report(small, fewer)))
        assert re.search(r"GaussianTalker\*, 1 layer\(s\) +121 +-$", text, re.M)

    def test_warns_of_pictures_that_stand_still(self) -> None:
        text = as_text(sections_of(a_report(a_result(a_case(), [20.0], changed=0.25))))
        assert "75% of the pictures were the same" in " ".join(text.split())

    def test_tells_a_busy_machine_and_an_interruption(self) -> None:
        report = a_report(a_result(a_case(), [20.0]))
        text = as_text(sections_of(report))
        assert "busy" not in text
        assert "interrupted" not in text
        busy = dataclasses.replace(report.machine, core_wait=0.25)
        text = as_text(sections_of(a_report(machine=busy, complete=False)))
        assert "busy (25% of the threads' time went into waiting" in " ".join(text.split())
        assert "interrupted" in text

    def test_load_decides_where_waiting_is_unknown(self) -> None:
        machine = dataclasses.replace(a_report().machine, load_before=1.9)
        assert not is_quiet(machine)
        assert is_quiet(dataclasses.replace(machine, core_wait=0.01))
        assert not is_quiet(dataclasses.replace(machine, load_before=0.0, core_wait=0.2))

    def test_a_hostile_name_cannot_steer_the_terminal(self) -> None:
        facts = AvatarFacts(name="a\x1b[2Jb", origin="file", sha256="0" * 64, gaussians=5, layers=1)
        text = as_text(sections_of(a_report(a_result(a_case(), [9.0]), avatar=facts)))
        assert "\x1b" not in text
        assert "a\\x1b[2Jb" in text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.0, "0"), (0.0123, "0.012"), (1.2345, "1.23"), (12.345, "12.3"), (123.4, "123")],
    )
    def test_numbers(self, value: float, text: str) -> None:
        assert number(value) == text


class TestReportFile:
    def test_comes_back(self, tmp_path: Path) -> None:
        report = a_report(a_result(a_case(), [20.0, 21.0]))
        write_report(report, tmp_path / "r.json")
        back = read_report(tmp_path / "r.json")
        assert to_json(back) == to_json(report)
        assert (back.cases[0].case, back.unavailable) == (report.cases[0].case, report.unavailable)
        assert [path.name for path in tmp_path.iterdir()] == ["r.json"]

    def test_keeps_four_digits(self) -> None:
        report = a_report(a_result(a_case(), [20.0]), seconds=12.345678)
        assert to_json(report)["seconds"] == 12.35
        assert next(iter(to_json(report))) == "schema"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"schema": SCHEMA + 1}, f"this gt-bench reads {SCHEMA}"),
            ({"extra": 1}, "report.extra is not known"),
            ({"seconds": "12"}, "report.seconds: expected float, got '12'"),
            ({"seconds": True}, "report.seconds: expected float"),
            ({"complete": 1}, "report.complete: expected bool"),
            ({"cases": [{}]}, r"report.cases\[0\].case is missing"),
            ({"machine": None}, "report.machine: expected an object"),
        ],
    )
    def test_refuses_what_is_not_one(
        self, tmp_path: Path, change: dict[str, object], message: str
    ) -> None:
        path = tmp_path / "r.json"
        path.write_text(json.dumps({**to_json(a_report()), **change}))
        with pytest.raises(InputError, match=message) as caught:
            read_report(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize(
        "text", ["", "{", "[1]", "[" * 100_000, '{"schema": 1, "seconds": NaN}']
    )
    def test_refuses_noise(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "r.json"
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_report(path)

    def test_docs_describe_every_field(self) -> None:
        text = (ROOT / "docs" / "benchmarking.md").read_text()
        described = set(re.findall(r"^\| `([a-z_.\[\]0-9]+)`", text, re.M))
        assert described == set(paths(Report, ""))

    def test_docs_name_the_schema_version(self) -> None:
        assert f"`schema` {SCHEMA}" in (ROOT / "docs" / "benchmarking.md").read_text()


def paths(kind: typing.Any, prefix: str) -> list[str]:
    """Dotted names of all leaves of a report; a `case` is one leaf, its own fields are listed as
    `case.engine` and so on."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        inner, path = hint, f"{prefix}{name}"
        if typing.get_origin(hint) is list and dataclasses.is_dataclass(typing.get_args(hint)[0]):
            inner, path = typing.get_args(hint)[0], f"{path}[]"
        if inner is Case:
            found += paths(Case, "case.") if prefix == "cases[]." else []
        elif dataclasses.is_dataclass(inner):
            found += paths(inner, f"{path}.")
        else:
            found.append(path)
    return found


class TestCompare:
    """Synthetic timings: 8 rounds, 4 % noise, and now and then a round beside a busy neighbour."""

    def rounds(self, seed: int, ms: float) -> list[float]:
        rng = np.random.default_rng(seed)
        noise = rng.normal(1.0, 0.04, 8)
        noise[rng.random(8) < 0.15] *= 1.6
        return [float(value) for value in ms * noise]

    def report(self, seed: int, ms: float, **changes: typing.Any) -> Report:
        return a_report(a_result(a_case(), self.rounds(seed, ms)), **changes)

    @pytest.mark.parametrize("seed", range(40))
    def test_catches_a_slowdown_of_20_percent(self, seed: int) -> None:
        found = compare(self.report(seed, 20.0), self.report(1000 + seed, 24.0), 0.10)
        assert len(found.slower) == 1
        assert "frame" in found.slower[0]
        assert "WORSE" in as_text([found.section])

    @pytest.mark.parametrize("seed", range(40))
    def test_is_quiet_on_a_repeat(self, seed: int) -> None:
        found = compare(self.report(seed, 20.0), self.report(1000 + seed, 20.0), 0.10)
        assert found.slower == []
        assert "WORSE" not in as_text([found.section])

    def test_is_quiet_when_faster(self) -> None:
        assert compare(self.report(0, 20.0), self.report(1, 10.0), 0.10).slower == []

    def test_a_busy_minute_is_no_slowdown(self) -> None:
        # Half of the rounds are as fast as they ever were.
        old, new = a_result(a_case(), [20.0] * 8), a_result(a_case(), [20.0, 30.0] * 4)
        assert compare(a_report(old), a_report(new), 0.10).slower == []

    def test_threshold_is_the_callers(self) -> None:
        old, new = self.report(0, 20.0), self.report(1, 24.0)
        assert compare(old, new, 0.30).slower == []

    def test_only_the_slower_way_is_named(self) -> None:
        one, other = a_case(isa="avx512"), a_case(isa="avx2")
        old = a_report(a_result(one, [20.0] * 4), a_result(other, [40.0] * 4))
        new = a_report(a_result(one, [20.0] * 4), a_result(other, [50.0] * 4))
        found = compare(old, new, 0.10)
        assert found.slower == ["frame, cpu avx2: 25% slower"]

    def test_memory(self) -> None:
        result = a_result(a_case(), [20.0] * 4)
        found = compare(a_report(result, memory=100.0), a_report(result, memory=130.0), 0.10)
        assert found.slower == ["memory: 30% more"]

    def test_another_avatar_cannot_be_compared(self) -> None:
        other = AvatarFacts(name="bob", origin="file", sha256="0" * 64, gaussians=9, layers=1)
        with pytest.raises(InputError, match=r"another avatar \(bob"):
            compare(self.report(0, 20.0, avatar=other), self.report(1, 20.0), 0.10)

    def test_nothing_in_common(self) -> None:
        old = a_report(a_result(a_case(threads=1), [20.0]))
        with pytest.raises(InputError, match="no way to run in common"):
            compare(old, self.report(0, 20.0), 0.10)

    def test_says_so_on_another_machine(self) -> None:
        old = self.report(0, 20.0)
        old.machine = dataclasses.replace(old.machine, cpu="a faster one")
        found = compare(old, self.report(1, 30.0), 0.10)
        assert "about the machines" in as_text([found.section])
        assert found.slower


class TestWorkload:
    def test_frozen_file_is_the_one_that_results_are_about(self) -> None:
        path, origin = workload.find_avatar(None)
        assert (path, origin) == (workload.WORKLOAD_PATH, "workload")

    def test_a_changed_file_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = tmp_path / "anna.safetensors"
        changed.write_bytes(workload.WORKLOAD_PATH.read_bytes()[:-1] + b"x")
        monkeypatch.setattr(workload, "WORKLOAD_PATH", changed)
        with pytest.raises(InputError, match=r"the frozen workload has af64fd2fba901930"):
            workload.find_avatar(None)

    def test_without_the_repository_it_is_the_demo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workload, "WORKLOAD_PATH", ROOT / "no" / "such.safetensors")
        path, origin = workload.find_avatar(None)
        assert path.name == "demo.safetensors"
        assert origin == "demo"

    def test_the_voice_is_always_the_same(self) -> None:
        voice = workload.speech(2.0)
        again = workload.speech.__wrapped__(2.0)
        np.testing.assert_array_equal(voice, again)
        assert voice.shape == (32_000,)
        assert 0.02 < np.sqrt(np.square(voice).mean()) < 0.3
        assert np.abs(voice).max() <= 1
        assert not voice.flags.writeable

    def test_the_head_moves_and_blinks(self) -> None:
        avatar = make_avatar(n=5)
        poses = {workload.pose(avatar, frame).euler for frame in range(100)}
        assert len(poses) == 100
        assert sum(workload.blink(frame) > 0 for frame in range(150)) == 10
        nowhere = dataclasses.replace(avatar, poses=None)
        assert not workload.pose(nowhere, 3).relative


class TestSynthetic:
    AVATAR = make_avatar(n=700)

    def test_is_the_avatar_itself_when_nothing_differs(self) -> None:
        assert resembling(self.AVATAR) is self.AVATAR
        assert resembling(self.AVATAR, gaussians=700, layers=1) is self.AVATAR

    @pytest.mark.parametrize("count", [1, 100, 699, 701, 1400, 5000])
    def test_any_number_like_the_original(self, count: int) -> None:
        made = resembling(self.AVATAR, gaussians=count)
        assert len(made) == count
        assert made.name.startswith("synthetic: synthetic-0")
        assert made.sha256 == ""
        old, new = self.AVATAR.gaussians, made.gaussians
        if count >= 100:
            # What is covered stays: n Gaussians of the squared size.
            def area(cloud: typing.Any) -> float:
                return float(len(cloud.means) * np.exp(2 * cloud.log_scales).mean())

            assert area(new) == pytest.approx(area(old), rel=0.15)
            np.testing.assert_allclose(new.means.std(0), old.means.std(0), rtol=0.25)
            assert new.logit_opacities.mean() == pytest.approx(old.logit_opacities.mean(), abs=0.5)

    def test_copies_are_displaced_and_originals_stay(self) -> None:
        made = resembling(self.AVATAR, gaussians=1400).gaussians.means
        originals = {tuple(mean) for mean in self.AVATAR.gaussians.means}
        assert sum(tuple(mean) in originals for mean in made) == 700
        assert len({tuple(mean) for mean in made}) == 1400

    def test_seed_decides(self) -> None:
        one, same, other = (
            resembling(self.AVATAR, gaussians=300, seed=seed).gaussians.means for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_layers_repeat(self) -> None:
        layers = resembling(self.AVATAR, layers=3).network.layers
        assert len(layers) == 3
        assert all(layer is self.AVATAR.network.layers[0] for layer in layers)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"gaussians": 0}, "gaussians = 0: must be 1 to 1,000,000"),
            ({"gaussians": 10**7}, "gaussians = 10000000"),
            ({"layers": 0}, "layers = 0: must be 1 to 8"),
        ],
    )
    def test_refuses(self, change: dict[str, int], message: str) -> None:
        with pytest.raises(InputError, match=message):
            resembling(self.AVATAR, **change)


class TestPlan:
    def test_every_combination_once(self) -> None:
        avatar = make_avatar(n=20)
        choices = Choices(
            engines=["cpu"],
            isas=["avx2", "portable"],
            threads=[1, 2],
            sizes=[64, 128],
            gaussians=[20, 40],
            layers=[1, 2],
        )
        ways = list(make_ways(avatar, choices))
        assert len(ways) == 32
        heads = {id(way.avatar) for way in ways}
        assert len(heads) == 4
        assert id(avatar) in heads

    def test_cpu_settings_are_not_multiplied_for_other_engines(self) -> None:
        choices = Choices(engines=["cuda"], isas=["avx2", "portable"], threads=[1, 2])
        (way,) = make_ways(make_avatar(n=5), choices)
        assert (way.isa, way.threads) == (None, None)

    def test_engines_that_are_not_here_are_named(self) -> None:
        engines, missing = choose_engines("all")
        assert "cpu" in engines
        assert {item.what for item in missing} == {"engine cuda", "engine tensorrt"} - {
            f"engine {name}" for name in engines
        }
        assert all(item.reason for item in missing)
        assert all(item.reason.count("NVIDIA driver") <= 1 for item in missing)

    def test_an_engine_asked_for_by_name_must_be_here(self) -> None:
        if "cuda" in choose_engines("all")[0]:
            pytest.skip("this machine has the engine")
        with pytest.raises(EngineError, match=r"--engine cuda: .+\. Here there is: cpu\."):
            choose_engines("cuda")

    def test_unknown_settings_are_named(self) -> None:
        with pytest.raises(InputError, match=r"--isa sse: this machine and build have .*portable"):
            choose_isas(["avx2", "sse"])
        assert choose_isas(["all"])[-1] == "portable"
        choices = Choices(engines=["cpu"], precisions=["int8"])  # type: ignore[list-item]
        with pytest.raises(InputError, match="--precision int8: must be one of fast, fp32"):
            list(make_ways(make_avatar(n=5), choices))


def test_a_machine_has_a_folder_name() -> None:
    assert machine_slug(a_report().machine) == (
        "nvidia-geforce-rtx-4090-amd-epyc-9755-128-core-processor-2-cores-avx512"
    )
