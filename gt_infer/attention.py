"""The paper's attention pictures: what each Gaussian listens to, as grey (MODEL section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .engines import Engine
from .errors import InputError
from .types import FloatArray, Gaussians

__all__ = ["TOKEN_NAMES", "attention_maps", "attention_weights"]

TOKEN_NAMES = ("audio", "eye", "camera", "null")
_SH_0 = math.sqrt(1.0 / (4.0 * math.pi))  # the constant basis function


def attention_weights(attention: FloatArray) -> FloatArray:
    """[L, N, 4] -> [N, 4] in [0, 1]: mean over layers, then min-max over the Gaussians for each
    token. A token that all Gaussians heed alike is 0 throughout."""
    weights = attention.mean(axis=0)
    low, high = weights.min(axis=0), weights.max(axis=0)
    normalised: FloatArray = (weights - low) / np.where(high > low, high - low, 1)
    return normalised


def attention_maps(
    engine: Engine,
    canvas: Any,
    window: FloatArray,
    eye: float,
    camera: FloatArray,
    viewmat: FloatArray,
    image: npt.NDArray[Any],
    *,
    layer_weights: Sequence[float] = (),
) -> npt.NDArray[np.uint8]:
    """One grey picture of the head per token, over the frame's background.

    Args:
        image: a picture of the canvas; gives shape and dtype, its content is not used.

    Returns:
        [4, H, W, 3 or 4], in the order of `TOKEN_NAMES`.

    Raises:
        InputError: the canvas is not of bytes.
    """
    if image.dtype != np.uint8:
        raise InputError('attention pictures need an 8-bit output, not output="float32"')
    gaussians: Gaussians = engine.deform(window, eye, camera, attention=True)
    assert gaussians.attention is not None
    maps = np.empty((len(TOKEN_NAMES), *image.shape), np.uint8)
    for picture, grey in zip(maps, attention_weights(gaussians.attention).T, strict=True):
        sh = np.zeros((len(grey), 16, 3), np.float32)
        sh[:, 0, :] = (grey[:, np.newaxis] - 0.5) / _SH_0  # the splatter adds the 0.5
        engine.splat(
            canvas, replace(gaussians, sh=sh), viewmat, picture, layer_weights=layer_weights
        )
    return maps
