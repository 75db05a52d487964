"""What the suites share: the workload, and races whose ratios are printed and kept.

make bench                                            all of them, results kept
pytest benchmarks/suites/bench_audio.py               one, nothing kept
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from gt_bench.machine import describe_machine, machine_slug
from gt_bench.timing import interleave, median, paired_ratio
from gt_bench.workload import find_avatar

from gt_infer import Avatar

SCHEMA = 1
_RACES = pytest.StashKey[list[dict[str, Any]]]()
_SECONDS = 8.0  # of a race

Race = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep", metavar="DIR", help="keep the ratios in DIR/<machine>/")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RACES] = []


@pytest.fixture(scope="session")
def avatar_path() -> Path:
    path: Path = find_avatar(None)[0]
    return path


@pytest.fixture(scope="session")
def avatar(avatar_path: Path) -> Avatar:
    return Avatar.load(avatar_path)


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any) -> Race:
    """race(ours, theirs, "who they are"): both in turn; the ratio is theirs / ours."""

    def run(
        ours: Callable[[], object], theirs: Callable[[], object], peer: str, rounds: int = 30
    ) -> None:
        mine, other = interleave([ours, theirs], rounds, seconds=_SECONDS)
        ratio = paired_ratio(other, mine)
        facts = {
            "name": request.node.name,
            "peer": peer,
            "ours_ms": median(mine),
            "peer_ms": median(other),
            "ratio": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
            "pairs": ratio.pairs,
        }
        benchmark.extra_info.update(facts)
        benchmark.pedantic(ours, rounds=5, warmup_rounds=1)
        request.config.stash[_RACES].append(facts)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    races = config.stash[_RACES]
    if not races:
        return
    terminalreporter.section("ratios: theirs / ours, medians of pairs, p10-p90")
    for race in races:
        terminalreporter.write_line(
            f"{race['ratio']:7.2f}x  {race['low']:.2f}-{race['high']:.2f}  {race['name']}: "
            f"{race['ours_ms']:.3g} ms, {race['peer']} {race['peer_ms']:.3g} ms"
        )
    folder = config.getoption("--keep")
    if folder is not None:
        terminalreporter.write_line(f"kept: {_keep(Path(folder), races)}")


def _keep(folder: Path, races: list[dict[str, Any]]) -> Path:
    machine = describe_machine()
    now = datetime.now(timezone.utc)
    name = f"suites-{now:%Y%m%d-%H%M%S}-{machine.commit or 'unknown'}.json"
    path: Path = folder / machine_slug(machine) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": SCHEMA,
        "created": now.isoformat(timespec="seconds"),
        "cpu": machine.cpu,
        "commit": machine.commit,
        "load_before": machine.load_before,
        "races": races,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
