"""Randomness without a state: each draw is a hash of what it is for, so any of them can be made alone.

The numbers are those of SplitMix64, read at any place. Source: Steele, Lea and Flood 2014, Fast Splittable
Pseudorandom Number Generators, section 5.
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What is drawn: draws for two purposes are independent."""

    PAIRS = 1
    MASKS = 2
    SHIFT = 3
    ORDER = 4
    COINS = 5


def row_keys(indices: Int64s, *, seed: int, epoch: int, purpose: Purpose) -> UInt64s:
    """Return one key per example, from which `draws` makes its numbers."""
    base = np.uint64(_base(seed, epoch, purpose))
    return _mix(np.asarray(indices).astype(np.uint64) * np.uint64(_STEP) + base)


def draws(keys: UInt64s, places: Int64s | int) -> UInt64s:
    """Return 64 random bits for each (key, place)."""
    steps = np.asarray(places).astype(np.uint64).reshape(-1) + np.uint64(1)
    return _mix(keys + steps * np.uint64(_STEP))


def again(bits: UInt64s) -> UInt64s:
    """Return other random bits for the same places."""
    return _mix(bits ^ np.uint64(0xD1B54A32D192ED03))


def below(bits: UInt64s, bounds: Int64s | int) -> Int64s:
    """Return numbers from 0 to below the bounds; bounds are below 2**32 and not 0."""
    return ((bits >> np.uint64(32)) * np.asarray(bounds).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def shares(bits: UInt64s) -> npt.NDArray[np.float64]:
    """Return numbers from 0 to below 1."""
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(bits: UInt64s) -> UInt64s:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))


@lru_cache(maxsize=64)
def _base(seed: int, epoch: int, purpose: Purpose) -> int:
    return _mix_one(_mix_one(_mix_one(seed) + epoch) + purpose)


def _mix_one(value: int) -> int:
    """Mix a Python number: numpy warns when one of its own overflows, but not when an array does."""
    return int(_mix(np.array([(value + _STEP) & _MASK], dtype=np.uint64))[0])
