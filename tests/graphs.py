"""One small avatar and its graphs, exported once for all tests: torch takes seconds for each."""

from __future__ import annotations

import functools
from typing import Any

from gt_infer.avatar import Avatar
from tests.synthetic import make_avatar


@functools.cache
def small_avatar() -> Avatar:
    return make_avatar(n=100)


@functools.cache
def deform_graph() -> Any:
    """fp16. Not to be changed: copy it."""
    from gt_export.onnx_deform import deform_model

    return deform_model(small_avatar(), "fp16")


@functools.cache
def canonical_graph() -> Any:
    """Without F_can. Not to be changed: copy it."""
    from gt_export.onnx_canonical import canonical_model

    return canonical_model(small_avatar())


def copied(model: Any) -> Any:
    result = type(model)()
    result.CopyFrom(model)
    return result
