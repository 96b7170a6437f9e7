"""From examples of several blocks to one near-packed, masked batch. Pure numpy.

Two steps, because ranks and microbatches are dealt by length: `draw_examples` says which tokens the examples
of a global batch are, `collate_pretraining` gathers those of one microbatch.

N: tokens of a batch, padding included. B: rows of a batch. P: predicted places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertjobs.text import ragged
from bertjobs.text.batching import GROUP_OVERHEAD, Batch, Ints, group_lengths
from bertjobs.text.pretraining.masking import Masker, MaskSpecials
from bertjobs.text.pretraining.pairing import Pairing, Part

__all__ = ["Examples", "Part", "PretrainBatch", "collate_pretraining", "draw_examples"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of a global batch, not yet gathered. B: all of them, part after part."""

    tokens: tuple[np.ndarray, ...]
    """Of each part."""
    part_B: Ints
    begin_a_B: Ints
    """Places in the part's tokens, as the next three."""
    end_a_B: Ints
    begin_b_B: Ints
    end_b_B: Ints
    labels_B: Ints
    indices_B: Ints
    """Numbers in the whole corpus."""
    lengths_B: Ints
    """Special tokens included."""
    is_pair: bool
    seed: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class PretrainBatch(Batch):
    """A near-packed batch in which some ids were replaced. `rows_B` are the places among the examples."""

    indices_B: Ints
    """Numbers of the examples in the whole corpus."""
    masked_P: Ints
    """Places in N that are predicted, ascending."""
    targets_P: Ints
    """The ids that stood there."""


def draw_examples(pairing: Pairing, parts: Sequence[Part], *, seed: int, epoch: int) -> Examples:
    """Say which tokens the examples are: a function of (seed, epoch, number in the corpus)."""
    drawn = pairing.ranges(parts, seed=seed, epoch=epoch)
    return Examples(
        tokens=tuple(pairing.tokens(part.block) for part in parts),
        part_B=np.repeat(np.arange(len(parts)), [len(part.indices) for part in parts]),
        begin_a_B=drawn.begin_a,
        end_a_B=drawn.end_a,
        begin_b_B=drawn.begin_b,
        end_b_B=drawn.end_b,
        labels_B=drawn.labels.astype(np.int64),
        indices_B=np.concatenate([part.numbers for part in parts]),
        lengths_B=drawn.lengths + (3 if pairing.is_pair else 2),
        is_pair=pairing.is_pair,
        seed=seed,
        epoch=epoch,
    )


def collate_pretraining(
    examples: Examples,
    rows: Ints,
    *,
    masker: Masker,
    specials: MaskSpecials,
    group_overhead: int = GROUP_OVERHEAD,
) -> PretrainBatch:
    """Gather some of the examples into one near-packed batch, and mask it.

    `group_overhead` is the price of a group in tokens: 0 packs without any padding.
    """
    rows = np.asarray(rows, dtype=np.int64)
    rows = rows[np.argsort(examples.lengths_B[rows], kind="stable")]
    lengths = examples.lengths_B[rows]
    groups = group_lengths(lengths, overhead=group_overhead)
    padded = np.repeat([g.length for g in groups], [g.num_rows for g in groups]).astype(np.int64)
    starts = ragged.offsets_of(padded)
    ids, segments = _gather(examples, rows, starts, specials)
    starts = starts[:-1]
    masked = masker.mask(
        ids, starts_B=starts, lengths_B=lengths, indices_B=examples.indices_B[rows],
        seed=examples.seed, epoch=examples.epoch,
    )  # fmt: skip
    ids[masked.places_P] = masked.ids_P
    return PretrainBatch(
        ids_N=ids,
        segments_N=segments,
        positions_N=ragged.within(padded),
        groups=groups,
        lengths_B=lengths,
        starts_B=starts,
        labels_B=examples.labels_B[rows],
        rows_B=rows,
        indices_B=examples.indices_B[rows],
        masked_P=masked.places_P,
        targets_P=masked.targets_P,
    )


def _gather(examples: Examples, rows: Ints, starts: Ints, specials: MaskSpecials) -> tuple[Ints, Ints]:
    """Return ids and segments: [CLS] a [SEP] b [SEP], rows at `starts`, the last of which is N."""
    ids = np.full(starts[-1], specials.pad_id, dtype=np.int64)
    segments = np.zeros(starts[-1], dtype=np.int64)
    cls_at = starts[:-1]
    begin_a, begin_b = examples.begin_a_B[rows], examples.begin_b_B[rows]
    num_a, num_b = examples.end_a_B[rows] - begin_a, examples.end_b_B[rows] - begin_b
    sep_at = cls_at + 1 + num_a
    ids[cls_at] = specials.cls_id
    ids[sep_at] = specials.sep_id
    parts = examples.part_B[rows]
    by_part = np.argsort(parts, kind="stable")
    for of in np.split(by_part, np.flatnonzero(np.diff(parts[by_part])) + 1):
        to = np.concatenate([cls_at[of] + 1, sep_at[of] + 1])
        begin, num = np.concatenate([begin_a[of], begin_b[of]]), np.concatenate([num_a[of], num_b[of]])
        ids[ragged.places(to, num)] = examples.tokens[parts[of[0]]][ragged.places(begin, num)]
    if examples.is_pair:
        ids[sep_at + 1 + num_b] = specials.sep_id
        segments[ragged.places(sep_at + 1, num_b + 1)] = 1
    return ids, segments
