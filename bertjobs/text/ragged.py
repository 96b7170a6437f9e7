"""Arithmetic on ragged arrays: lists of different lengths, stored one after another in a flat array.

A ragged array is given as (values, offsets), where list i is `values[offsets[i] : offsets[i + 1]]`, or only
by where its lists are, as (starts, lengths). Nothing here loops over lists in Python; the tests compare each
function with the loop that it replaces.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
"""Of any integer type."""
Int64s = npt.NDArray[np.int64]


def offsets_of(lengths: Ints) -> Int64s:
    """Return where each list begins, and where the last one ends: one element more than `lengths`.

    offsets_of([2, 0, 3]) = [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def positions_in_lists(lengths: Ints) -> Int64s:
    """Return 0, 1, ... inside each list, for all lists one after another.

    positions_in_lists([2, 0, 3]) = [0, 1, 0, 1, 2]
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)


def flat_indices(starts: Ints, lengths: Ints) -> Int64s:
    """Return the indices of the elements of lists that begin at `starts`, one list after another.

    flat_indices([10, 4], [3, 2]) = [10, 11, 12, 4, 5]
    """
    offsets = offsets_of(lengths)
    # Element k of the result is in list i at k - offsets[i], so its index is k + (starts[i] - offsets[i]).
    shift = np.asarray(starts, dtype=np.int64) - offsets[:-1]
    return np.arange(offsets[-1], dtype=np.int64) + np.repeat(shift, lengths)


def take(values: Ints, offsets: Ints, rows: Ints) -> tuple[Ints, Int64s]:
    """Gather the lists `rows`, in that order, into a new ragged array (values, offsets)."""
    starts = offsets[:-1][rows].astype(np.int64)
    lengths = offsets[1:][rows] - starts
    return values[flat_indices(starts, lengths)], offsets_of(lengths)
