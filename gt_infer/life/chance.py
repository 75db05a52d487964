"""Random numbers that are a function of their place: the same at any call, in any order."""

from __future__ import annotations

from ..errors import InputError

__all__ = ["bits", "check_seed", "uniform"]

_MASK = (1 << 64) - 1


def bits(seed: int, stream: int, index: int) -> int:
    """64 well mixed bits for (seed, stream, index), each any integer.

    Two rounds of SplitMix64's finaliser (Steele, Lea, Flood 2014): one over seed and stream, which
    spreads neighbouring seeds apart, one over the index.
    """
    return _mix(_mix(seed * 0x9E3779B97F4A7C15 + stream) + index * 0x9E3779B97F4A7C15)


def uniform(seed: int, stream: int, index: int) -> float:
    """A number in [0, 1) for (seed, stream, index)."""
    return (bits(seed, stream, index) >> 11) * 2.0**-53


def check_seed(seed: int) -> int:
    """Raises: InputError, not an integer."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed = {seed!r}: must be an integer")
    return seed


def _mix(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
