"""Which rows make a step, on which rank, in which microbatch, and how they lie in memory. Pure numpy.

The order is a function of (seed, epoch) alone, so resuming costs nothing and the number of workers changes
nothing. A batch is near-packed: rows are sorted by length and cut into groups of near-equal length, and only
inside a group are rows padded. Linear layers then run over all N tokens at once, attention over each group.

N: tokens of a batch, padding included. B: rows of a batch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertjobs.config.finetune import Truncation
from bertjobs.text import ragged
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.truncation import Cut, budget_of, truncate_lengths

Ints = npt.NDArray[np.int64]

GROUP_OVERHEAD = 12
"""What one more group costs, in tokens: its attention's calls beside the linear layers of so many tokens."""


@dataclass(frozen=True)
class Group:
    """Rows of near-equal length, one after another."""

    start: int
    """Place in N of the group's first token."""
    num_rows: int
    length: int
    """Tokens a row takes here, padding included."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token sequences [CLS] a [SEP] b [SEP], sorted by length and near-packed."""

    ids_N: Ints
    segments_N: Ints
    """0 up to the first [SEP] and in padding, 1 after it."""
    positions_N: Ints
    """Places inside the rows."""
    groups: tuple[Group, ...]
    lengths_B: Ints
    """True lengths, special tokens included."""
    starts_B: Ints
    """Places in N of the rows' [CLS]."""
    labels_B: Ints
    rows_B: Ints
    """Rows of the table."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are no padding."""
        return int(self.lengths_B.sum())


def order_of_epoch(num_rows: int, *, seed: int, epoch: int) -> Ints:
    """Return a permutation of the rows: a function of (seed, epoch) and nothing else."""
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num_rows)


def sequence_lengths(table: EncodedTable, rows: Ints, *, max_len: int, truncation: Truncation) -> Ints:
    """Return the rows' lengths after truncation, special tokens included."""
    cut = _cut(table, rows, max_len=max_len, truncation=truncation)
    return cut.keep_a + cut.keep_b + (3 if table.is_pair else 2)


def share_of_rank(lengths: Ints, *, rank: int, world_size: int) -> Ints:
    """Return which positions of the global batch are this rank's, ascending.

    Rows are dealt longest first, forth and back over the ranks, so that both tokens and rows are balanced:
    row counts differ by at most one, and every rank has a row where there are as many rows as ranks.
    """
    descending = np.argsort(-np.asarray(lengths), kind="stable")
    turn = np.arange(len(descending)) % (2 * world_size)
    dealt_to = np.where(turn < world_size, turn, 2 * world_size - 1 - turn)
    return np.sort(descending[dealt_to == rank])


def split_microbatches(lengths: Ints, *, max_tokens: int, at_least: int = 1) -> list[Ints]:
    """Cut rows into microbatches of near-equal length: lists of positions, longest rows first.

    Each takes at most `max_tokens` even if all its rows were padded to its longest; a single row that is
    longer stands alone. There are at least `at_least` of them where there are as many rows.
    """
    descending = np.argsort(-np.asarray(lengths), kind="stable")
    parts: list[Ints] = []
    start = 0
    while start < len(descending):
        num_rows = max(1, max_tokens // int(lengths[descending[start]]))
        parts.append(descending[start : start + num_rows])
        start += num_rows
    while len(parts) < min(at_least, len(descending)):
        parts = _halve_largest(parts, lengths)
    return parts


def collate(
    table: EncodedTable,
    rows: Ints,
    *,
    max_len: int,
    truncation: Truncation,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    group_overhead: int = GROUP_OVERHEAD,
) -> Batch:
    """Gather rows of the table into one near-packed batch, truncated to max_len.

    `group_overhead` is the price of a group in tokens: 0 packs without any padding.
    """
    rows = np.asarray(rows, dtype=np.int64)
    cut = _cut(table, rows, max_len=max_len, truncation=truncation)
    lengths = cut.keep_a + cut.keep_b + (3 if table.is_pair else 2)
    ascending = np.argsort(lengths, kind="stable")
    rows, lengths, cut = rows[ascending], lengths[ascending], cut.take(ascending)
    groups = group_lengths(lengths, overhead=group_overhead)
    padded = np.repeat([g.length for g in groups], [g.num_rows for g in groups]).astype(np.int64)
    starts = ragged.offsets_of(padded)

    ids = np.full(starts[-1], pad_id, dtype=np.int64)
    segments = np.zeros(starts[-1], dtype=np.int64)
    cls_at = starts[:-1]
    sep_at = cls_at + 1 + cut.keep_a
    ids[cls_at] = cls_id
    _place(ids, cls_at + 1, table.a_ids, table.a_offsets, rows, cut.keep_a, cut.head_a)
    ids[sep_at] = sep_id
    if table.b_ids is not None and table.b_offsets is not None:
        _place(ids, sep_at + 1, table.b_ids, table.b_offsets, rows, cut.keep_b, cut.head_b)
        ids[sep_at + 1 + cut.keep_b] = sep_id
        segments[ragged.places(sep_at + 1, cut.keep_b + 1)] = 1
    return Batch(
        ids_N=ids,
        segments_N=segments,
        positions_N=ragged.within(padded),
        groups=groups,
        lengths_B=lengths,
        starts_B=cls_at,
        labels_B=table.labels[rows].astype(np.int64),
        rows_B=rows,
    )


def group_lengths(lengths: Ints, *, overhead: int) -> tuple[Group, ...]:
    """Cut ascending lengths into groups so that padding plus `overhead` per group is least.

    Exact, by dynamic programming over the distinct lengths: best[j] is the least cost of the rows up to the
    j-th distinct length, and a group that ends there pads its rows to that length.
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    rows_before = ragged.offsets_of(counts)
    # cost[i, j]: one group of the distinct lengths i to j. The true tokens cost the same however they are
    # grouped, so padded tokens may stand for padding.
    cost = distinct * (rows_before[1:] - rows_before[:-1, None]) + overhead
    best = np.zeros(len(distinct) + 1, dtype=np.int64)
    begin = np.zeros(len(distinct) + 1, dtype=np.int64)
    for j in range(len(distinct)):
        totals = best[: j + 1] + cost[: j + 1, j]
        begin[j + 1] = i = totals.argmin()
        best[j + 1] = totals[i]
    return _groups(distinct, rows_before, begin)


def _groups(distinct: Ints, rows_before: Ints, begin: Ints) -> tuple[Group, ...]:
    ends = []
    j = len(distinct)
    while j > 0:
        ends.append(j)
        j = int(begin[j])
    groups: list[Group] = []
    start = 0
    for j in reversed(ends):
        num_rows, length = int(rows_before[j] - rows_before[begin[j]]), int(distinct[j - 1])
        groups.append(Group(start, num_rows, length))
        start += num_rows * length
    return tuple(groups)


def _cut(table: EncodedTable, rows: Ints, *, max_len: int, truncation: Truncation) -> Cut:
    len_a = _lengths(table.a_offsets, rows)
    len_b = None if table.b_offsets is None else _lengths(table.b_offsets, rows)
    return truncate_lengths(
        len_a, len_b, budget=budget_of(max_len, is_pair=table.is_pair), strategy=truncation
    )


def _lengths(offsets: np.ndarray, rows: Ints) -> Ints:
    return np.asarray(offsets[1:][rows] - offsets[:-1][rows], dtype=np.int64)


def _place(
    target: Ints, at: Ints, ids: np.ndarray, offsets: np.ndarray, rows: Ints, keep: Ints, head: Ints
) -> None:
    """Copy what is kept of the rows' texts: `head` from the beginning, the rest from the end."""
    begin, end = offsets[:-1][rows].astype(np.int64), offsets[1:][rows].astype(np.int64)
    tail = keep - head
    target[ragged.places(at, head)] = ids[ragged.places(begin, head)]
    if tail.any():
        target[ragged.places(at + head, tail)] = ids[ragged.places(end - tail, tail)]


def _halve_largest(parts: list[Ints], lengths: Ints) -> list[Ints]:
    """Cut the microbatch with the most tokens, of those with several rows, in two of near-equal tokens."""
    sizes = [int(lengths[part].sum()) if len(part) > 1 else -1 for part in parts]
    i = int(np.argmax(sizes))
    running = np.cumsum(lengths[parts[i]])
    middle = int(np.clip(np.searchsorted(running, running[-1] / 2) + 1, 1, len(parts[i]) - 1))
    return [*parts[:i], parts[i][:middle], parts[i][middle:], *parts[i + 1 :]]
