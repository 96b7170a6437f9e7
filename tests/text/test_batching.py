"""What a batch holds does not depend on how it is ordered, shared or cut up."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text.batching import (
    Batch,
    collate,
    group_lengths,
    order_of_epoch,
    sequence_lengths,
    share_of_rank,
    split_microbatches,
)
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.truncation import STRATEGIES, budget_of, truncate_lengths

CLS, SEP = 101, 102
TEXT_IDS = st.lists(st.integers(200, 1000), max_size=30)
SPECIALS = {"cls_id": CLS, "sep_id": SEP}


def encoded(a: list[list[int]], b: list[list[int]] | None) -> EncodedTable:
    columns = {"a": pa.array(a, pa.list_(pa.uint16()))}
    if b is not None:
        columns["b"] = pa.array(b, pa.list_(pa.uint16()))
    columns["label"] = pa.array(range(len(a)), pa.int32())
    columns["index"] = pa.array(range(len(a)), pa.int64())
    return EncodedTable.from_arrow(pa.table(columns))


@st.composite
def tables(draw: st.DrawFn) -> EncodedTable:
    a = draw(st.lists(TEXT_IDS, min_size=1, max_size=24))
    is_pair = draw(st.booleans())
    b = draw(st.lists(TEXT_IDS, min_size=len(a), max_size=len(a))) if is_pair else None
    return encoded(a, b)


def expected_row(table: EncodedTable, row: int, max_len: int, strategy: str) -> tuple[list[int], list[int]]:
    """Build one sequence and its segments by slicing lists."""
    texts = [table.a_ids[table.a_offsets[row] : table.a_offsets[row + 1]].tolist()]
    if table.b_ids is not None and table.b_offsets is not None:
        texts.append(table.b_ids[table.b_offsets[row] : table.b_offsets[row + 1]].tolist())
    cut = truncate_lengths(
        np.array([len(texts[0])]),
        np.array([len(texts[1])]) if table.is_pair else None,
        budget=budget_of(max_len, is_pair=table.is_pair),
        strategy=strategy,
    )
    ids, segments = [CLS], [0]
    for segment, text in enumerate(texts):
        keep, head = (cut.keep_a, cut.head_a) if segment == 0 else (cut.keep_b, cut.head_b)
        tail = int(keep[0] - head[0])
        kept = text[: int(head[0])] + text[len(text) - tail :]
        ids += [*kept, SEP]
        segments += [segment] * (len(kept) + 1)
    return ids, segments


def check_batch(batch: Batch, table: EncodedTable, rows: list[int], max_len: int, strategy: str) -> None:
    """Hold a batch against its rows, built one by one, and against its own groups."""
    assert sorted(batch.rows_B.tolist()) == sorted(rows)
    for i, row in enumerate(batch.rows_B.tolist()):
        start, length = int(batch.starts_B[i]), int(batch.lengths_B[i])
        ids, segments = expected_row(table, row, max_len, strategy)
        assert batch.ids_N[start : start + length].tolist() == ids
        assert batch.segments_N[start : start + length].tolist() == segments
        assert batch.positions_N[start : start + length].tolist() == list(range(length))
        assert batch.sequences_B[i] == row
    i = end = 0
    for group in batch.groups:
        assert group.num_rows > 0
        longest = int(batch.lengths_B[i : i + group.num_rows].max())
        assert group.length == longest
        for _ in range(group.num_rows):
            # Each row begins where the one before it ends: nothing is padded.
            assert batch.starts_B[i] == end
            end += int(batch.lengths_B[i])
            i += 1
    assert (i, end) == (len(rows), len(batch.ids_N))
    assert len(batch.segments_N) == len(batch.positions_N) == end
    assert batch.num_tokens == sum(len(expected_row(table, row, max_len, strategy)[0]) for row in rows)


@given(
    table=tables(),
    max_len=st.integers(8, 70),
    strategy=st.sampled_from(STRATEGIES),
    overhead=st.sampled_from([0, 8, 10_000]),
    data=st.data(),
)
def test_a_batch_holds_its_rows_and_nothing_else(
    table: EncodedTable, max_len: int, strategy: str, overhead: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, table.num_rows - 1), min_size=1, max_size=20))
    batch = collate(
        table, np.array(rows), max_len=max_len, truncation=strategy, group_overhead=overhead, **SPECIALS
    )
    check_batch(batch, table, rows, max_len, strategy)
    if overhead == 0:
        assert batch.num_tokens == sum(group.num_rows * group.length for group in batch.groups)
    if overhead == 10_000:
        assert len(batch.groups) == 1
    everything = [batch.ids_N, batch.segments_N, batch.positions_N, batch.lengths_B, batch.starts_B]
    assert {x.dtype for x in [*everything, batch.sequences_B, batch.rows_B]} == {np.dtype(np.int64)}


def padding_plus_overhead(lengths: np.ndarray, ends: list[int], overhead: int) -> int:
    cost = start = 0
    for end in ends:
        cost += int(lengths[end - 1]) * (end - start) + overhead
        start = end
    return cost


def every_grouping(num_rows: int) -> list[list[int]]:
    cuts = range(1, num_rows)
    return [[c for c in cuts if mask >> (c - 1) & 1] + [num_rows] for mask in range(1 << (num_rows - 1))]


@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=8).map(lambda x: np.array(sorted(x))),
    overhead=st.integers(0, 30),
)
def test_groups_are_the_cheapest_of_all_groupings(lengths: np.ndarray, overhead: int) -> None:
    groups = group_lengths(lengths, overhead=overhead)
    cost = sum(g.num_rows * g.length + overhead for g in groups)
    cheapest = min(padding_plus_overhead(lengths, ends, overhead) for ends in every_grouping(len(lengths)))
    assert cost == cheapest


@given(num_rows=st.integers(0, 50), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation_of_the_rows(num_rows: int, seed: int, epoch: int) -> None:
    order = order_of_epoch(num_rows, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_rows))
    np.testing.assert_array_equal(order, order_of_epoch(num_rows, seed=seed, epoch=epoch))


@pytest.mark.parametrize(
    ("seed", "epoch", "order"),
    [(0, 0, [5, 0, 6, 1, 7, 2, 4, 3]), (0, 1, [2, 0, 4, 1, 7, 5, 3, 6]), (7, 0, [7, 1, 3, 2, 6, 5, 0, 4])],
)
def test_the_order_stays_what_it_was(seed: int, epoch: int, order: list[int]) -> None:
    """Golden: a run that is resumed by a later version goes on in the same order."""
    assert order_of_epoch(8, seed=seed, epoch=epoch).tolist() == order


@given(lengths=st.lists(st.integers(2, 128), min_size=0, max_size=70), world_size=st.integers(1, 9))
def test_ranks_share_a_batch_without_loss_or_repetition(lengths: list[int], world_size: int) -> None:
    shares = [
        share_of_rank(np.array(lengths, dtype=np.int64), rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert sorted(i for share in shares for i in share.tolist()) == list(range(len(lengths)))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@given(lengths=st.lists(st.integers(2, 128), max_size=70), world_size=st.integers(1, 9))
def test_rows_are_dealt_longest_first_back_and_forth(lengths: list[int], world_size: int) -> None:
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    for turn, row in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        lap, place = divmod(turn, world_size)
        ranks[place if lap % 2 == 0 else world_size - 1 - place].append(row)
    for rank, rows in enumerate(ranks):
        share = share_of_rank(np.array(lengths, dtype=np.int64), rank=rank, world_size=world_size)
        assert share.tolist() == sorted(rows)


@given(lengths=st.lists(st.integers(2, 128), min_size=1, max_size=70), world_size=st.integers(2, 8))
def test_no_rank_has_more_tokens_than_another_by_more_than_one_long_row(
    lengths: list[int], world_size: int
) -> None:
    array = np.array(lengths)
    tokens = [
        int(array[share_of_rank(array, rank=rank, world_size=world_size)].sum()) for rank in range(world_size)
    ]
    assert max(tokens) - min(tokens) <= max(lengths)


@given(
    lengths=st.lists(st.integers(2, 128), min_size=1, max_size=60),
    max_tokens=st.integers(64, 2000),
    min_microbatches=st.integers(1, 12),
)
def test_microbatches_hold_every_row_once_and_fit(
    lengths: list[int], max_tokens: int, min_microbatches: int
) -> None:
    array = np.array(lengths)
    parts = split_microbatches(array, max_tokens=max_tokens, min_microbatches=min_microbatches)
    assert sorted(i for part in parts for i in part.tolist()) == list(range(len(lengths)))
    assert len(parts) >= min(min_microbatches, len(lengths))
    for part in parts:
        assert len(part) == 1 or len(part) * int(array[part].max()) <= max_tokens
    longest = [int(array[part].max()) for part in parts]
    shortest = [int(array[part].min()) for part in parts]
    assert all(shortest[i] >= longest[i + 1] for i in range(len(parts) - 1))


@given(
    table=tables(),
    world_size=st.integers(1, 4),
    min_microbatches=st.integers(1, 4),
    max_tokens=st.integers(64, 500),
    strategy=st.sampled_from(STRATEGIES),
)
def test_workers_and_microbatches_change_nothing_in_the_rows(
    table: EncodedTable, world_size: int, min_microbatches: int, max_tokens: int, strategy: str
) -> None:
    rows = order_of_epoch(table.num_rows, seed=3, epoch=0)
    lengths = sequence_lengths(table, rows, max_len=40, truncation=strategy)
    seen: list[int] = []
    for rank in range(world_size):
        share = share_of_rank(lengths, rank=rank, world_size=world_size)
        if not len(share):
            continue
        for part in split_microbatches(
            lengths[share], max_tokens=max_tokens, min_microbatches=min_microbatches
        ):
            chosen = rows[share[part]]
            batch = collate(table, chosen, max_len=40, truncation=strategy, **SPECIALS)
            check_batch(batch, table, chosen.tolist(), 40, strategy)
            seen += batch.rows_B.tolist()
    assert sorted(seen) == list(range(table.num_rows))


def test_lengths_count_the_special_tokens() -> None:
    table = encoded([[1] * 5, [1] * 50, []], [[2] * 6, [2] * 3, []])
    rows = np.array([2, 1, 0])
    assert sequence_lengths(table, rows, max_len=20, truncation="longest_first").tolist() == [3, 20, 14]
    single = encoded([[1] * 5, [1] * 50], None)
    assert sequence_lengths(single, np.arange(2), max_len=20, truncation="ratio").tolist() == [7, 20]


@pytest.mark.parametrize("is_pair", [True, False])
def test_empty_texts_make_sequences_of_special_tokens(is_pair: bool) -> None:
    table = encoded([[]], [[]] if is_pair else None)
    batch = collate(table, np.array([0]), max_len=8, truncation="longest_first", **SPECIALS)
    assert batch.ids_N.tolist() == ([CLS, SEP, SEP] if is_pair else [CLS, SEP])
    assert batch.segments_N.tolist() == ([0, 0, 1] if is_pair else [0, 0])
