"""Random numbers by place: the same at any call, in any order."""

from __future__ import annotations

import operator

from ..errors import InputError

__all__ = ["Chance"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Chance:
    """Endless random numbers, of which any can be had at once: a function of (seed, stream, index).

    SplitMix64 (Steele, Lea, Flood 2014): its finaliser over the index, started at the finaliser of
    seed and stream, which keeps neighbouring seeds apart.

    Args:
        seed: any integer.
        stream: a name for these numbers; others get other numbers from the same seed.

    Raises:
        InputError: the seed is not an integer.
    """

    __slots__ = ("_origin",)

    def __init__(self, seed: int, stream: int) -> None:
        try:
            self._origin = _mix(_mix(operator.index(seed)) + stream)
        except TypeError as err:
            raise InputError(f"seed = {seed!r}: must be an integer") from err

    def bits(self, index: int) -> int:
        """64 of them, for any integer index."""
        return _mix(self._origin + index * _GOLDEN)

    def uniform(self, index: int) -> float:
        """A number in [0, 1), for any integer index."""
        return (self.bits(index) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
