"""A built engine as the accuracy gate runs it, where there is a GPU.

It goes through the runtime's own class, so that what is judged is what will run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gt_infer.avatar import Avatar
from gt_infer.engines.deform_io import (
    EnginePrecision,
    TensorSpec,
    avatar_inputs,
    deform_tensors,
)
from gt_infer.engines.tensorrt import DeformNetwork
from gt_infer.engines.tensorrt_api import Flavour
from gt_infer.types import FloatArray

from .onnx_deform import PRODUCT_TYPES

__all__ = ["engine_function"]

Arrays = Mapping[str, FloatArray]


def engine_function(
    flavour: Flavour,
    plan: bytes,
    avatar: Avatar,
    precision: EnginePrecision,
    *,
    attention: bool = False,
    onnx: bytes | None = None,
    allow_host_code: bool = False,
    cuda: Any = None,
) -> Callable[[Arrays], Arrays]:
    """A frame's inputs [1, ...] to the engine's outputs, padded.

    Args:
        onnx, allow_host_code: as for `DeformNetwork`.
        cuda: device memory and streams, None for Polygraphy's.

    Raises: EngineError: the engine does not load or run.
    """
    if cuda is None:
        import polygraphy.cuda

        cuda = polygraphy.cuda
    specs = deform_tensors(avatar, precision, attention=attention)
    network = DeformNetwork(flavour, plan, specs, onnx=onnx, allow_host_code=allow_host_code)
    buffers = {spec.name: cuda.DeviceArray(_shape(spec), _storage(spec)) for spec in specs}
    network.bind({name: buffer.ptr for name, buffer in buffers.items()})
    stream = cuda.Stream()
    for name, array in avatar_inputs(avatar).items():
        half = name == "features" and precision != "fp32"
        buffers[name].copy_from(_rounded(array, precision) if half else array)

    def run(feed: Arrays) -> Arrays:
        for name, array in feed.items():
            buffers[name].copy_from(np.ascontiguousarray(array))
        network.enqueue(1, stream.ptr)
        stream.synchronize()
        outputs = (spec for spec in specs if spec.role == "output")
        return {
            spec.name: buffers[spec.name].copy_to(np.empty(_shape(spec), np.float32))
            for spec in outputs
        }

    return run


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if size == -1 else size for size in spec.shape)


def _storage(spec: TensorSpec) -> npt.DTypeLike:
    """numpy has no bfloat16: halves travel as their 16 bits."""
    return np.float32 if spec.dtype == "float32" else np.int16


def _rounded(array: FloatArray, precision: EnginePrecision) -> npt.NDArray[np.int16]:
    half = torch.tensor(array).to(PRODUCT_TYPES[precision])
    bits: npt.NDArray[np.int16] = half.view(torch.int16).numpy()
    return bits
