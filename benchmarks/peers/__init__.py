"""The research-style pipeline on the same weights, inputs and threads, in turn with ours.

Every peer is a `networks.NetworkPeer` or the splatter of `torch_splatter`; a package that is not
installed makes its peers unavailable, never zero.
"""

from __future__ import annotations

import ctypes
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gt_infer.types import Gaussians

from ..plan import Way
from ..report import Peer, Report, Unavailable
from ..stream import Inputs, Stream
from ..timing import interleave, median, paired_ratio
from .networks import NetworkPeer, open_network_peers

if TYPE_CHECKING:
    from .torch_splatter import TorchSplatter

__all__ = ["measure_peers"]

_BATCH = 32
_ROUNDS = 15
_RACE_SECONDS = 25.0  # fewer rounds where they take longer
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt
# A thread pool of a runtime goes on spinning for a while after its work.
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class _Contender:
    """One peer's way to do one stage, with its largest difference from ours."""

    name: str
    version: str
    call: Callable[[], object]
    error: float
    error_of: str


@dataclass(frozen=True, slots=True)
class _Own:
    """Our way to do a stage, against all contenders.

    Attributes:
        spent: milliseconds of the last call that went into the stage; None: all of them.
        errors: of the contenders, by name, and their unit, where they are not those of the race.
    """

    stage: str
    call: Callable[[], object]
    spent: Callable[[], float] | None = None
    errors: Mapping[str, float] | None = None
    error_of: str = ""


def measure_peers(way: Way, report: Report, progress: Callable[[str], None]) -> None:
    """Measures what is installed, and appends to the report's peers and unavailable parts.

    Raises: GtError: our own engine fails. A peer that fails is unavailable, with its reason.
    """
    _keep_freed_memory()
    stream = way.open()
    try:
        _measure(stream, report, progress)
    finally:
        stream.close()


def _measure(stream: Stream, report: Report, progress: Callable[[str], None]) -> None:
    frames = [stream.inputs(frame) for frame in range(_BATCH)]
    threads = stream.case.threads

    def missing(what: str, reason: str) -> None:
        report.unavailable.append(Unavailable(what=f"peer {what}", reason=reason))

    for batch in (1, _BATCH):
        progress(f"peers: networks, batch {batch} (torch.compile takes a minute)")
        inputs = frames[:batch]
        peers = open_network_peers(stream.avatar, inputs, threads, missing)
        ours = _deform_all(stream, inputs)
        contenders = [
            _Contender(peer.name, peer.version, peer.run, _difference(peer, ours), "abs")
            for peer in peers
        ]
        own = [_Own("networks", partial(_deform_all, stream, inputs))]
        if batch == 1 and stream.tells_networks:
            own.append(_in_frame(stream, inputs[0], peers))
        _race(report, batch, threads, own, contenders)
        if batch == 1:
            _measure_pictures(stream, inputs[0], ours[0], peers, report, progress, missing)


def _deform_all(stream: Stream, inputs: Sequence[Inputs]) -> list[Gaussians]:
    return [stream.deform(each) for each in inputs]


def _in_frame(stream: Stream, inputs: Inputs, peers: Sequence[NetworkPeer]) -> _Own:
    """The networks as a frame runs them: to splats, nothing else written. A peer's error is what
    its attributes change in the picture."""
    wanted = stream.render(inputs)
    return _Own(
        "networks in a frame",
        lambda: stream.render(inputs),
        lambda: stream.networks_ms,
        {peer.name: _levels(stream.splat(_outputs(peer)[0], inputs), wanted) for peer in peers},
        "of 255",
    )


def _outputs(peer: NetworkPeer) -> list[Gaussians]:
    """What a peer computes, frame by frame."""
    batches = [np.asarray(values, np.float32) for values in peer.run()]
    return [
        Gaussians(
            means=np.ascontiguousarray(means),
            quats=np.ascontiguousarray(quats),
            scales=np.ascontiguousarray(scales),
            opacities=np.ascontiguousarray(opacities).reshape(-1),
            sh=np.ascontiguousarray(sh).reshape(len(means), -1, 3),
        )
        for means, quats, scales, opacities, sh in zip(*batches, strict=True)
    ]


def _measure_pictures(
    stream: Stream,
    inputs: Inputs,
    gaussians: Gaussians,
    networks: Sequence[NetworkPeer],
    report: Report,
    progress: Callable[[str], None],
    missing: Callable[[str, str], None],
) -> None:
    """Splatting alone, and whole frames of torch networks and torch splatter."""
    progress("peers: splatting and whole frames")
    try:
        from .torch_splatter import TorchSplatter
    except ImportError as err:
        missing("splatting", f"no torch ({err}): pip install 'gt-infer[bench]'")
        return
    threads = stream.case.threads
    splatter = TorchSplatter(stream, inputs)
    version = splatter.version
    theirs = splatter.run_arrays(gaussians)
    wanted = stream.splat(gaussians, inputs)
    splatting = _Contender(
        "our torch splatter",
        version,
        lambda: splatter.run_arrays(gaussians),
        _levels(theirs, wanted),
        "of 255",
    )
    own = _Own("splatting", lambda: stream.splat(gaussians, inputs))
    _race(report, 1, threads, [own], [splatting])
    wanted = stream.render(inputs)
    contenders = []
    for network in networks:
        if network.gives_tensors:
            call = _frame_call(network, splatter)
            error = _levels(call(), wanted)
            contenders.append(
                _Contender(f"{network.name} + torch splatter", version, call, error, "of 255")
            )
    _race(report, 1, threads, [_Own("frame", lambda: stream.render(inputs))], contenders)


def _frame_call(
    network: NetworkPeer, splatter: TorchSplatter
) -> Callable[[], npt.NDArray[np.uint8]]:
    return lambda: splatter.run(*(tensor[0] for tensor in network.run()))


def _race(
    report: Report,
    batch: int,
    threads: int,
    own: Sequence[_Own],
    contenders: Sequence[_Contender],
) -> None:
    """Times ours and all contenders in turn."""
    if not contenders:
        return
    spent: list[list[float]] = [[] for _ in own]

    def watched(which: int) -> None:
        own[which].call()
        if (part := own[which].spent) is not None:
            spent[which].append(part())

    # Ours on both sides, so that each follows a contender as often as itself.
    first, *others = (partial(watched, which) for which in range(len(own)))
    times = interleave(
        [first, *(contender.call for contender in contenders), *others],
        _ROUNDS,
        seconds=_RACE_SECONDS,
        between=lambda: time.sleep(_PAUSE_S),
    )
    end = 1 + len(contenders)
    theirs = times[1:end]
    for mine, parts, whole in zip(own, spent, [times[0], *times[end:]], strict=True):
        ours = parts[-len(whole) :] or whole  # the calls that warmed up come first
        for contender, its in zip(contenders, theirs, strict=True):
            report.peers.append(
                Peer(
                    name=contender.name,
                    version=contender.version,
                    stage=mine.stage,
                    batch=batch,
                    threads=threads,
                    ours_ms=median(ours) / batch,
                    peer_ms=median(its) / batch,
                    ratio=paired_ratio(its, ours),
                    error=contender.error if mine.errors is None else mine.errors[contender.name],
                    error_of=contender.error_of if mine.errors is None else mine.error_of,
                )
            )


def _keep_freed_memory() -> None:
    """Lets the C library keep what is freed, for peers that allocate their intermediates anew in
    every frame: by default large blocks go back to the system, and faulting them in again cost
    PyTorch a sixth of its time. Tuned deployments preload an allocator that does the same."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):  # not glibc
        pass


def _difference(peer: NetworkPeer, ours: Sequence[Gaussians]) -> float:
    """Largest absolute difference over all activated attributes of all frames."""
    return max(
        float(np.abs(getattr(theirs, item.name) - getattr(mine, item.name)).max())
        for theirs, mine in zip(_outputs(peer), ours, strict=True)
        for item in dataclasses.fields(mine)
        if item.name != "attention"
    )


def _levels(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
