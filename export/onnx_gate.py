"""The accuracy gate: does a graph compute what the torch reference does?

Polygraphy runs both on the same frames and measures every output. float32 graphs must agree to
`FP32_TOLERANCE`; half-precision ones are judged by the pictures that come of them, since a rounding
counts for as much as it shows. Numbers: docs/export.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, IterationResult, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from gt_infer.avatar import Avatar
from gt_infer.config import EngineConfig
from gt_infer.engines import Canvas
from gt_infer.engines.cpu import CpuEngine, at_degree_3
from gt_infer.engines.deform_io import EnginePrecision, avatar_inputs, deform_tensors
from gt_infer.picture import compose
from gt_infer.types import FloatArray, Gaussians

from .onnx_canonical import CanonicalGraph, Predictor
from .onnx_rounding import with_explicit_rounding
from .reference import ReferenceNetwork
from .verify import FrameInput

__all__ = [
    "FP32_TOLERANCE",
    "PSNR_LIMIT",
    "Check",
    "Row",
    "check_canonical",
    "check_deform",
    "check_golden",
]

# Largest absolute difference, activated attributes and tri-plane features.
FP32_TOLERANCE = 1e-4
PSNR_LIMIT = 45.0  # dB, pictures against those of float32 networks

Arrays = Mapping[str, FloatArray]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_ATTRIBUTES = ("means", "quats", "scales", "opacities", "sh")


def _quietly(function: _Function) -> _Function:
    """Polygraphy tells its user every step; ours reads a table."""

    @functools.wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            return function(*args, **kwargs)

    return quiet  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Row:
    """One number that was measured, over all frames.

    Attributes:
        what: an output, "padding" (largest opacity of the Gaussians that fill up the last block)
            or "picture" (PSNR of the worst frame, dB).
        largest, mean: absolute difference; `mean` is None where there is none.
        limit: None when the number is for information.
    """

    what: str
    largest: float
    mean: float | None
    limit: float | None

    @property
    def passed(self) -> bool:
        """Within the limit, or not asked to be. NaN never passes."""
        if self.limit is None:
            return math.isfinite(self.largest)
        if self.what == "picture":
            return self.largest >= self.limit
        return self.largest <= self.limit


@dataclass(frozen=True, slots=True)
class Check:
    """A graph against its reference.

    Attributes:
        title: which, by what, on how many frames.
    """

    title: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For the sidecar."""
        return {
            row.what: {"largest": row.largest, "mean": row.mean, "limit": row.limit}
            for row in self.rows
        } | {"title": self.title, "passed": self.passed}

    def lines(self) -> Iterable[str]:
        """A table for people."""
        yield self.title
        for row in self.rows:
            verdict = "" if row.limit is None else f"limit {row.limit:g}  ok"
            if not row.passed:
                verdict = verdict.removesuffix("ok") + "FAILED"
            if row.mean is None:
                value = f"PSNR {row.largest:.1f} dB"
            else:
                value = f"max {row.largest:.1e}  mean {row.mean:.1e}"
            yield f"  {row.what:25} {value:26} {verdict}".rstrip()


@_quietly
def check_deform(
    avatar: Avatar,
    model: Any,
    precision: EnginePrecision,
    inputs: Sequence[FrameInput],
    *,
    run: Callable[[Arrays], Arrays] | None = None,
    by: str = "ONNX Runtime",
) -> Check:
    """The deform graph of an avatar on some frames.

    Args:
        model: the graph. Half precision runs with every rounding written out.
        run: something else that computes the graph, such as a TensorRT engine: the frame's inputs
            to the outputs, padded. `by` is its name.
    """
    static = avatar_inputs(avatar)
    if run is None:
        run = _onnx_runtime(model if precision == "fp32" else with_explicit_rounding(model), static)
    with_attention = any(output.name == "attention" for output in model.graph.output)
    outputs = (*_ATTRIBUTES, "attention") if with_attention else _ATTRIBUTES
    feeds = [_feed(item) for item in inputs]
    specs = deform_tensors(avatar, precision)
    metadata = {spec.name: spec.shape for spec in specs if spec.role == "frame"}
    measured = _Worst()
    painter = None if precision == "fp32" else _Painter(avatar)
    count, visible = len(avatar), avatar.raster.alpha_min
    network = ReferenceNetwork(*at_degree_3(avatar.gaussians, avatar.network))
    for feed, expected, got in _compare(feeds, metadata, _torch(network, outputs), run):
        padding = got["opacities"][:, count:]
        measured.add("padding", padding, np.zeros_like(padding))
        cropped = {name: _crop(name, got[name], count) for name in outputs}
        measured.add_all(cropped, expected)
        if painter is not None:
            measured.add_psnr(*(painter.paint(a, feed["camera"][0]) for a in (expected, cropped)))
    limit = FP32_TOLERANCE if precision == "fp32" else None
    rows = [measured.row(name, limit) for name in outputs]
    rows.append(measured.row("padding", visible))
    if painter is not None:
        rows.append(Row("picture", measured.psnr, None, PSNR_LIMIT))
    return Check(f"deform {precision}: {by} - torch float32, {len(inputs)} frames", tuple(rows))


@_quietly
def check_golden(
    avatar: Avatar, model: Any, subset: npt.NDArray[np.int64], inputs: Sequence[FrameInput]
) -> Check:
    """The float32 deform graph against what the authors' own network gave for some Gaussians."""
    measured = _Worst()
    run = _onnx_runtime(model, avatar_inputs(avatar))
    for item in inputs:
        assert item.golden is not None
        got = run(_feed(item))
        for name in (name for name in item.golden if name in got):
            axis = 2 if name == "attention" else 1
            measured.add(name, got[name].take(subset, axis=axis)[0], item.golden[name])
    rows = tuple(measured.row(name, FP32_TOLERANCE) for name in measured.names)
    return Check(f"deform fp32: ONNX Runtime - golden vectors, {len(inputs)} frames", rows)


@_quietly
def check_canonical(avatar: Avatar, model: Any, predictor: Predictor | None) -> Check:
    """The canonical graph at the avatar's own positions, against the torch reference and F_can."""
    graph = CanonicalGraph(avatar, predictor)
    names = ["features"]
    if predictor is not None:
        names += [f"predicted_{name}" for name in predictor.names]

    def reference(feed: Arrays) -> Arrays:
        with torch.inference_mode():
            results = graph(torch.tensor(feed["positions"]))
        return {name: result.numpy() for name, result in zip(names, results, strict=True)}

    feeds = [{"positions": avatar.gaussians.means}]
    measured = _Worst()
    run = _onnx_runtime(model, {})
    for _, expected, got in _compare(feeds, {"positions": (-1, 3)}, reference, run):
        measured.add_all(got, expected)
    rows = tuple(measured.row(name, FP32_TOLERANCE) for name in names)
    return Check(f"canonical: ONNX Runtime - torch float32, {len(avatar):,} positions", rows)


class _Worst:
    """Collects differences over frames, by Polygraphy's measure."""

    def __init__(self) -> None:
        self._largest: dict[str, float] = {}
        self._sums: dict[str, list[float]] = {}
        self.psnr = math.inf

    def add_all(self, got: Arrays, expected: Arrays) -> None:
        for name, array in expected.items():
            self.add(name, got[name], array)

    def add(self, name: str, got: FloatArray, expected: FloatArray) -> None:
        if got.size == 0:
            largest = mean = 0.0
        else:
            pair = (IterationResult({name: array}) for array in (got, expected))
            (result,) = SimpleCompareFunc(check_error_stat="max")(*pair).values()
            largest, mean = result.max_absdiff, result.mean_absdiff
        # np.maximum, not max: a NaN must stay.
        self._largest[name] = float(np.maximum(self._largest.get(name, 0.0), largest))
        self._sums.setdefault(name, []).append(mean)

    def add_psnr(self, picture: FloatArray, exact: FloatArray) -> None:
        error = float(np.square(picture - exact, dtype=np.float64).mean())
        found = math.inf if error == 0 else -10 * math.log10(error)
        self.psnr = float(np.minimum(self.psnr, found))

    @property
    def names(self) -> list[str]:
        return list(self._largest)

    def row(self, name: str, limit: float | None) -> Row:
        return Row(name, self._largest[name], float(np.mean(self._sums[name])), limit)


class _Painter:
    """Pictures of given attributes, by the native splatter, on the avatar's own background."""

    def __init__(self, avatar: Avatar) -> None:
        layers, is_transparent = compose(avatar, avatar.camera, None)
        canvas = Canvas(avatar.camera, avatar.raster, layers, is_transparent, "float32")
        self._engine = CpuEngine(avatar, EngineConfig())
        self._canvas = self._engine.prepare(canvas)
        self._shape = (avatar.camera.height, avatar.camera.width, 3)

    def paint(self, attributes: Arrays, camera: FloatArray) -> FloatArray:
        """`camera` is the network's input: Rc row-major and Tc (MODEL section 4)."""
        viewmat = np.eye(4, dtype=np.float32)
        viewmat[:3, :3] = camera[:9].reshape(3, 3).T
        viewmat[:3, 3] = camera[9:]
        picture = np.empty(self._shape, np.float32)
        arrays = {name: np.ascontiguousarray(attributes[name][0]) for name in _ATTRIBUTES}
        self._engine.splat(self._canvas, Gaussians(**arrays), viewmat, picture)
        return np.clip(picture, 0.0, 1.0)


class _Runner(BaseRunner):  # type: ignore[misc]
    """A function as Polygraphy runs it."""

    def __init__(
        self, name: str, shapes: Mapping[str, tuple[int, ...]], run: Callable[[Arrays], Arrays]
    ) -> None:
        super().__init__(name=name)
        self._run = run
        self._metadata = TensorMetadata()
        for tensor, shape in shapes.items():
            self._metadata.add(
                tensor, np.float32, tuple(None if size == -1 else size for size in shape)
            )

    def get_input_metadata_impl(self) -> Any:
        return self._metadata

    def infer_impl(self, feed_dict: Arrays) -> Arrays:
        self.inference_time = 0.0  # nobody asks
        return self._run(feed_dict)


def _compare(
    feeds: Sequence[Arrays],
    shapes: Mapping[str, tuple[int, ...]],
    reference: Callable[[Arrays], Arrays],
    run: Callable[[Arrays], Arrays],
) -> Iterable[tuple[Arrays, Arrays, Arrays]]:
    """Per feed: it, what the reference gives, what the graph gives."""
    runners = [_Runner("reference", shapes, reference), _Runner("graph", shapes, run)]
    results = Comparator.run(runners, data_loader=feeds, streaming=True)
    for feed, result in zip(feeds, results, strict=True):
        expected, got = (iterations[0] for _, iterations in result.items())
        yield feed, expected, got


def _torch(network: ReferenceNetwork, outputs: Sequence[str]) -> Callable[[Arrays], Arrays]:
    def run(feed: Arrays) -> Arrays:
        with torch.inference_mode():
            deformed = network(*(torch.tensor(feed[n]) for n in ("window", "eye", "camera")))
        # Where a head is missing, an output is a parameter.
        return {name: getattr(deformed, name).detach().numpy() for name in outputs}

    return run


def _onnx_runtime(model: Any, static: Arrays) -> Callable[[Arrays], Arrays]:
    session = SessionFromOnnx(model.SerializeToString())()
    names = [output.name for output in session.get_outputs()]

    def run(feed: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, {**feed, **static}), strict=True))

    return run


def _feed(item: FrameInput) -> Arrays:
    """A batch of one frame, under the graph's names."""
    return {
        "window": item.window[np.newaxis],
        "eye": np.array([item.eye], np.float32),
        "camera": item.camera[np.newaxis],
    }


def _crop(name: str, array: FloatArray, count: int) -> FloatArray:
    """Without padding; attention has a layer axis first."""
    return array[:, :, :count] if name == "attention" else array[:, :count]
