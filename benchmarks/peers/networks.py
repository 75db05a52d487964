"""The networks of a frame in other people's runtimes: windows, blink and camera in, activated
Gaussians out. Static tri-plane features are computed once, as a fair rival would."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gt_infer.avatar import Avatar

from ..stream import Inputs

__all__ = ["NetworkPeer", "PeerMissingError", "open_network_peers"]

_INPUT_NAMES = ("windows", "eye", "camera")


class PeerMissingError(Exception):
    """A peer cannot be had here; the message says why and what to install."""


class NetworkPeer(Protocol):
    """A runtime with the avatar's networks and one batch of inputs loaded.

    Attributes:
        gives_tensors: whether `run` gives torch tensors rather than arrays.
    """

    name: str
    version: str
    gives_tensors: bool

    def run(self) -> Sequence[Any]:
        """means [B, N, 3], quats, scales, opacities, sh, activated, in our order."""


def open_network_peers(
    avatar: Avatar,
    inputs: Sequence[Inputs],
    threads: int,
    missing: Callable[[str, str], None],
) -> list[NetworkPeer]:
    """Every peer that is installed, with these inputs as one batch.

    Args:
        threads: that each may use.
        missing: told the name of, and the reason for, each that is not there.
    """
    try:
        torch = _load("torch")
        from gt_export.reference import ReferenceNetwork
    except (PeerMissingError, ImportError) as err:
        missing("networks", f"{err}; all of them start from the torch reference network")
        return []
    torch.set_num_threads(threads)
    module = _module(torch, ReferenceNetwork.from_avatar(avatar))
    batch = (
        torch.from_numpy(np.stack([each.window for each in inputs])),
        torch.tensor([each.eye for each in inputs], dtype=torch.float32),
        torch.from_numpy(np.stack([each.pose.camera_vector() for each in inputs])),
    )
    peers: list[NetworkPeer] = [_Torch(torch, module, batch, "PyTorch eager")]
    makers: list[tuple[str, Callable[[], NetworkPeer]]] = [
        ("torch.compile", lambda: _compiled(torch, module, batch))
    ]
    with tempfile.TemporaryDirectory() as folder:
        if len(inputs) == 1:
            graph = _LazyGraph(torch, module, batch, Path(folder))
            makers += [
                ("ONNX Runtime", lambda: _OnnxRuntime(graph, threads)),
                ("OpenVINO", lambda: _OpenVino(graph, threads, "f32")),
                ("OpenVINO bf16", lambda: _OpenVino(graph, threads, "bf16")),
            ]
        for name, make in makers:
            try:
                peers.append(make())
            except PeerMissingError as err:
                missing(name, str(err))
            except Exception as err:  # other people's code: whatever it raises, we go on
                missing(name, f"{type(err).__name__}: {(str(err).splitlines() or [''])[0]}")
    return peers


def _load(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise PeerMissingError(
            f"{package} is not installed ({err}): pip install 'gt-infer[bench]'"
        ) from err


def _module(torch: Any, reference: Any) -> Any:
    """The reference network with its static features cached, giving what our engine gives."""

    class Activated(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.reference = reference
            with torch.inference_mode(False), torch.no_grad():
                features = reference.network.features(reference.gaussians["means"]).clone()
            reference.network.features = lambda means: features

        def forward(self, windows: Any, eye: Any, camera: Any) -> tuple[Any, ...]:
            out = self.reference(windows, eye, camera)
            return out.means, out.quats, out.scales, out.opacities, out.sh

    return Activated().eval().requires_grad_(False)


class _Torch:
    gives_tensors = True

    def __init__(self, torch: Any, module: Any, batch: tuple[Any, ...], name: str) -> None:
        self.name, self.version = name, torch.__version__
        self._torch, self._module, self._batch = torch, module, batch

    def run(self) -> Sequence[Any]:
        with self._torch.inference_mode():
            result: Sequence[Any] = self._module(*self._batch)
        return result


def _compiled(torch: Any, module: Any, batch: tuple[Any, ...]) -> _Torch:
    peer = _Torch(torch, torch.compile(module, dynamic=False), batch, "torch.compile")
    peer.run()  # compiles; what it lacks shows here
    return peer


class _LazyGraph:
    """The ONNX file, exported when the first runtime asks for it."""

    def __init__(self, torch: Any, module: Any, batch: tuple[Any, ...], folder: Path) -> None:
        self._torch, self._module, self._batch = torch, module, batch
        self._path = folder / "networks.onnx"
        self.feed = {
            name: np.ascontiguousarray(value.numpy())
            for name, value in zip(_INPUT_NAMES, batch, strict=True)
        }

    def path(self) -> Path:
        if not self._path.exists():
            for package in ("onnx", "onnxscript"):
                _load(package)
            with _quietly("torch.onnx"):
                self._torch.onnx.export(
                    self._module,
                    self._batch,
                    self._path,
                    input_names=list(_INPUT_NAMES),
                    dynamo=True,
                    external_data=False,
                )
        return self._path


@contextlib.contextmanager
def _quietly(logger: str) -> Iterator[None]:
    """Exporters talk: about their progress, and about packages that nobody asked for."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class _OnnxRuntime:
    gives_tensors = False

    def __init__(self, graph: _LazyGraph, threads: int) -> None:
        runtime = _load("onnxruntime")
        self.name, self.version = "ONNX Runtime", runtime.__version__
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(
            str(graph.path()), options, providers=["CPUExecutionProvider"]
        )
        self._feed = graph.feed

    def run(self) -> Sequence[Any]:
        result: Sequence[Any] = self._session.run(None, self._feed)
        return result


class _OpenVino:
    gives_tensors = False

    def __init__(self, graph: _LazyGraph, threads: int, precision: str) -> None:
        openvino = _load("openvino")
        suffix = "" if precision == "f32" else f" {precision}"
        self.name, self.version = f"OpenVINO{suffix}", openvino.__version__.split("-")[0]
        model = openvino.Core().compile_model(
            str(graph.path()),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": precision,
            },
        )
        self._request = model.create_infer_request()
        self._n_outputs = len(model.outputs)
        self._feed = graph.feed

    def run(self) -> Sequence[Any]:
        results = self._request.infer(self._feed, share_inputs=True, share_outputs=True)
        return [results[i] for i in range(self._n_outputs)]
