"""From examples of several blocks to one packed, masked batch. Pure numpy.

Two steps, because rows are distributed over ranks and microbatches by length: `draw_examples` finds where the
tokens of all examples of a global batch are, `collate_pretraining` gathers those of one microbatch.

Shape suffixes: N: tokens of a batch. B: rows of a batch. P: predicted tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertjobs.text import ragged
from bertjobs.text.batching import GROUP_OVERHEAD, Batch, group_lengths
from bertjobs.text.pretraining.masking import Masker
from bertjobs.text.pretraining.pairing import BlockSelection, Pairing
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.truncation import num_special_tokens


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of a global batch as ranges of tokens, not gathered yet. B: all of them."""

    tokens: tuple[np.ndarray, ...]
    """The tokens of each block."""
    block_B: Int64s
    """Which of `tokens` the example's ranges are of."""
    begin_a_B: Int64s
    end_a_B: Int64s
    begin_b_B: Int64s
    end_b_B: Int64s
    labels_B: Int64s
    indices_B: Int64s
    """Numbers of the examples in the whole corpus."""
    lengths_B: Int64s
    """Special tokens included."""
    is_pair: bool
    seed: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class PretrainBatch(Batch):
    """A packed batch in which some ids are replaced. `rows_B` are the examples' positions in `Examples`."""

    labels_B: Int64s
    indices_B: Int64s
    """Numbers of the examples in the whole corpus."""
    masked_P: Int64s
    """Indices in N of the tokens to predict, ascending."""
    targets_P: Int64s
    """The true ids of those tokens."""


def draw_examples(
    pairing: Pairing, selections: Sequence[BlockSelection], *, seed: int, epoch: int
) -> Examples:
    """Find where the tokens of the examples are: a function of (seed, epoch, number in the corpus)."""
    ranges = pairing.segment_ranges(selections, seed=seed, epoch=epoch)
    return Examples(
        tokens=tuple(pairing.tokens(selection.block) for selection in selections),
        block_B=np.repeat(np.arange(len(selections)), [len(selection.indices) for selection in selections]),
        begin_a_B=ranges.begin_a,
        end_a_B=ranges.end_a,
        begin_b_B=ranges.begin_b,
        end_b_B=ranges.end_b,
        labels_B=ranges.labels.astype(np.int64),
        indices_B=np.concatenate([selection.corpus_indices for selection in selections]),
        lengths_B=ranges.lengths + num_special_tokens(is_pair=pairing.is_pair),
        is_pair=pairing.is_pair,
        seed=seed,
        epoch=epoch,
    )


def collate_pretraining(
    examples: Examples,
    rows: Int64s,
    *,
    tokenizer: Tokenizer,
    masker: Masker,
    group_overhead: int = GROUP_OVERHEAD,
) -> PretrainBatch:
    """Gather some of the examples into one packed batch, and mask it.

    group_overhead: cost of a group, in tokens; with 0 all rows of a group have the same length.

    The plain version, one row at a time, is in tests/text/pretraining/test_collate.py.
    """
    rows = np.asarray(rows, dtype=np.int64)
    rows = rows[np.argsort(examples.lengths_B[rows], kind="stable")]
    lengths = examples.lengths_B[rows]
    starts = ragged.offsets_of(lengths)
    ids, segments = _gather(examples, rows, starts, tokenizer)
    starts = starts[:-1]
    masked = masker.mask(
        ids, starts_B=starts, lengths_B=lengths, indices_B=examples.indices_B[rows],
        seed=examples.seed, epoch=examples.epoch,
    )  # fmt: skip
    ids[masked.places_P] = masked.ids_P
    return PretrainBatch(
        ids_N=ids,
        segments_N=segments,
        positions_N=ragged.positions_in_lists(lengths),
        groups=group_lengths(lengths, overhead=group_overhead),
        lengths_B=lengths,
        starts_B=starts,
        labels_B=examples.labels_B[rows],
        rows_B=rows,
        sequences_B=rows,
        indices_B=examples.indices_B[rows],
        masked_P=masked.places_P,
        targets_P=masked.targets_P,
    )


def _gather(examples: Examples, rows: Int64s, starts: Int64s, tokenizer: Tokenizer) -> tuple[Int64s, Int64s]:
    """Return ids and segments (N) of [CLS] a [SEP] b [SEP]; starts: (B + 1), the last of which is N."""
    ids = np.empty(starts[-1], dtype=np.int64)
    segments = np.zeros(starts[-1], dtype=np.int64)
    cls_at = starts[:-1]
    begin_a, begin_b = examples.begin_a_B[rows], examples.begin_b_B[rows]
    num_a, num_b = examples.end_a_B[rows] - begin_a, examples.end_b_B[rows] - begin_b
    sep_at = cls_at + 1 + num_a  # of the first [SEP] of each row
    ids[cls_at] = tokenizer.cls_id
    ids[sep_at] = tokenizer.sep_id
    # A block's tokens are one array, so rows are copied block by block, both segments at once.
    block_of = examples.block_B[rows]
    by_block = np.argsort(block_of, kind="stable")
    for own in np.split(by_block, np.flatnonzero(np.diff(block_of[by_block])) + 1):
        to = np.concatenate([cls_at[own] + 1, sep_at[own] + 1])
        begin, num = np.concatenate([begin_a[own], begin_b[own]]), np.concatenate([num_a[own], num_b[own]])
        tokens = examples.tokens[block_of[own[0]]]
        ids[ragged.flat_indices(to, num)] = tokens[ragged.flat_indices(begin, num)]
    if examples.is_pair:
        ids[sep_at + 1 + num_b] = tokenizer.sep_id
        segments[ragged.flat_indices(sep_at + 1, num_b + 1)] = 1
    return ids, segments
