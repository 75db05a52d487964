"""A torch module becomes a clean ONNX model: dynamic batch, own names, nothing of this machine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gt_infer import __version__
from gt_infer.engines.deform_io import TensorSpec
from gt_infer.errors import GtError

__all__ = ["OPSET", "export_onnx"]

# The newest at which every TensorRT reads GridSample right: 20 renamed its modes, and parsers of
# TensorRT up to 11.1 and RTX up to 1.5 take "linear" for nearest (docs/export.md).
OPSET = 18

_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_TRACED_SIZE = 3  # of the dynamic axis while tracing: neither 0 nor 1, which torch treats apart


def export_onnx(
    module: nn.Module,
    specs: Sequence[TensorSpec],
    *,
    dynamic: str,
    largest: int,
    metadata: Mapping[str, str],
    opset: int = OPSET,
) -> Any:
    """An `onnx.ModelProto` of a module in evaluation mode.

    Args:
        specs: of its inputs, then outputs, in order; -1 is the one dynamic size.
        dynamic: that size's name. largest: the most it may be.
        metadata: what the model says about itself.

    Equal modules give equal bytes.

    Raises:
        GtError: torch cannot express it in ONNX.
    """
    import onnx

    inputs = [spec for spec in specs if spec.role != "output"]
    example = tuple(
        torch.zeros(
            [_TRACED_SIZE if size == -1 else size for size in spec.shape], dtype=_TYPES[spec.dtype]
        )
        for spec in inputs
    )
    axis = torch.export.Dim(dynamic, min=1, max=largest)
    shapes = {
        spec.name: {index: axis for index, size in enumerate(spec.shape) if size == -1} or None
        for spec in inputs
    }
    with _quiet(), torch.no_grad():
        try:
            traced = torch.export.export(module.eval(), example, dynamic_shapes=shapes)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in specs if spec.role == "output"],
                opset_version=opset,
                verbose=False,
            )
        except Exception as err:  # the exporter's own errors have no common base
            first = next((line for line in str(err).splitlines() if line.strip()), repr(err))
            raise GtError(
                f"{type(module).__name__}: torch {torch.__version__} cannot export it to ONNX "
                f"opset {opset} ({first.strip()})"
            ) from err
    assert program is not None
    model = program.model_proto
    _clean(model, dynamic)
    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "gt_export", __version__
    onnx.checker.check_model(model, full_check=True)
    _check_interface(model, specs)
    return model


def _clean(model: Any, dynamic: str) -> None:
    """Removes where in which source file each node came from, and names the dynamic size."""
    del model.graph.value_info[:]  # any reader infers it
    for item in (*model.graph.node, *model.graph.initializer):
        item.doc_string = ""
        item.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.graph.name = "gt_infer"
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = dynamic


def _check_interface(model: Any, specs: Sequence[TensorSpec]) -> None:
    """The exporter may drop an unused input or change a type; engines bind by `specs`."""
    import onnx

    found = {
        value.name: (
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(
                -1 if size.dim_param else size.dim_value
                for size in value.type.tensor_type.shape.dim
            ),
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    wanted = {spec.name: (spec.dtype, spec.shape) for spec in specs}
    if found != wanted:
        raise GtError(f"the exported graph has {found}, expected {wanted}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes about other packages from users' terminals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
