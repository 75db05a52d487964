"""Speech encoders that an avatar brings along: any ONNX model, streamed block by block."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import TIMING
from ..errors import AudioError
from ..types import FloatArray

if TYPE_CHECKING:
    from ..avatar import SpeechEncoder

__all__ = ["BLOCK_SAMPLES", "OnnxEncoder", "open_session", "run_session"]

# Two steps, one frame: half the runs of single steps, and no frame waits longer.
_BLOCK_STEPS = TIMING.chunk_samples // TIMING.hop_samples
BLOCK_SAMPLES = TIMING.chunk_samples
# Of ONNX Runtime's execution providers, the best first.
_PROVIDERS = (
    "NvTensorRTRTXExecutionProvider",
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)


def open_session(model: bytes) -> Any:
    """The model in ONNX Runtime, on a GPU where this installation has one.

    Raises:
        AudioError: ONNX Runtime is missing, or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise AudioError(
            f"this avatar's speech encoder needs ONNX Runtime ({err}): "
            "pip install 'gt-infer[encoder]'"
        ) from err
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: a model's warnings are its maker's
    # The splatter has the cores; threads that spin between frames would take them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    here = onnxruntime.get_available_providers()
    providers = [name for name in _PROVIDERS if name in here]
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as err:  # its own exceptions have no common base
        raise AudioError(f"the speech encoder cannot be loaded: {_first_line(err)}") from err


def run_session(session: Any, samples: FloatArray) -> FloatArray:
    """Samples [n] -> steps [T, C] of the whole piece.

    Raises:
        AudioError: the model fails, or gives something else.
    """
    name = session.get_inputs()[0].name
    try:
        (steps,) = session.run(None, {name: samples[np.newaxis]})
    except Exception as err:
        raise AudioError(f"the speech encoder failed: {_first_line(err)}") from err
    if steps.ndim != 3 or steps.shape[0] != 1 or steps.dtype != np.float32:
        raise AudioError(
            f"the speech encoder gave {steps.dtype} {list(steps.shape)}, expected float32 "
            "[1, steps, channels]"
        )
    result: FloatArray = steps[0]
    return result


class OnnxEncoder:
    """A `FeatureFrontend` around an encoder.

    Steps come in pairs. A pair sees the sound from `left_context` before its first step to
    `right_context` after its end, cut at the clip's start and followed by silence at its end: a
    function of the clip alone, however it is pushed. It equals the encoder over the whole clip as
    far as the encoder looks no further than that.

    Raises:
        AudioError: see `open_session`.
    """

    def __init__(self, encoder: SpeechEncoder) -> None:
        self._encoder = encoder
        self._session: Any = None
        self._process = 0
        # Whole pairs, so that what a frame can know at its due time is what has been computed.
        self._right = -(-encoder.right_context // BLOCK_SAMPLES) * BLOCK_SAMPLES
        self._left = -(-encoder.left_context // TIMING.hop_samples) * TIMING.hop_samples
        self._open()
        self.reset()

    @property
    def channels(self) -> int:
        return self._encoder.channels

    @property
    def right_context_samples(self) -> int:
        """Of the last step of a pair; the first waits for it."""
        return TIMING.hop_samples + self._right

    def reset(self) -> None:
        self._sound: FloatArray = np.zeros(0, np.float32)  # from `_start` on
        self._start = 0
        self._taken = 0
        self._next = 0  # first step of the next pair

    def push(self, samples: FloatArray) -> FloatArray:
        self._sound = np.concatenate([self._sound, samples])
        self._taken += len(samples)
        pairs = []
        while self._next * TIMING.hop_samples + BLOCK_SAMPLES + self._right <= self._taken:
            pairs.append(self._pair())
        return self._joined(pairs)

    def flush(self) -> FloatArray:
        total = -(-self._taken // TIMING.hop_samples)
        # Silence follows the clip. Two blocks: the last pair may be half a pair.
        silence = np.zeros(self._right + 2 * BLOCK_SAMPLES, np.float32)
        self._sound = np.concatenate([self._sound, silence])
        first = self._next
        pairs = []
        while self._next < total:
            pairs.append(self._pair())
        steps = self._joined(pairs)[: total - first]
        self.reset()
        return steps

    def _pair(self) -> FloatArray:
        at = self._next * TIMING.hop_samples
        start = max(0, at - self._left)
        end = at + BLOCK_SAMPLES + self._right
        self._sound = self._sound[start - self._start :]
        self._start = start
        steps = run_session(self._open(), self._sound[: end - start])
        first = (at - start) // TIMING.hop_samples
        pair = steps[first : first + _BLOCK_STEPS]
        if pair.shape != (_BLOCK_STEPS, self.channels):
            raise AudioError(
                f"the speech encoder gave {list(steps.shape)} for {end - start} samples: expected "
                f"at least {first + _BLOCK_STEPS} steps of {self.channels} channels. Its right "
                "context is longer than declared."
            )
        self._next += _BLOCK_STEPS
        return pair

    def _joined(self, pairs: list[FloatArray]) -> FloatArray:
        if not pairs:
            return np.zeros((0, self.channels), np.float32)
        return np.concatenate(pairs)

    def _open(self) -> Any:
        """This process's session: a forked child must not use its parent's threads."""
        if self._session is None or self._process != os.getpid():
            self._session = open_session(self._encoder.model.tobytes())
            self._process = os.getpid()
        return self._session


def _first_line(err: Exception) -> str:
    text = str(err).strip()
    return text.splitlines()[0][:200] if text else type(err).__name__
