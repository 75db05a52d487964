"""Frames of one canvas on a GPU: buffers by batch, captured graphs, replay, lists that grow.

A frame is [inputs up, networks, splat, pack, optional copies down] on one stream, captured once for
every kind of frame and replayed. Addresses are fixed: what a graph writes lies in the batch's own
buffers, and one more copy, behind the graph, brings a picture to where it is wanted.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..device_image import DeviceImage
from ..errors import EngineError
from ..types import FloatArray
from . import Canvas, FrameJob
from .cuda_api import Array, CudaApi, Event, Graph, InputStage, Outputs, Report, Splatter, Stream

__all__ = ["CanvasFrames", "Drawer", "DrawerMaker", "Kind"]

_BATCHES = (1, 4, 16, 32, 64)  # buffers are made for these; a batch uses the smallest that holds it
_MOST_GRAPHS = 64  # of a batch's buffers; the one used longest ago goes
_MOST_GROWTHS = 4  # of one frame: each at least by half
# Lists grow between frames, before they are full: a frame that does not fit is drawn twice.
_NEARLY_FULL = 0.8

Pixels = npt.NDArray[Any]


class Drawer(Protocol):
    """What draws a batch of frames: networks and splatter with their buffers."""

    @property
    def stage(self) -> InputStage: ...
    @property
    def splatter(self) -> Splatter: ...
    @property
    def memory_bytes(self) -> int: ...

    def prepare(self, batch: int, stream: Stream) -> None:
        """What cannot be captured: called before the first frame of a batch."""

    def enqueue(self, batch: int, outputs: Outputs, stream: Stream) -> None:
        """Inputs in the stage's device buffers to pictures; captured."""


class DrawerMaker(Protocol):
    def __call__(self, batch: int, canvas: Canvas) -> Drawer:
        """A drawer of up to `batch` frames."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a graph was captured for."""

    batch: int
    to_host: bool
    alpha: bool
    depth: bool


class CanvasFrames:
    """Draws frames of one canvas. Not thread-safe: its engine takes turns.

    Args:
        stream: where frames run. Captures happen on a stream of their own: a caller's may be a
            default stream, which cannot be captured.
        make_drawer: called for every size of batch that comes up.
        most: frames in one launch.
        like: frames of the same canvas, to share its background with.
    """

    def __init__(
        self,
        api: CudaApi,
        canvas: Canvas,
        stream: Stream,
        make_drawer: DrawerMaker,
        *,
        most: int = _BATCHES[-1],
        like: CanvasFrames | None = None,
    ) -> None:
        self._api = api
        self.canvas = canvas
        self._stream = stream
        self._make_drawer = make_drawer
        self._most = most
        self._capture_stream = api.Stream(stream.device)
        self._background: Array = (
            _upload(api, canvas.layers, stream) if like is None else like._background
        )
        self._is_repeated = like is None  # frames that are drawn once are not worth a graph
        channels = 4 if canvas.output == "rgba8" else 3
        self.image_shape = (canvas.camera.height, canvas.camera.width, channels)
        self.plane_shape = self.image_shape[:2]
        self.image_dtype = "float32" if canvas.output == "float32" else "uint8"
        item = 4 if self.image_dtype == "float32" else 1
        self._image_pool = api.PicturePool(stream.device, item * int(np.prod(self.image_shape)))
        self._plane_pool = api.PicturePool(stream.device, 4 * int(np.prod(self.plane_shape)))
        self._batches: dict[int, _Batch] = {}

    @property
    def memory_bytes(self) -> int:
        """Of the device, as far as it is known here."""
        return self._background.nbytes + sum(b.memory_bytes for b in self._batches.values())

    @property
    def graphs(self) -> list[Kind]:
        """What has been captured."""
        return [kind for batch in self._batches.values() for kind in batch.graphs]

    def empty_image(self) -> DeviceImage:
        """Room for a picture."""
        return self._empty(self.image_shape, self.image_dtype, self._image_pool)

    def empty_plane(self) -> DeviceImage:
        """Room for an alpha or depth plane."""
        return self._empty(self.plane_shape, "float32", self._plane_pool)

    def draw(self, jobs: Sequence[FrameJob]) -> None:
        """Draws any number of frames, in launches of up to `most`.

        Raises: `_cuda`'s errors; EngineError: the lists cannot grow enough.
        """
        for start in range(0, len(jobs), self._most):
            self._draw(jobs[start : start + self._most])

    def _draw(self, jobs: Sequence[FrameJob]) -> None:
        batch = self._batch_for(len(jobs))
        for slot, job in enumerate(jobs):
            self._set(batch.drawer.stage, slot, job)
        kind = Kind(
            batch=len(jobs),
            to_host=not isinstance(jobs[0].out, DeviceImage),
            alpha=any(job.alpha is not None for job in jobs),
            depth=any(job.depth is not None for job in jobs),
        )
        if kind in batch.graphs:
            self._until_it_fits(batch, lambda: self._replay(batch, kind, jobs))
        else:
            # As it is: kernels must be loaded before they can be captured.
            batch.drawer.prepare(kind.batch, self._stream)
            self._until_it_fits(batch, lambda: self._run(batch, kind, jobs))
            if self._is_repeated:
                batch.capture(kind, self._capture_stream)
        if kind.to_host:
            batch.give(jobs)

    def _run(self, batch: _Batch, kind: Kind, jobs: Sequence[FrameJob]) -> None:
        batch.enqueue(kind, batch.outputs(kind), self._stream)
        if not kind.to_host:
            batch.hand_out(jobs, self._stream)

    def _replay(self, batch: _Batch, kind: Kind, jobs: Sequence[FrameJob]) -> None:
        graph = batch.graphs.get(kind)
        if graph is None:  # the lists have grown: their addresses are new
            graph = batch.capture(kind, self._capture_stream)
        batch.graphs.move_to_end(kind)
        graph.launch(self._stream)
        if not kind.to_host:
            batch.hand_out(jobs, self._stream)

    def _until_it_fits(self, batch: _Batch, run: Callable[[], None]) -> None:
        """Runs a frame, and again with longer lists where they were too short."""
        for _ in range(_MOST_GROWTHS + 1):
            run()
            batch.done.record(self._stream)
            batch.done.synchronize()
            needed, capacity = batch.report.needed, batch.report.capacity
            if needed <= capacity:
                if needed > _NEARLY_FULL * capacity:
                    batch.grow(needed)
                return
            batch.grow(needed)
        raise EngineError(
            f"this frame cannot be drawn: its tile lists need room for {needed} entries, and still "
            f"do not fit after growing {_MOST_GROWTHS + 1} times"
        )

    def _batch_for(self, count: int) -> _Batch:
        capacity = next(size for size in _BATCHES if count <= size)
        if capacity not in self._batches:
            # Kept only when complete: after an out-of-memory error smaller batches go on.
            self._batches[capacity] = _Batch(
                self._api,
                self,
                self._make_drawer(capacity, self.canvas),
                capacity,
                self._background,
                self._stream,
            )
        return self._batches[capacity]

    def _set(self, stage: InputStage, slot: int, job: FrameJob) -> None:
        camera = self.canvas.camera
        stage.set(
            slot,
            window=job.window,
            eye=job.eye,
            camera=job.camera,
            viewmat=job.viewmat,
            focal=camera.focal,
            width=camera.width,
            height=camera.height,
            layer_weights=job.layer_weights,
        )

    def _empty(self, shape: tuple[int, ...], dtype: str, pool: Any) -> DeviceImage:
        array = self._api.DeviceArray(shape, dtype, self._stream, pool)
        return DeviceImage(self._api, array)


class _Batch:
    """The buffers of one size of batch, and the graphs over them."""

    def __init__(
        self,
        api: CudaApi,
        frames: CanvasFrames,
        drawer: Drawer,
        capacity: int,
        background: Array,
        stream: Stream,
    ) -> None:
        self._api = api
        self._canvas = frames.canvas
        self._frames = frames
        self._capacity = capacity
        self._background = background
        self._stream = stream
        self.drawer = drawer
        self.report: Report = api.Report(stream.device)
        self.done: Event = api.Event(stream.device)
        self.graphs: OrderedDict[Kind, Graph] = OrderedDict()
        self._device: dict[str, Array] = {}  # by the name of the job's field
        self._host: dict[str, npt.NDArray[Any]] = {}

    @property
    def memory_bytes(self) -> int:
        return self.drawer.memory_bytes + sum(array.nbytes for array in self._device.values())

    def outputs(self, kind: Kind) -> Outputs:
        """Where frames of a kind go; their buffers are made when first asked for."""
        camera = self._canvas.camera
        return self._api.Outputs(
            width=camera.width,
            height=camera.height,
            raster=self._canvas.raster,
            format=self._canvas.output,
            is_transparent=self._canvas.is_transparent,
            background=self._background,
            images=self._buffer("out"),
            alphas=self._buffer("alpha") if kind.alpha else None,
            depths=self._buffer("depth") if kind.depth else None,
        )

    def enqueue(self, kind: Kind, outputs: Outputs, stream: Stream) -> None:
        """All of a frame; captured as it is."""
        self.drawer.stage.upload(stream)
        self.drawer.enqueue(kind.batch, outputs, stream)
        if kind.to_host:
            for name in _wanted(kind):
                source, destination = self._buffer(name), self._pinned(name)
                for slot in range(kind.batch):
                    source[slot].copy_to_pinned(destination[slot], stream)
        self.drawer.splatter.report(self.report, stream)

    def capture(self, kind: Kind, stream: Stream) -> Graph:
        """After `enqueue` of the same kind: nothing may be allocated in a capture."""
        outputs = self.outputs(kind)
        self._api.begin_capture(stream)
        try:
            self.enqueue(kind, outputs, stream)
        except BaseException:
            self._end_broken_capture(stream)
            raise
        graph = self._api.Graph(stream)
        while len(self.graphs) >= _MOST_GRAPHS:
            self.graphs.popitem(last=False)
        self.graphs[kind] = graph
        return graph

    def grow(self, needed: int) -> None:
        """Longer lists, at new addresses: what was captured is over."""
        self.graphs.clear()
        self.drawer.splatter.grow(needed)

    def hand_out(self, jobs: Sequence[FrameJob], stream: Stream) -> None:
        """Copies on the device to the pictures of the jobs, which are ready behind them."""
        for slot, job in enumerate(jobs):
            for name in ("out", "alpha", "depth"):
                target = getattr(job, name)
                if target is not None:
                    self._buffer(name)[slot].copy_to(target._array, stream)
                    target._array.written_on(stream)

    def give(self, jobs: Sequence[FrameJob]) -> None:
        """Copies from pinned memory to the arrays of the jobs."""
        for slot, job in enumerate(jobs):
            for name in ("out", "alpha", "depth"):
                target: Pixels | None = getattr(job, name)
                if target is not None:
                    np.copyto(target, self._pinned(name)[slot])

    def _buffer(self, name: str) -> Array:
        if name not in self._device:
            shape, dtype = self._facts(name)
            self._device[name] = self._api.DeviceArray(shape, dtype, self._stream)
        return self._device[name]

    def _pinned(self, name: str) -> npt.NDArray[Any]:
        if name not in self._host:
            shape, dtype = self._facts(name)
            self._host[name] = self._api.pinned_empty(self._stream.device, shape, dtype)
        return self._host[name]

    def _facts(self, name: str) -> tuple[tuple[int, ...], str]:
        if name == "out":
            return (self._capacity, *self._frames.image_shape), self._frames.image_dtype
        return (self._capacity, *self._frames.plane_shape), "float32"

    def _end_broken_capture(self, stream: Stream) -> None:
        """The stream must not stay in capture; the error that ended it is the one to tell."""
        with contextlib.suppress(self._api.CudaError):
            self._api.Graph(stream)


def _wanted(kind: Kind) -> list[str]:
    return ["out", *(["alpha"] if kind.alpha else []), *(["depth"] if kind.depth else [])]


def _upload(api: CudaApi, array: FloatArray, stream: Stream) -> Array:
    there = api.DeviceArray(array.shape, "float32", stream)
    there.from_host(array)
    return there
