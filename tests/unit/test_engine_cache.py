"""The runtime's engine cache: what fits is used; what does not is thrown away and built again."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gt_infer.engines.cache import EngineCache, EngineKey, default_folder, kernels_path
from gt_infer.engines.sidecar import read_sidecar, sidecar_path, write_engine
from gt_infer.errors import EngineError

KEY = EngineKey(
    graph="deform",
    avatar="a" * 64,
    widths={"d_model": 64, "plane_sizes": [64, 128], "padded": 4096},
    flavour="tensorrt-rtx",
    version="1.7.1",
    sm="89",
    precision="fp16",
    device="NVIDIA GeForce RTX 4090, CUDA 13.0",
)
PLAN = bytes(range(256)) * 40


class Builder:
    """Counts how often it had to build."""

    def __init__(self, plan: bytes = PLAN) -> None:
        self.plan, self.calls = plan, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.plan


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def entry(cache: EngineCache) -> Path:
    (path,) = cache.folder.glob("*.engine")
    return path


def filled(cache: EngineCache) -> Path:
    assert cache.get_or_build(KEY, Builder()) == PLAN
    return entry(cache)


def test_second_start_builds_nothing(cache: EngineCache) -> None:
    builder = Builder()
    for _ in range(3):
        assert cache.get_or_build(KEY, builder) == PLAN
    assert builder.calls == 1
    assert sorted(p.name for p in cache.folder.iterdir()) == sorted(
        [entry(cache).name, f"{entry(cache).name}.json"]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"graph": "canonical"},
        {"avatar": "b" * 64},
        {"widths": {"d_model": 32}},
        {"flavour": "tensorrt"},
        {"version": "1.8.0"},
        {"sm": "120"},
        {"precision": "bf16"},
        {"device": "NVIDIA L4, CUDA 13.0"},
        {"attention": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_it_depends_on_is_in_the_key(cache: EngineCache, change: dict[str, Any]) -> None:
    """Another version, GPU, driver or avatar never meets this entry, even under its name."""
    path = filled(cache)
    files = {file: file.read_bytes() for file in (path, sidecar_path(path))}
    other = dataclasses.replace(KEY, **change)
    builder = Builder(b"other")
    assert cache.get_or_build(other, builder) == b"other"
    assert builder.calls == 1

    # The file of one key under the name of another, as a copied or shared folder may have it.
    foreign = cache.folder / other.file_name
    for source, target in (
        (path, foreign),
        (sidecar_path(path), sidecar_path(foreign)),
    ):
        target.write_bytes(files[source])
    again = Builder(b"again")
    assert cache.get_or_build(other, again) == b"again"
    assert again.calls == 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"version": "1.8.0"}, "made for version '1.7.1', this is '1.8.0'"),
        (
            {"device": "NVIDIA GeForce RTX 4090, CUDA 13.2"},
            "made for device 'NVIDIA GeForce RTX 4090, CUDA 13.0'",
        ),
    ],
    ids=["version", "driver"],
)
def test_outdated_entries_are_discarded_with_a_warning(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, change: dict[str, Any], words: str
) -> None:
    """An update of TensorRT or the driver leaves no engine behind that nothing can load."""
    old = filled(cache)
    newer = dataclasses.replace(KEY, **change)
    assert cache.get_or_build(newer, Builder(b"new")) == b"new"
    assert entry(cache) != old
    (record,) = caplog.records
    assert "discarded, building it again" in record.getMessage()
    assert words in record.getMessage()


@pytest.mark.parametrize(
    "change",
    [
        {"avatar": "b" * 64},
        {"precision": "fp32"},
        {"sm": "120"},
        {"device": "NVIDIA L4, CUDA 13.0"},
        {"graph": "canonical"},
        {"flavour": "tensorrt"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_another_user_of_the_folder_needs_stays(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    filled(cache)
    cache.get_or_build(dataclasses.replace(KEY, **change), Builder(b"other"))
    assert cache.get_or_build(KEY, Builder(b"never")) == PLAN
    assert not caplog.records


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_sidecar(path: Path) -> None:
    sidecar_path(path).unlink()


def broken_sidecar(path: Path) -> None:
    sidecar_path(path).write_text("{")


def sidecar_of_another_format(path: Path) -> None:
    data = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps(data | {"format": 2}))


def sidecar_of_wrong_types(path: Path) -> None:
    data = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps(data | {"widths": 3}))


@pytest.mark.parametrize(
    "damage, words",
    [
        (truncate, "truncated or damaged"),
        (flip, "truncated or damaged"),
        (empty, "truncated or damaged"),
        (without_sidecar, "no such file"),
        (broken_sidecar, "damaged"),
        (sidecar_of_another_format, "format is not 1"),
        (sidecar_of_wrong_types, "widths = 3"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_entries_are_rebuilt_with_a_warning(
    cache: EngineCache,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    damage(filled(cache))
    builder = Builder(b"rebuilt")
    with caplog.at_level(logging.WARNING):
        assert cache.get_or_build(KEY, builder) == b"rebuilt"
    assert builder.calls == 1
    (record,) = caplog.records
    assert "discarded, building it again" in record.getMessage()
    assert words in record.getMessage()
    caplog.clear()
    assert cache.get_or_build(KEY, Builder(b"never")) == b"rebuilt"
    assert not caplog.records


def test_the_runtimes_own_verdict_counts(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    """`get_engine_validity`, where TensorRT has it."""
    filled(cache)
    asked: list[bytes] = []

    def verdict(plan: bytes) -> str | None:
        asked.append(plan)
        return "OLD_CUDA_DRIVER"

    builder = Builder(b"new")
    assert cache.get_or_build(KEY, builder, why_invalid=verdict) == b"new"
    assert asked == [PLAN]
    assert "OLD_CUDA_DRIVER" in caplog.text


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_costs_only_the_cache(
    cache: EngineCache,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fail)
    builder = Builder()
    for _ in range(2):
        assert cache.get_or_build(KEY, builder) == PLAN
    assert builder.calls == 2
    assert "cannot be kept" in caplog.text
    assert os.strerror(error) in caplog.text
    assert not list(cache.folder.iterdir()), "half-written files are left"


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert EngineCache(tmp_path / "file" / "engines").get_or_build(KEY, Builder()) == PLAN
    assert "cannot be kept" in caplog.text


def test_a_failed_build_leaves_nothing(cache: EngineCache) -> None:
    def fail() -> bytes:
        raise EngineError("no")

    with pytest.raises(EngineError):
        cache.get_or_build(KEY, fail)
    assert not cache.folder.exists()


def test_list_and_clear(cache: EngineCache) -> None:
    assert cache.entries() == []
    assert cache.clear() == 0
    filled(cache)
    cache.get_or_build(dataclasses.replace(KEY, precision="fp32"), Builder(b"x"))
    (cache.folder / "broken.engine").write_bytes(b"?")
    (cache.folder / "notes.txt").write_text("a user's own")
    kernels_path(KEY.avatar, cache.folder).write_bytes(b"compiled at first use")
    entries = {item.path.name: item for item in cache.entries()}
    assert len(entries) == 3
    assert entries["broken.engine"].facts is None
    assert entries["broken.engine"].problem
    facts = entries[KEY.file_name].facts
    assert facts is not None
    assert (facts.avatar, facts.precision) == (KEY.avatar, "fp16")
    assert cache.clear() == 3
    assert [path.name for path in cache.folder.iterdir()] == ["notes.txt"]


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GT_INFER_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "gt_infer" / "engines"
    monkeypatch.setenv("GT_INFER_CACHE", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"


def test_sidecar_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    accuracy = {"passed": False, "checks": []}
    write_engine(path, PLAN, KEY.facts(profiles=[1, 4], flags=["refittable"], accuracy=accuracy))
    facts = read_sidecar(path)
    assert KEY.difference(facts) is None
    assert (list(facts.profiles), list(facts.flags)) == ([1, 4], ["refittable"])
    assert not facts.is_accurate
