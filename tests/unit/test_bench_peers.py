"""The peers compute what our engine computes: otherwise a ratio means nothing."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
from gt_bench import peers
from gt_bench.peers.networks import open_network_peers
from gt_bench.plan import Way
from gt_bench.report import Report, Unavailable
from gt_bench.stream import Inputs, Stream

from gt_infer.avatar import Avatar
from gt_infer.pose import Pose
from tests.synthetic import make_avatar
from tests.unit.test_bench import a_report

torch = pytest.importorskip("torch", reason="the peers are torch's")


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """Few enough Gaussians that the background shows, which several torsos make depend on the
    pose."""
    return make_avatar(n=100, layers=2, size=96, torsos=3)


@pytest.mark.parametrize("size", [None, 80, 200])
@pytest.mark.parametrize("frame", [0, 3, 11])
def test_torch_splatter_draws_our_picture(avatar: Avatar, frame: int, size: int | None) -> None:
    from gt_bench.peers.torch_splatter import TorchSplatter

    stream = Stream(avatar, precision="fp32", size=size)
    inputs = stream.inputs(frame)
    gaussians = stream.deform(inputs)
    ours = stream.splat(gaussians, inputs)
    theirs = TorchSplatter(stream, inputs).run_arrays(gaussians)
    assert theirs.shape == ours.shape
    difference = np.abs(theirs.astype(np.int16) - ours.astype(np.int16))
    # A Gaussian on the threshold of a pixel may fall on either side of it.
    assert (difference > 1).sum() <= 3


def test_splatting_of_parts_is_the_frame(avatar: Avatar) -> None:
    stream = Stream(avatar, precision="fp32")
    inputs = stream.inputs(5)
    parts = stream.splat(stream.deform(inputs), inputs)
    difference = np.abs(parts.astype(np.int16) - stream.render(inputs))
    assert difference.max() <= 1


def test_networks_are_a_part_of_their_frame(avatar: Avatar) -> None:
    stream = Stream(avatar, engine="cpu", precision="fp32")
    inputs = stream.inputs(5)
    for _ in range(3):
        start = time.perf_counter()
        stream.render(inputs)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        assert 0.0 < stream.networks_ms < elapsed_ms


def test_what_warmed_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_ROUNDS", 3)
    monkeypatch.setattr(peers, "_PAUSE_S", 0.0)
    told = iter([1000.0, 5.0, 3.0, 4.0])
    own = [peers._Own("all", lambda: None), peers._Own("part", lambda: None, lambda: next(told))]
    report = a_report(peers=[], unavailable=[])
    contender = peers._Contender("other", "1", lambda: None, 0.5, "abs")
    peers._race(report, 1, 1, own, [contender])
    assert [peer.stage for peer in report.peers] == ["all", "part"]
    assert report.peers[1].ours_ms == 4.0
    assert next(told, None) is None


def test_peers_of_a_lower_degree(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = measured(make_avatar(n=100, size=96, sh_degree=1), monkeypatch, {"PyTorch eager"})
    assert {peer.stage for peer in report.peers} == {
        "networks",
        "networks in a frame",
        "splatting",
        "frame",
    }


def refuse(*arguments: object) -> None:
    raise peers.networks.PeerMissingError("left out by this test")


def measured(
    avatar: Avatar, monkeypatch: pytest.MonkeyPatch, names: set[str]
) -> tuple[Report, list[Unavailable]]:
    """A race of few, short rounds; other network peers than `names` are taken away."""
    monkeypatch.setattr(peers, "_ROUNDS", 3)
    monkeypatch.setattr(peers, "_BATCH", 2)
    monkeypatch.setattr(peers, "_PAUSE_S", 0.0)

    for maker, name in (
        ("_compiled", "torch.compile"),
        ("_OnnxRuntime", "ONNX Runtime"),
        ("_OpenVino", "OpenVINO"),
    ):
        if name not in names:
            monkeypatch.setattr(peers.networks, maker, refuse)
    report = a_report(peers=[], unavailable=[])
    way = Way(avatar=avatar, engine="cpu", isa=None, threads=1, precision="fp32", size=None)
    peers.measure_peers(way, report, lambda text: None)
    return report, report.unavailable


def test_eager_networks_agree(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    report, missing = measured(avatar, monkeypatch, {"PyTorch eager"})
    found = {(peer.stage, peer.name, peer.batch): peer for peer in report.peers}
    assert set(found) == {
        ("networks", "PyTorch eager", 1),
        ("networks", "PyTorch eager", 2),
        ("networks in a frame", "PyTorch eager", 1),
        ("splatting", "our torch splatter", 1),
        ("frame", "PyTorch eager + torch splatter", 1),
    }
    for (stage, _, _), peer in found.items():
        assert peer.error < (2e-4 if stage == "networks" else 4)
        assert peer.ratio.low <= peer.ratio.median <= peer.ratio.high
        assert peer.ratio.pairs == 3
        assert peer.threads == 1
    assert {item.what for item in missing} == {
        "peer torch.compile",
        "peer ONNX Runtime",
        "peer OpenVINO",
        "peer OpenVINO bf16",
    }


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_onnx_runtimes_agree(avatar: Avatar, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for needed in (package, "onnx", "onnxscript"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    name = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[package]
    report, missing = measured(avatar, monkeypatch, {name})
    found = {peer.stage: peer for peer in report.peers if peer.name == name}
    assert set(found) == {"networks", "networks in a frame"}
    assert found["networks"].error < 2e-4
    assert found["networks in a frame"].error < 4
    assert all(item.reason == "left out by this test" for item in missing)


def test_a_peer_that_fails_is_named(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no compiler\nlong story")

    monkeypatch.setattr(peers.networks, "_compiled", broken)
    _, missing = measured(avatar, monkeypatch, {"torch.compile"})
    reasons = {item.what: item.reason for item in missing}
    assert reasons["peer torch.compile"] == "RuntimeError: no compiler"


def test_peers_meet_the_golden_vectors(
    shared: Path, avatar_a: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed is the published model: networks, and the picture that is made of them."""
    from gt_bench.peers.torch_splatter import TorchSplatter
    from PIL import Image

    folder = shared / "checkpoints" / "A"
    golden = np.load(folder / "golden_deform.npz")
    chosen = range(0, len(golden["frames"]), 4)
    inputs = [
        Inputs(
            golden["audio"][i],
            float(golden["eye"][i, 0]),
            Pose.from_tracking(tuple(golden["euler"][i]), tuple(golden["trans"][i])),
        )
        for i in chosen
    ]
    monkeypatch.setattr(peers.networks, "_compiled", refuse)
    eager = open_network_peers(avatar_a, inputs, 1, lambda name, why: None)[0]
    assert eager.name == "PyTorch eager"
    outputs = eager.run()
    stream = Stream(avatar_a, precision="fp32")
    for row, i in enumerate(chosen):
        for name, values in zip(("means", "rotations", "scales", "opacity"), outputs, strict=False):
            mine = values[row].numpy()[golden["subset"]].reshape(golden[name][i].shape)
            assert np.abs(mine - golden[name][i]).max() < 2e-4, name
        picture = TorchSplatter(stream, inputs[row]).run(*(values[row] for values in outputs))
        wanted = np.asarray(Image.open(folder / "golden_frames" / f"{golden['frames'][i]}.png"))
        difference = np.abs(picture.astype(np.int16) - wanted)
        assert (difference > 0).sum() < 100
        assert difference.max() <= 1
