"""From rows of an encoded table to batches: order, rows of each rank, microbatches, arrays. Pure numpy.

The order is a function of (seed, epoch) alone, so a run resumes without replaying it and the number of
workers changes nothing.

A batch is packed: the tokens of its rows follow one another without padding. Rows are sorted by length, and
cut into groups of near-equal length for implementations that attend to one padded group at a time.

    rows of lengths 4, 5, 9           two groups: 2 rows of up to 5 tokens, 1 row of 9 tokens
    N:  [CLS] a [SEP] b [SEP] ...     row after row; 18 tokens. Padded in groups they would be 19

Shape suffixes: N: tokens of a batch. B: rows of a batch. L: distinct lengths.
"""

from dataclasses import dataclass

import numpy as np

from bertjobs.config.sections import Truncation
from bertjobs.text import ragged
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.text.truncation import KeptLengths, budget_of, num_special_tokens, truncate_lengths

GROUP_OVERHEAD = 12
"""Cost of one more group, in tokens: its attention calls take as long as the linear layers of 12 tokens."""


@dataclass(frozen=True)
class LengthGroup:
    """Rows of near-equal length that follow one another in a batch."""

    num_rows: int
    length: int
    """The length of the longest row."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token sequences [CLS] a [SEP] or [CLS] a [SEP] b [SEP], sorted by length; all arrays are int64."""

    ids_N: Int64s
    segments_N: Int64s
    """Token types: 0 up to the first [SEP], 1 after it."""
    positions_N: Int64s
    """Positions inside the rows, from 0."""
    groups: tuple[LengthGroup, ...]
    lengths_B: Int64s
    """Special tokens included."""
    starts_B: Int64s
    """Indices in N of the rows' [CLS]."""
    rows_B: Int64s
    """The row of the table that each sequence belongs to."""
    sequences_B: Int64s
    """Numbers of the sequences in the table; the same as `rows_B` where each row is one sequence."""

    @property
    def num_tokens(self) -> int:
        return len(self.ids_N)


def order_of_epoch(num_rows: int, *, seed: int, epoch: int) -> Int64s:
    """Return a permutation of the rows: a function of (seed, epoch) and nothing else."""
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_rows)


def sequence_lengths(
    table: EncodedTable, sequences: Int64s, *, max_len: int, truncation: Truncation
) -> Int64s:
    """Return the sequences' lengths after truncation, special tokens included."""
    kept = _kept_lengths(table, sequences, max_len=max_len, truncation=truncation)
    return kept.keep_a + kept.keep_b + num_special_tokens(is_pair=table.is_pair)


def share_of_rank(lengths: Int64s, *, rank: int, world_size: int) -> Int64s:
    """Return which positions of the global batch belong to this rank, ascending.

    Rows are dealt to the ranks longest first, in the order 0, 1, 2, 2, 1, 0, 0, 1, ..., which balances both
    tokens and rows: row counts differ by at most one, and every rank has a row when there are as many rows as
    ranks.
    """
    longest_first = np.argsort(-np.asarray(lengths), kind="stable")
    turn = np.arange(len(longest_first)) % (2 * world_size)
    # The second half of a turn runs backwards: 0, 1, 2, 2, 1, 0.
    rank_of = np.where(turn < world_size, turn, 2 * world_size - 1 - turn)
    return np.sort(longest_first[rank_of == rank])


def split_microbatches(lengths: Int64s, *, max_tokens: int, min_microbatches: int = 1) -> list[Int64s]:
    """Cut rows into microbatches of near-equal length: arrays of positions, longest rows first.

    Each has at most `max_tokens` tokens even if all its rows were padded to its longest; a single row that is
    longer than that is a microbatch of its own. There are at least `min_microbatches`, none of them empty.
    """
    longest_first = np.argsort(-np.asarray(lengths), kind="stable")
    microbatches: list[Int64s] = []
    start = 0
    while start < len(longest_first):
        # The first row is the longest, so it says how many rows fit.
        num_rows = max(1, max_tokens // int(lengths[longest_first[start]]))
        microbatches.append(longest_first[start : start + num_rows])
        start += num_rows
    while len(microbatches) < min(min_microbatches, len(longest_first)):
        microbatches = _halve_largest(microbatches, lengths)
    return microbatches


def collate(
    table: EncodedTable,
    sequences: Int64s,
    *,
    max_len: int,
    truncation: Truncation,
    cls_id: int,
    sep_id: int,
    group_overhead: int = GROUP_OVERHEAD,
) -> Batch:
    """Gather sequences of the table into one packed batch, truncated to max_len.

    group_overhead: cost of a group, in tokens; with 0 all rows of a group have the same length.

    The plain version, which builds one row at a time from lists, is in tests/text/test_batching.py.
    """
    sequences = np.asarray(sequences, dtype=np.int64)
    kept = _kept_lengths(table, sequences, max_len=max_len, truncation=truncation)
    lengths = kept.keep_a + kept.keep_b + num_special_tokens(is_pair=table.is_pair)
    by_length = np.argsort(lengths, kind="stable")
    sequences, lengths, kept = sequences[by_length], lengths[by_length], kept.take(by_length)
    rows = table.rows_of(sequences)
    starts = ragged.offsets_of(lengths)  # (B + 1), the last is N

    # Everything is written into flat arrays, all rows at once.
    ids = np.empty(starts[-1], dtype=np.int64)
    segments = np.zeros(starts[-1], dtype=np.int64)
    cls_at = starts[:-1]
    sep_at = cls_at + 1 + kept.keep_a  # of the first [SEP] of each row
    ids[cls_at] = cls_id
    _copy_texts(ids, cls_at + 1, table.a_ids, table.a_offsets, rows, kept.keep_a, kept.head_a)
    ids[sep_at] = sep_id
    if table.b_ids is not None and table.b_offsets is not None:
        _copy_texts(ids, sep_at + 1, table.b_ids, table.b_offsets, sequences, kept.keep_b, kept.head_b)
        ids[sep_at + 1 + kept.keep_b] = sep_id
        segments[ragged.flat_indices(sep_at + 1, kept.keep_b + 1)] = 1  # the second text and its [SEP]
    return Batch(
        ids_N=ids,
        segments_N=segments,
        positions_N=ragged.positions_in_lists(lengths),
        groups=group_lengths(lengths, overhead=group_overhead),
        lengths_B=lengths,
        starts_B=cls_at,
        rows_B=rows,
        sequences_B=sequences,
    )


def group_lengths(lengths: Int64s, *, overhead: int) -> tuple[LengthGroup, ...]:
    """Cut ascending lengths into groups so that padding plus `overhead` per group is as small as possible.

    Exact, by dynamic programming over the L distinct lengths (rows of one length are always in one group).
    The plain version, which tries every grouping, is in tests/text/test_batching.py.
    """
    distinct_L, counts_L = np.unique(lengths, return_counts=True)
    rows_before = ragged.offsets_of(counts_L)  # (L + 1)
    # cost_LL[i, j]: one group of the distinct lengths i to j, all its rows padded to length j. It counts all
    # tokens instead of padding only: the true tokens are the same however rows are grouped.
    cost_LL = distinct_L * (rows_before[1:] - rows_before[:-1, None]) + overhead
    # best[j]: least cost of the rows of the first j distinct lengths; begin[j]: where their last group
    # begins.
    best = np.zeros(len(distinct_L) + 1, dtype=np.int64)
    begin = np.zeros(len(distinct_L) + 1, dtype=np.int64)
    for j in range(len(distinct_L)):
        totals = best[: j + 1] + cost_LL[: j + 1, j]
        begin[j + 1] = i = totals.argmin()
        best[j + 1] = totals[i]
    return _groups_from(begin, distinct_L=distinct_L, rows_before=rows_before)


def _groups_from(begin: Int64s, *, distinct_L: Int64s, rows_before: Int64s) -> tuple[LengthGroup, ...]:
    """Follow `begin` from the last group back to the first, then list the groups in order."""
    ends = []
    end = len(distinct_L)
    while end > 0:
        ends.append(end)
        end = int(begin[end])
    return tuple(
        LengthGroup(num_rows=int(rows_before[end] - rows_before[begin[end]]), length=int(distinct_L[end - 1]))
        for end in reversed(ends)
    )


def _kept_lengths(
    table: EncodedTable, sequences: Int64s, *, max_len: int, truncation: Truncation
) -> KeptLengths:
    len_a = _lengths(table.a_offsets, table.rows_of(sequences))
    len_b = None if table.b_offsets is None else _lengths(table.b_offsets, sequences)
    return truncate_lengths(
        len_a, len_b, budget=budget_of(max_len, is_pair=table.is_pair), strategy=truncation
    )


def _lengths(offsets: np.ndarray, rows: Int64s) -> Int64s:
    return np.asarray(offsets[1:][rows] - offsets[:-1][rows], dtype=np.int64)


def _copy_texts(
    target: Int64s, at: Int64s, ids: np.ndarray, offsets: np.ndarray, rows: Int64s, keep: Int64s, head: Int64s
) -> None:
    """Write what is kept of the rows' texts into `target`, each from its place in `at` on.

    `head` tokens are from the beginning of the text, the other keep - head from its end.
    """
    begin, end = offsets[:-1][rows].astype(np.int64), offsets[1:][rows].astype(np.int64)
    # Only the truncation that keeps both ends of a text has a tail.
    tail = keep - head
    target[ragged.flat_indices(at, head)] = ids[ragged.flat_indices(begin, head)]
    if tail.any():
        target[ragged.flat_indices(at + head, tail)] = ids[ragged.flat_indices(end - tail, tail)]


def _halve_largest(microbatches: list[Int64s], lengths: Int64s) -> list[Int64s]:
    """Cut the microbatch with the most tokens, among those of several rows, into two of near-equal tokens."""
    num_tokens = [int(lengths[m].sum()) if len(m) > 1 else -1 for m in microbatches]
    i = int(np.argmax(num_tokens))
    running = np.cumsum(lengths[microbatches[i]])
    # The row that crosses half of the tokens goes to the first half.
    middle = int(np.searchsorted(running, running[-1] / 2) + 1)
    middle = min(max(middle, 1), len(microbatches[i]) - 1)  # neither half may be empty
    return [*microbatches[:i], microbatches[i][:middle], microbatches[i][middle:], *microbatches[i + 1 :]]
