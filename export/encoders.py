"""A speech encoder from an ONNX file, tried out before it is packed with an avatar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gt_infer.audio.encoder import BLOCK_SAMPLES, OnnxEncoder, open_session, run_session
from gt_infer.avatar import SpeechEncoder
from gt_infer.config import TIMING
from gt_infer.errors import AudioError, CheckpointError, GtError
from gt_infer.types import FloatArray

__all__ = ["read_encoder", "streaming_difference"]

_TRIAL_SECONDS = 3
_SEED = 7


def read_encoder(
    path: Path, *, channels: int, left_context: int, right_context: int
) -> SpeechEncoder:
    """Load an encoder and try it.

    Args:
        channels: that the avatar's networks take.
        left_context, right_context: samples, as declared by whoever converted it.

    Raises:
        CheckpointError: not such a model: inputs, outputs, rate or channels are wrong.
        AudioError: it does not run.
        GtError: onnx is missing.
    """
    model = _load(path)
    inputs = [_interface(value) for value in model.graph.input]
    outputs = [_interface(value) for value in model.graph.output]
    if [len(shape) for _, shape in inputs] != [2] or [len(shape) for _, shape in outputs] != [3]:
        raise CheckpointError(
            f"{path}: takes {inputs} and gives {outputs}; expected one input [1, n], sound at 16 "
            "kHz, and one output [1, steps, channels]. docs/speech-encoders.md shows conversions."
        )
    encoder = SpeechEncoder(
        np.frombuffer(model.SerializeToString(), np.uint8).copy(),
        channels,
        left_context=left_context,
        right_context=right_context,
    )
    encoder.check()
    sound = _noise(TIMING.sample_rate)
    steps = run_session(open_session(encoder.model.tobytes()), sound)
    per_second = TIMING.sample_rate // TIMING.hop_samples
    if steps.shape[1] != channels:
        raise CheckpointError(
            f"{path}: gives {steps.shape[1]} channels, the networks take {channels}"
        )
    if not per_second - 4 <= len(steps) <= per_second + 1:
        raise CheckpointError(
            f"{path}: gives {len(steps)} steps for a second of sound, expected about {per_second}"
        )
    if not np.isfinite(steps).all():
        raise CheckpointError(f"{path}: gives NaN or infinite features")
    try:
        OnnxEncoder(encoder).push(sound)
    except AudioError as err:
        raise CheckpointError(f"{path}: {err}") from err
    return encoder


def streaming_difference(encoder: SpeechEncoder) -> float:
    """How far streamed features are from those of the whole clip, as a share of their standard
    deviation (root mean square over 3 s of noise): what the declared context leaves out."""
    sound = _noise(_TRIAL_SECONDS * TIMING.sample_rate)
    stream = OnnxEncoder(encoder)
    streamed = np.concatenate([stream.push(sound), stream.flush()])
    silence = np.zeros(encoder.right_context + 2 * BLOCK_SAMPLES, np.float32)
    session = open_session(encoder.model.tobytes())
    offline = run_session(session, np.concatenate([sound, silence]))[: len(streamed)]
    return float(np.sqrt(np.square(streamed - offline).mean()) / (offline.std() + 1e-12))


def _noise(count: int) -> FloatArray:
    return (0.1 * np.random.default_rng(_SEED).standard_normal(count)).astype(np.float32)


def _load(path: Path) -> Any:
    try:
        import onnx
    except ImportError as err:
        raise GtError(
            f"--audio-encoder needs onnx ({err}): pip install 'gt-infer[export]'"
        ) from err
    try:
        # With the weights of a file beside it, if it keeps them there: an avatar is one file.
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError as err:
        raise CheckpointError(f"{path}: no such file, or its weights' file is missing") from err
    except Exception as err:  # protobuf's and the checker's own errors
        text = str(err).strip().splitlines()
        reason = text[0][:200] if text else type(err).__name__
        raise CheckpointError(f"{path}: not a valid ONNX model ({reason})") from err
    return model


def _interface(value: Any) -> tuple[str, list[Any]]:
    shape = value.type.tensor_type.shape
    return value.name, [size.dim_param or size.dim_value for size in shape.dim]
