"""Arithmetic on ragged arrays: lists of different lengths that lie one after another in a flat array.

Everything is vectorised; a ragged array is (flat values, offsets of length n + 1) or (starts, lengths).
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]


def offsets_of(lengths: Ints) -> Int64s:
    """Return where each list begins, and where the last one ends: int64, one longer than `lengths`."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def within(lengths: Ints) -> Int64s:
    """Return 0, 1, ... inside each list, for all lists one after another."""
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)


def places(starts: Ints, lengths: Ints) -> Int64s:
    """Return the flat places of lists that begin at `starts`, one after another."""
    offsets = offsets_of(lengths)
    shift = np.asarray(starts, dtype=np.int64) - offsets[:-1]
    return np.arange(offsets[-1], dtype=np.int64) + np.repeat(shift, lengths)


def take(values: Ints, offsets: Ints, rows: Ints) -> tuple[Ints, Int64s]:
    """Gather lists by number into a new ragged array (values, offsets)."""
    starts = offsets[:-1][rows].astype(np.int64)
    lengths = offsets[1:][rows] - starts
    return values[places(starts, lengths)], offsets_of(lengths)
