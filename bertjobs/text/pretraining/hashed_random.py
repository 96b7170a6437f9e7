"""Random numbers without a state: each is a hash of what it is for, so any of them can be computed alone.

The numbers of a key are those of the SplitMix64 generator that starts at it, read at any place of its
sequence without computing those before. numpy's arithmetic on uint64 wraps around, as the generator needs.

The plain version, one number at a time in Python, is in tests/text/pretraining/test_hashed_random.py.
Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators, section 5 (figures 16,
17).
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bertjobs.text.ragged import Int64s

UInt64s = npt.NDArray[np.uint64]

_STEP = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: SplitMix64's state grows by it at each step
_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a number is drawn for: draws for two purposes are independent. The values never change."""

    PAIRS = 1
    """Where a chunk is split, and which random segment it gets."""
    MASKS = 2
    SHIFT = 3
    """Where the windows over a stream begin."""
    ORDER = 4
    COINS = 5
    """Whether the second segment is the next one."""


def row_keys(indices: Int64s, *, seed: int, epoch: int, purpose: Purpose) -> UInt64s:
    """Return one key per example, from which `draws` computes its numbers."""
    base = np.uint64(_base(seed, epoch, purpose))
    # Unmixed, the keys of neighbouring examples would be one step apart, and their sequences would overlap.
    return _mix(np.asarray(indices).astype(np.uint64) * np.uint64(_STEP) + base)


def draws(keys: UInt64s, places: Int64s | int) -> UInt64s:
    """Return 64 random bits for each (key, place): number `place` of the sequence that starts at the key."""
    # SplitMix64 adds the step before it mixes, so its first number is one step after the key.
    steps = np.asarray(places).astype(np.uint64).reshape(-1) + np.uint64(1)
    return _mix(keys + steps * np.uint64(_STEP))


def again(bits: UInt64s) -> UInt64s:
    """Return other random bits for the same (key, place)."""
    return _mix(bits ^ np.uint64(0xD1B54A32D192ED03))  # any constant would do


def below(bits: UInt64s, bounds: Int64s | int) -> Int64s:
    """Return numbers from 0 to below the bounds; bounds are from 1 to below 2**32.

    The upper 32 bits times the bound, divided by 2**32: no division, and a bias of at most bound / 2**32.
    Source: Lemire 2019, Fast Random Integer Generation in an Interval, section 4 (without the rejection).
    """
    return ((bits >> np.uint64(32)) * np.asarray(bounds).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def shares(bits: UInt64s) -> npt.NDArray[np.float64]:
    """Return numbers from 0 to below 1: the upper 53 bits, which a float64 holds exactly."""
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(bits: UInt64s) -> UInt64s:
    """Scramble each number: every bit of the result depends on every bit given (SplitMix64's mix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))


@lru_cache(maxsize=64)
def _base(seed: int, epoch: int, purpose: Purpose) -> int:
    # Mixed after each part: a plain sum would be the same for (seed, epoch + 1) and (seed + 1, epoch).
    return _mix_one(_mix_one(_mix_one(seed) + epoch) + purpose)


def _mix_one(value: int) -> int:
    """Mix a Python number. In an array of one element: numpy warns when a scalar of its own overflows."""
    return int(_mix(np.array([(value + _STEP) & _MASK], dtype=np.uint64))[0])
