"""Ragged arithmetic compared with loops over lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text import ragged

LISTS = st.lists(st.lists(st.integers(0, 1000), max_size=6), max_size=12)


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = [0]
    for values in lists:
        offsets.append(offsets[-1] + len(values))
    return np.array([i for values in lists for i in values], dtype=np.int32), np.array(offsets)


@given(LISTS)
def test_offsets_are_where_lists_begin_and_the_last_one_ends(lists: list[list[int]]) -> None:
    found = ragged.offsets_of(np.array([len(values) for values in lists], dtype=np.int64))
    assert found.tolist() == flat(lists)[1].tolist()
    assert found.dtype == np.int64


@given(LISTS)
def test_positions_count_from_zero_in_each_list(lists: list[list[int]]) -> None:
    lengths = np.array([len(values) for values in lists], dtype=np.int64)
    expected = [i for values in lists for i in range(len(values))]
    assert ragged.positions_in_lists(lengths).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 6)), max_size=12))
def test_flat_indices_are_the_ranges_one_after_another(ranges: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([r[i] for r in ranges], dtype=np.int64) for i in (0, 1))
    expected = [i for start, length in ranges for i in range(start, start + length)]
    assert ragged.flat_indices(starts, lengths).tolist() == expected


@given(LISTS.filter(bool), st.data())
def test_take_gathers_whole_lists(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=20))
    values, offsets = ragged.take(*flat(lists), np.array(rows, dtype=np.int64))
    expected_values, expected_offsets = flat([lists[row] for row in rows])
    assert values.tolist() == expected_values.tolist()
    assert offsets.tolist() == expected_offsets.tolist()
