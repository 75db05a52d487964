"""Opening a large file costs twice its size at most, whole or damaged: no reader keeps a second
copy, and none takes what a damaged header asks for."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from gt_infer import Avatar, GtError
from gt_infer.avatar import save_avatar
from tests import official_layout
from tests.fuzz import harness, mutations
from tests.fuzz.harness import Runner, _memory, _start_peak
from tests.fuzz.targets import TARGETS, read_features, read_ply
from tests.synthetic import make_avatar

MIB = 1 << 20


def peak_of(read: Callable[[Path], object], path: Path) -> int:
    before = _start_peak()
    try:
        result = read(path)
        del result
    except GtError:
        pass
    return _memory("VmHWM") - before


def write_avatar(path: Path) -> None:
    save_avatar(make_avatar(n=40_000), path)


def write_features(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.random.default_rng(0).normal(size=(4_000, 16, 29)).astype(np.float32))


def write_ply(path: Path) -> None:
    official_layout.write_ply(path, make_avatar(n=40_000).gaussians)


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_avatar, Avatar.load), (write_features, read_features), (write_ply, read_ply)],
    ids=["avatar", "features", "ply"],
)
def test_twice_the_file_at_most(
    write: Callable[[Path], None], read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "large"
    write(path)
    whole = path.read_bytes()
    assert len(whole) > 7 * MIB
    read(path)
    rng = Random(0)
    for _ in range(8):
        assert peak_of(read, path) < 2 * len(whole) + 4 * MIB
        damaged = (
            mutations.floats(whole, rng) if rng.random() < 0.5 else whole[: -rng.randrange(99)]
        )
        path.write_bytes(damaged)


@pytest.mark.parametrize("taken", ["again and again", "once, and kept", "by the system's files"])
def test_the_harness_finds_what_a_reader_takes(
    taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not what the system gives back: pages of libraries that it had taken away."""
    pages = tmp_path / "pages"
    pages.write_bytes(bytes(16 * MIB))
    calls = 0
    held: list[Any] = []

    def touched() -> mmap.mmap:
        # Not malloc's, which may have some left.
        memory = mmap.mmap(-1, 16 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.write(b"\1" * (16 * MIB))
        return memory

    def read(path: Path) -> None:
        nonlocal calls
        calls += 1
        if taken == "again and again":
            touched().close()
        elif calls == first_case and taken == "once, and kept":
            held.append(touched())
        elif calls == first_case:
            held.append(np.memmap(pages, np.uint8, "r"))
            held[0].max()

    target = replace(TARGETS["blink"], read=read)
    first_case = 2 * len(target.seeds()) + 1  # the seeds are read twice before
    monkeypatch.setitem(TARGETS, "blink", target)
    monkeypatch.setattr(harness, "_limit_address_space", lambda: None)
    finding = Runner("blink", tmp_path).run(0)
    if taken == "by the system's files":
        assert finding is None
        assert calls == first_case + 1, "this should have looked too much at first"
    else:
        assert finding is not None
        assert finding.kind == "memory"
