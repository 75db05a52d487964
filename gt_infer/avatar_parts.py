"""The parts of an avatar that are not networks: Gaussians, training poses, the audio front-end.

Each knows what makes it valid; `Avatar` asks them all when it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .config import TIMING
from .errors import AvatarError
from .types import FloatArray

__all__ = [
    "AudioFrontend",
    "CanonicalGaussians",
    "Checklist",
    "FrontendKind",
    "LogMelConstants",
    "SpeechEncoder",
    "TrainingPoses",
    "check_quaternions",
]

FrontendKind = Literal["logmel29", "features", "encoder"]

_SH_COEFFICIENTS = (1, 4, 9, 16)  # degree 0 to 3
_MAX_LOG_SCALE = 80.0  # exp of it, and of its negative, is still a normal float32
_MIN_QUATERNION = 1e-8
_MAX_FFT = 1 << 16
_MAX_LEFT, _MAX_RIGHT = 20 * TIMING.sample_rate, TIMING.sample_rate // 2  # samples of an encoder
_MAX_TRANSLATION = 1e4  # head-space units; a portrait's is about 10


class Checklist:
    """Collects what is wrong with a set of tensors, so that a user sees all of it at once.

    Attributes:
        problems: (tensor name, what is wrong), in the order found.
    """

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def refuse(self, name: str, what: str) -> None:
        self.problems.append((name, what))

    def array(self, name: str, array: np.ndarray[Any, Any], *shape: int | None) -> bool:
        """Refuse another shape (None = any size), another dtype than float32, NaN and inf."""
        fits = len(array.shape) == len(shape) and all(
            want is None or want == got for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            self.refuse(name, f"expected shape [{wanted}], got {list(array.shape)}")
        elif array.dtype != np.float32:
            self.refuse(name, f"expected float32, got {array.dtype}")
        elif not _is_finite(array):
            bad = ~np.isfinite(array)
            first = ", ".join(str(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            self.refuse(
                name,
                f"{np.count_nonzero(bad)} of {array.size} values are NaN or infinite, the first at "
                f"[{first}]. The training diverged, or the file is damaged.",
            )
        return fits

    def raise_first(self) -> None:
        """Raises: AvatarError with the first problem and the number of others, if any."""
        if self.problems:
            name, what = self.problems[0]
            others = len(self.problems) - 1
            more = f" (and {others} more problems)" if others else ""
            raise AvatarError(f"{name}: {what}{more}")


@dataclass(frozen=True, slots=True, eq=False)
class CanonicalGaussians:
    """N Gaussians before deformation, raw as trained.

    Attributes:
        means: [N, 3] float32, head space.
        log_scales: [N, 3] float32.
        quats: [N, 4] float32, w x y z, any length but zero.
        logit_opacities: [N] float32.
        sh: [N, K, 3] float32, K = (degree + 1)^2, degree 0 to 3.
    """

    means: FloatArray
    log_scales: FloatArray
    quats: FloatArray
    logit_opacities: FloatArray
    sh: FloatArray

    def check(self) -> None:
        """Refuse shapes that do not fit and values that mean nothing. Raises: AvatarError."""
        checks = Checklist()
        if checks.array("gaussians.means", self.means, None, 3) and not len(self.means):
            checks.refuse("gaussians.means", "zero Gaussians, nothing to show")
        count = self.means.shape[0] if self.means.ndim else None
        checks.array("gaussians.log_scales", self.log_scales, count, 3)
        checks.array("gaussians.quats", self.quats, count, 4)
        checks.array("gaussians.logit_opacities", self.logit_opacities, count)
        if checks.array("gaussians.sh", self.sh, count, None, 3) and (
            self.sh.shape[1] not in _SH_COEFFICIENTS
        ):
            checks.refuse(
                "gaussians.sh", f"{self.sh.shape[1]} coefficients, expected {_SH_COEFFICIENTS}"
            )
        checks.raise_first()
        largest = float(np.abs(self.log_scales).max())
        if largest > _MAX_LOG_SCALE:
            raise AvatarError(
                f"gaussians.log_scales: magnitude {largest:.4g} is beyond {_MAX_LOG_SCALE}. They "
                "are logarithms of standard deviations."
            )
        check_quaternions(self.quats)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPoses:
    """Where the head was and how far the eyes were shut in the M training frames.

    Attributes:
        euler: [M, 3] float32, radians: pitch, yaw, roll.
        trans: [M, 3] float32, head-space units.
        blink: [M] float32 in [0, 1].
    """

    euler: FloatArray
    trans: FloatArray
    blink: FloatArray

    @property
    def mean_euler(self) -> tuple[float, float, float]:
        """Mean (pitch, yaw, roll), radians."""
        return _mean3(self.euler)

    @property
    def mean_trans(self) -> tuple[float, float, float]:
        """Mean translation, head-space units."""
        return _mean3(self.trans)

    def check(self) -> None:
        """Refuse shapes that do not fit and values out of range. Raises: AvatarError."""
        checks = Checklist()
        if checks.array("poses.euler", self.euler, None, 3) and not len(self.euler):
            checks.refuse("poses.euler", "no training frames; leave the poses out instead")
        count = self.euler.shape[0] if self.euler.ndim else None
        checks.array("poses.trans", self.trans, count, 3)
        checks.array("poses.blink", self.blink, count)
        checks.raise_first()
        for name, array, low, high in (
            ("poses.euler", self.euler, -2 * math.pi, 2 * math.pi),
            ("poses.trans", self.trans, -_MAX_TRANSLATION, _MAX_TRANSLATION),
            ("poses.blink", self.blink, 0.0, 1.0),
        ):
            if array.min() < low or array.max() > high:
                raise AvatarError(
                    f"{name}: values from {array.min():.4g} to {array.max():.4g}, expected "
                    f"{low:.4g} to {high:.4g}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class LogMelConstants:
    """What defines a log-mel front-end, frozen as trained; samples are at `sample_rate`.

    Attributes:
        mean, std: [C] float32, normalisation of each band.
        hop, window, n_fft: samples.
        f_min, f_max: Hz, edges of the first and last band.
        eps: added to a band's power before the logarithm.
    """

    mean: FloatArray
    std: FloatArray
    sample_rate: int = 16_000
    hop: int = 320
    window: int = 400
    n_fft: int = 512
    f_min: float = 80.0
    f_max: float = 7600.0
    eps: float = 1e-6

    def check(self, channels: int) -> None:
        """Refuse numbers that contradict each other or the timing. Raises: AvatarError."""
        checks = Checklist()
        checks.array("frontend.mean", self.mean, channels)
        if checks.array("frontend.std", self.std, channels) and self.std.min() <= 0:
            checks.refuse("frontend.std", "every value must be > 0")
        timing = (self.sample_rate, self.hop)
        trained = (TIMING.sample_rate, TIMING.hop_samples)
        if timing != trained:
            checks.refuse("frontend", f"sample_rate, hop = {timing}, expected {trained}")
        if not self.hop <= self.window <= self.n_fft <= _MAX_FFT or self.window % 2:
            checks.refuse(
                "frontend",
                f"window = {self.window}, n_fft = {self.n_fft}, expected an even window with hop "
                f"<= window <= n_fft <= {_MAX_FFT}",
            )
        elif self.n_fft & (self.n_fft - 1):
            checks.refuse("frontend", f"n_fft = {self.n_fft}: must be a power of two")
        # Not sample_rate / 2: a file may claim a rate that no float can hold.
        if not (0 <= self.f_min < self.f_max and 2 * self.f_max <= self.sample_rate):
            checks.refuse(
                "frontend",
                f"f_min = {self.f_min}, f_max = {self.f_max}, expected 0 <= f_min < f_max <= "
                "sample_rate / 2",
            )
        if not 0 < self.eps < math.inf:
            checks.refuse("frontend", f"eps = {self.eps}, must be > 0")
        checks.raise_first()


@dataclass(frozen=True, slots=True, eq=False)
class SpeechEncoder:
    """An ONNX model that turns sound into features: float32 [1, n] at 16 kHz -> [1, T, C] at 50 Hz.

    Attributes:
        model: [bytes] uint8, the serialized model with its weights inside.
        channels: C.
        left_context, right_context: samples before and after a step that it is computed from.
    """

    model: npt.NDArray[np.uint8]
    channels: int
    left_context: int
    right_context: int

    def check(self) -> None:
        """Refuse what cannot be an encoder. Raises: AvatarError."""
        if self.model.ndim != 1 or self.model.dtype != np.uint8 or not self.model.size:
            raise AvatarError(
                f"frontend.encoder: expected bytes, got {self.model.dtype} {list(self.model.shape)}"
            )
        for name, most in (("left_context", _MAX_LEFT), ("right_context", _MAX_RIGHT)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise AvatarError(f"frontend.{name} = {value}: must be 0 to {most} samples")


@dataclass(frozen=True, slots=True, eq=False)
class AudioFrontend:
    """Which sound features the networks were trained on.

    Attributes:
        kind: "logmel29", computed from sound by gt_infer; "encoder", computed by a model that the
            avatar brings along; or "features", some other extractor's, which come precomputed.
        channels: C of one 50 Hz feature step.
        constants: of the log-mel front-end, else None.
        encoder: the model, else None.
    """

    kind: FrontendKind
    channels: int
    constants: LogMelConstants | None = None
    encoder: SpeechEncoder | None = None

    def check(self) -> None:
        """Refuse constants that do not fit the kind. Raises: AvatarError."""
        if self.kind not in get_args(FrontendKind):
            raise AvatarError(
                f"frontend.kind = {self.kind!r}: expected one of {get_args(FrontendKind)}"
            )
        if (self.kind == "logmel29") != (self.constants is not None):
            raise AvatarError("frontend.constants: logmel29 has some, features has none")
        if (self.kind == "encoder") != (self.encoder is not None):
            raise AvatarError("frontend.encoder: an encoder has a model, the others have none")
        if self.encoder is not None:
            self.encoder.check()
            if self.encoder.channels != self.channels:
                raise AvatarError(
                    f"frontend.encoder gives {self.encoder.channels} channels, expected "
                    f"{self.channels}"
                )
        if self.constants is not None:
            self.constants.check(self.channels)


def check_quaternions(quats: FloatArray, hint: str = "") -> None:
    """Refuse quaternions [N, 4] without a direction. Raises: AvatarError, ending with `hint`."""
    lengths = np.sqrt(np.square(quats, dtype=np.float64).sum(axis=1))
    bad = np.flatnonzero(lengths < _MIN_QUATERNION)
    if len(bad):
        raise AvatarError(
            f"gaussians.quats[{bad[0]}]: {len(bad)} of {len(quats)} quaternions have length zero "
            f"and give no rotation{hint}"
        )


def _mean3(rows: FloatArray) -> tuple[float, float, float]:
    mean = rows.mean(axis=0, dtype=np.float64)
    return float(mean[0]), float(mean[1]), float(mean[2])


def _is_finite(array: FloatArray) -> bool:
    # A sum is NaN or inf whenever a term is: one pass, without a temporary of the same size.
    # A float64 sum of float32 values cannot overflow by itself.
    with np.errstate(invalid="ignore"):
        return math.isfinite(float(np.sum(array, dtype=np.float64)))
