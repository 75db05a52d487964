"""The engine's stages, one thread: each instruction set against the portable kernels, and the
tokens against the torch reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gt_bench.stream import Stream

from gt_infer import Avatar, _native

ISAS = [isa for isa in _native.available_isas() if isa != "portable"]


def open_one(avatar: Avatar, isa: str) -> Stream:
    return Stream(avatar, isa=isa, threads=1, precision="fp32")


@pytest.mark.parametrize("isa", ISAS)
def bench_deform(race: Any, avatar: Avatar, isa: str) -> None:
    ours, portable = open_one(avatar, isa), open_one(avatar, "portable")
    inputs = ours.inputs(1)
    a, b = ours.deform(inputs), portable.deform(inputs)
    np.testing.assert_allclose(a.means, b.means, atol=1e-5)
    race(lambda: ours.deform(inputs), lambda: portable.deform(inputs), "portable")


@pytest.mark.parametrize("isa", ISAS)
def bench_splat(race: Any, avatar: Avatar, isa: str) -> None:
    ours, portable = open_one(avatar, isa), open_one(avatar, "portable")
    inputs = ours.inputs(1)
    gaussians = ours.deform(inputs)
    assert_alike(ours.splat(gaussians, inputs), portable.splat(gaussians, inputs))
    race(
        lambda: ours.splat(gaussians, inputs),
        lambda: portable.splat(gaussians, inputs),
        "portable",
    )


@pytest.mark.parametrize("isa", ISAS)
def bench_frame(race: Any, avatar: Avatar, isa: str) -> None:
    ours, portable = open_one(avatar, isa), open_one(avatar, "portable")
    inputs = ours.inputs(1)
    assert_alike(ours.render(inputs), portable.render(inputs))
    race(lambda: ours.render(inputs), lambda: portable.render(inputs), "portable")


def bench_tokens(race: Any, avatar: Avatar) -> None:
    torch = pytest.importorskip("torch", reason="the peer is torch")
    reference_of = pytest.importorskip("gt_export.reference").ReferenceNetwork.from_avatar
    torch.set_num_threads(1)
    inputs = Stream(avatar, threads=1).inputs(1)
    camera = inputs.pose.camera_vector()
    engine = _native.Engine(
        _native.Model(avatar.gaussians, avatar.network),
        isa=_native.available_isas()[0],
        precision="fast",
        threads=1,
    )
    network = reference_of(avatar).eval().network
    batch = (
        torch.from_numpy(inputs.window)[None],
        torch.tensor([inputs.eye], dtype=torch.float32),
        torch.from_numpy(camera)[None],
    )

    def theirs() -> Any:
        with torch.inference_mode():
            return network.tokens(*batch)

    ours = engine.tokens(inputs.window, inputs.eye, camera)
    np.testing.assert_allclose(ours, theirs()[0].numpy(), atol=1e-3)
    race(
        lambda: engine.tokens(inputs.window, inputs.eye, camera),
        theirs,
        "torch eager",
    )


def assert_alike(one: Any, other: Any) -> None:
    difference = np.abs(one.astype(np.int16) - other.astype(np.int16))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4
