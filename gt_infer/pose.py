"""Where the head is in front of the camera, and the one home of the angle conventions.

A pose is what a face tracker gives per frame: three angles and a translation (MODEL section 4).
A point X of the head lies at Xc = R X + trans in tracker space, visible when Xc.z < 0, with

    R = Rx(pitch) Ry(yaw) Rz(roll)

pitch > 0 nods down, yaw > 0 turns to the person's left, roll > 0 turns clockwise in the picture.
Everything else (the splatter's view matrix, the network's camera input) follows from these six
numbers and is computed in float64.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .types import FloatArray

__all__ = ["Pose"]

Float64Array = npt.NDArray[np.float64]
Vector3 = tuple[float, float, float]

# transforms_*.json stores the camera's position in tenths of the tracker's (and head's) unit.
_TRANSFORM_UNITS = 10.0
# Largest |M M^T - 1| and |bottom row - (0, 0, 0, 1)| of a matrix that is still taken as rigid:
# files written with four decimals pass, a scaled or sheared matrix does not.
_RIGID_TOLERANCE = 1e-3
# Below this cos(yaw) pitch and roll turn about the same axis, and only their sum is known.
_GIMBAL_COS = 1e-6
# No angle, translation or matrix entry comes near it, and float32 arithmetic on it cannot overflow.
_LARGEST = 1e6


@dataclass(frozen=True, slots=True)
class Pose:
    """A head pose, or an offset from an avatar's mean pose.

    Attributes:
        euler: (pitch, yaw, roll) in radians.
        trans: translation in head-space units, as tracked: z is about -10 for a portrait.
        relative: euler and trans are added to the avatar's mean training pose by `resolve`;
            a renderer does that. Until then the pose has no view matrix.

    Raises:
        InputError: not three finite numbers each.
    """

    euler: Vector3
    trans: Vector3
    relative: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "euler", _vector3("euler", self.euler))
        object.__setattr__(self, "trans", _vector3("trans", self.trans))

    @classmethod
    def from_tracking(cls, euler: npt.ArrayLike, trans: npt.ArrayLike) -> Pose:
        """The pose of one tracked frame, one row of `track_params.pt`.

        Args:
            euler: [3] pitch, yaw, roll in radians.
            trans: [3] in head-space units.

        Raises:
            InputError: a shape or value is wrong.
        """
        return cls(_vector3("euler", euler), _vector3("trans", trans))

    @classmethod
    def from_transform_matrix(cls, matrix: npt.ArrayLike) -> Pose:
        """The pose of one frame of `transforms_*.json`: `transform_matrix`, camera to head.

        Args:
            matrix: [4, 4], [R^T | -R^T trans / 10] over (0, 0, 0, 1). Its translation is in tenths
                of head-space units, as the official files have it.

        Raises:
            InputError: not [4, 4], not finite, or not a rotation and a translation.
        """
        m = _array("transform_matrix", matrix, (4, 4))
        bottom = float(np.abs(m[3] - (0.0, 0.0, 0.0, 1.0)).max())
        if bottom > _RIGID_TOLERANCE:
            raise InputError(
                f"transform_matrix: the bottom row is {m[3].tolist()}, expected [0, 0, 0, 1]. "
                "If the matrix is stored for row vectors, transpose it."
            )
        rotation = m[:3, :3].T
        deviation = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if deviation > _RIGID_TOLERANCE:
            raise InputError(
                f"transform_matrix: not rigid, M M^T differs from 1 by {deviation:.3g} (at most "
                f"{_RIGID_TOLERANCE:g}). Remove scale and shear from the upper left 3x3."
            )
        if np.linalg.det(rotation) < 0.0:
            raise InputError(
                "transform_matrix: a reflection (its determinant is -1), expected a rotation. "
                "An axis is flipped: the head's y points up and z towards the camera."
            )
        return cls(_euler_of(rotation), _vector3("trans", -_TRANSFORM_UNITS * rotation @ m[:3, 3]))

    @classmethod
    def from_degrees(cls, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Pose:
        """Turn the head away from the avatar's mean pose, by angles in degrees.

        All zero is the mean pose itself. Avatars are trained on perhaps 15 degrees each way;
        far outside that they show artefacts.

        Raises:
            InputError: an angle is not a finite number.
        """
        degrees = [_number(n, v) for n, v in (("pitch", pitch), ("yaw", yaw), ("roll", roll))]
        pitch_rad, yaw_rad, roll_rad = map(math.radians, degrees)
        return cls((pitch_rad, yaw_rad, roll_rad), (0.0, 0.0, 0.0), relative=True)

    def resolve(self, mean_euler: npt.ArrayLike, mean_trans: npt.ArrayLike) -> Pose:
        """This pose in absolute terms, given an avatar's mean [3] euler and [3] trans.

        Angles add one by one, which for the few degrees of a portrait is a turn about the head's
        own axes. An absolute pose returns itself.
        """
        if not self.relative:
            return self
        pitch, yaw, roll = _vector3("mean_euler", mean_euler)
        x, y, z = _vector3("mean_trans", mean_trans)
        return Pose(
            (self.euler[0] + pitch, self.euler[1] + yaw, self.euler[2] + roll),
            (self.trans[0] + x, self.trans[1] + y, self.trans[2] + z),
        )

    def rotation(self) -> Float64Array:
        """R [3, 3] float64, head to tracker axes.

        Raises:
            InputError: the pose is relative.
        """
        return np.array(self._rotation())

    def viewmat(self) -> FloatArray:
        """World to camera [4, 4] float32, row-major, +z forward, +y down.

        Raises:
            InputError: the pose is relative.
        """
        right, down, forward, (x, y, z) = self._camera()
        rows = ((*right, x), (*down, y), (*forward, z), (0.0, 0.0, 0.0, 1.0))
        return np.array(rows, np.float32)

    def camera_vector(self) -> FloatArray:
        """The network's camera input [12] float32: camera axes in head space, row-major, then Tc.

        Raises:
            InputError: the pose is relative.
        """
        right, down, forward, tc = self._camera()
        columns = zip(right, down, forward, strict=True)
        return np.array([*itertools.chain(*columns), *tc], np.float32)

    def camera_center(self) -> FloatArray:
        """The camera's position in head space, [3] float32; directions for SH start there.

        Raises:
            InputError: the pose is relative.
        """
        right, down, forward, (x, y, z) = self._camera()
        axes = zip(right, down, forward, strict=True)
        return np.array([-(r * x + d * y + f * z) for r, d, f in axes], np.float32)

    # Once per frame and more: plain numbers, because numpy takes longer to be called than these
    # few products take.

    def _rotation(self) -> tuple[Vector3, Vector3, Vector3]:
        """Rows of R = Rx(pitch) Ry(yaw) Rz(roll)."""
        if self.relative:
            raise InputError(
                "pose: relative to an avatar's mean pose, which it does not know; call "
                "resolve(mean_euler, mean_trans) first."
            )
        (sp, cp), (sy, cy), (sr, cr) = ((math.sin(a), math.cos(a)) for a in self.euler)
        # Rz turns the other way than Rx and Ry: that is how the data are.
        return (
            (cy * cr, cy * sr, sy),
            (sp * sy * cr - cp * sr, sp * sy * sr + cp * cr, -sp * cy),
            (-cp * sy * cr - sp * sr, -cp * sy * sr + sp * cr, cp * cy),
        )

    def _camera(self) -> tuple[Vector3, Vector3, Vector3, Vector3]:
        """The rows of Rc^T (camera axes in head space) and Tc of MODEL section 4: a head point X is
        at Rc^T X + Tc, z forward."""
        # Tracker axes (x right, y up, z backward) to camera axes (x right, y down, z forward).
        right, (a, b, c), (d, e, f) = self._rotation()
        x, y, z = self.trans
        return right, (-a, -b, -c), (-d, -e, -f), (x, -y, -z)


def _euler_of(rotation: Float64Array) -> Vector3:
    """(pitch, yaw, roll) with Rx Ry Rz = rotation, yaw within +-90 degrees."""
    r = rotation
    cos_yaw = math.hypot(r[0, 0], r[0, 1])
    yaw = math.atan2(r[0, 2], cos_yaw)
    if cos_yaw > _GIMBAL_COS:
        return math.atan2(-r[1, 2], r[2, 2]), yaw, math.atan2(r[0, 1], r[0, 0])
    return math.atan2(r[2, 1], r[1, 1]), yaw, 0.0


def _array(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> Float64Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as err:  # ragged lists, tensors on a GPU
        raise InputError(f"{name}: not an array of numbers ({err})") from err
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.shape != shape:
        raise InputError(f"{name}: expected shape {list(shape)}, got {list(array.shape)}")
    if not (np.abs(array) <= _LARGEST).all():  # phrased so that NaN is refused too
        raise InputError(
            f"{name} = {array.tolist()}: every value must be finite and within +-{_LARGEST:g}"
        )
    return array.astype(np.float64)


def _vector3(name: str, value: npt.ArrayLike) -> Vector3:
    if isinstance(value, tuple) and len(value) == 3 and all(map(_is_fine, value)):
        return value
    x, y, z = _array(name, value, (3,)).tolist()
    return (x, y, z)


def _is_fine(value: object) -> bool:
    return type(value) is float and abs(value) <= _LARGEST


def _number(name: str, value: float) -> float:
    return float(_array(name, value, ()))
