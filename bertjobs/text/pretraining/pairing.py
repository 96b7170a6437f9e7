"""Choose the tokens of each pretraining example: a sentence pair, in order, random or swapped, or a window.

What there is to choose from is fixed per block (`chunking`). What is chosen is a function of (seed, epoch,
number of the example in the whole corpus), so any example can be made alone, on any worker.

The plain version, which makes one example with loops over lists, is in
tests/text/pretraining/test_pairing.py.

Shape suffix: E: examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.errors import DataError
from bertjobs.text.corpus.blocks import Block, BlockInfo
from bertjobs.text.pretraining.chunking import (
    ChunkedBlock,
    chunk_filled,
    chunk_sentence_pairs,
    chunk_stream,
)
from bertjobs.text.pretraining.hashed_random import Purpose, UInt64s, below, draws, row_keys
from bertjobs.text.ragged import Int64s
from bertjobs.text.truncation import budget_of, truncate_lengths

IN_ORDER, CHANGED = 0, 1
"""Labels, as in Hugging Face's `BertForPreTraining`; in d2l 1 means in order."""


@dataclass(frozen=True, kw_only=True)
class BlockSelection:
    """Some examples of one block."""

    block: Block
    indices: Int64s
    """Numbers of the examples in the block."""
    first: int
    """Number of the block's first example in the whole corpus."""

    @property
    def corpus_indices(self) -> Int64s:
        """Numbers of the examples in the whole corpus."""
        return np.asarray(self.indices, dtype=np.int64) + self.first


@dataclass(frozen=True, kw_only=True)
class SegmentRanges:
    """Where the one or two segments of each example are, as ranges of `Pairing.tokens`; each array is (E).

    Both segments together fit max_len.
    """

    begin_a: Int64s
    end_a: Int64s
    begin_b: Int64s
    """Equal to `end_b` where there is no second segment."""
    end_b: Int64s
    labels: np.ndarray
    """int8: IN_ORDER or CHANGED."""

    @property
    def lengths(self) -> Int64s:
        """Tokens of both segments, special tokens not counted."""
        return self.end_a - self.begin_a + self.end_b - self.begin_b


class Pairing:
    """Makes examples from blocks, as the objective's `pairs` and `segments` ask for.

    Sources: Devlin et al. 2019, BERT, section 3.1 (Task 2: next sentence prediction) for `nsp`; Lan et al.
    2020, ALBERT, section 3.1 (sentence-order prediction) for `sop`; Dive into Deep Learning, section 15.9,
    for `segments: sentence`.
    """

    def __init__(self, objective: ObjectiveSection, max_len: int, *, sep_id: int) -> None:
        self._objective, self._sep_id = objective, sep_id
        self.is_pair = objective.pairs != "none"
        """Whether examples have a second segment, and a label to predict."""
        self._budget = budget_of(max_len, is_pair=self.is_pair)
        self._chunked: WeakKeyDictionary[Block, ChunkedBlock] = WeakKeyDictionary()
        """Of the blocks that are in use; an entry goes when its block is freed."""

    def check(self, infos: Sequence[BlockInfo]) -> None:
        """Refuse a corpus from which no example can be made, before anything is trained.

        Raises: DataError: it is empty, has one document only (nsp), or one-sentence documents only.
        """
        if not any(info.num_tokens for info in infos):
            raise DataError("The corpus is empty: it has no text", hint="Give files with text (--corpus).")
        if not self.is_pair:
            return
        pairs = self._objective.pairs
        num_documents = sum(info.num_documents for info in infos)
        if pairs == "nsp" and num_documents < 2:
            raise DataError(
                "The corpus is a single document, so there is none to take a random second segment from "
                "(--pairs nsp)",
                hint="Give more documents (--corpus), use smaller ones (--document), or give --pairs sop "
                "or --pairs none.",
            )
        if not any(info.num_pairable for info in infos):
            raise DataError(
                f"None of the {num_documents:,} documents has two sentences, so there is no next "
                f"sentence to predict (--pairs {pairs})",
                hint="Change what a document or a sentence is (--document, --sentences), or give "
                "--pairs none.",
            )

    def num_examples(self, block: Block) -> int:
        """Return how many examples a block makes, whatever the seed and the epoch.

        Raises: DataError: a random second segment needs two documents, and the block has one.
        """
        if self._objective.pairs == "nsp" and block.num_documents == 1:
            raise DataError(
                "A block of one document has no other to take a random second segment from (--pairs nsp)",
                hint="Give more documents (--corpus), or --pairs sop or --pairs none.",
            )
        return self._chunks_of(block).num_examples

    def tokens(self, block: Block) -> np.ndarray:
        """Return what ranges point into: the block's ids, or its stream with [SEP] after each document."""
        return self._chunks_of(block).tokens

    def segment_ranges(self, selections: Sequence[BlockSelection], *, seed: int, epoch: int) -> SegmentRanges:
        """Return the ranges of all examples, selection after selection."""
        if not self.is_pair:
            return self._windows(selections, seed=seed, epoch=epoch)
        corpus_indices = np.concatenate([selection.corpus_indices for selection in selections])
        is_changed = _is_changed(corpus_indices, seed=seed, epoch=epoch)
        keys = row_keys(corpus_indices, seed=seed, epoch=epoch, purpose=Purpose.PAIRS)
        # Drawn for all examples at once, also where a value is not used: the numbers have no state.
        split_bits, random_bits = draws(keys, 0), draws(keys, 1)
        found, end = [], 0
        for selection in selections:
            own = slice(end, end := end + len(selection.indices))  # of the arrays over all examples
            found.append(self._segments(selection, split_bits[own], random_bits[own], is_changed[own]))
        begin_a, end_a, begin_b, end_b = np.concatenate(found, axis=1)
        # A chunk's two segments, exchanged: the model must tell the order.
        if self._objective.pairs == "sop":
            begin_a, begin_b = _swapped(begin_a, begin_b, is_changed)
            end_a, end_b = _swapped(end_a, end_b, is_changed)
        # Not before: only now, with a random segment or a swap in place, the lengths are final.
        kept = truncate_lengths(
            end_a - begin_a, end_b - begin_b, budget=self._budget, strategy="longest_first"
        )
        return SegmentRanges(
            begin_a=begin_a,
            end_a=begin_a + kept.keep_a,
            begin_b=begin_b,
            end_b=begin_b + kept.keep_b,
            labels=is_changed.astype(np.int8),
        )

    def _segments(
        self, selection: BlockSelection, split_bits: UInt64s, random_bits: UInt64s, is_changed: np.ndarray
    ) -> Int64s:
        """Return begin and end of the first segments, then of the second ones; (4, E), not truncated yet."""
        chunks = self._chunks_of(selection.block)
        begin, end = chunks.begins[selection.indices], chunks.ends[selection.indices]
        # A chunk of pieces begin to end is split before one of its pieces, but the first, all equally likely.
        middle = begin + 1 + below(split_bits, end - begin - 1)
        # (4, E), from numbers of pieces to places in `tokens`.
        ranges = chunks.offsets[np.stack([begin, middle, middle, end])]
        if self._objective.pairs == "nsp":
            rows = np.flatnonzero(is_changed)
            # What the first segment leaves; the second one is replaced, so its length does not count.
            room = self._budget - (ranges[1] - ranges[0])[rows]
            own = chunks.document_of[begin[rows]]
            ranges[2:, rows] = self._random_segments(chunks, random_bits[rows], own, room)
        return ranges

    def _random_segments(self, chunks: ChunkedBlock, bits: UInt64s, own: Int64s, room: Int64s) -> Int64s:
        """Return begin and end of segments of other documents; (2, E).

        own: the document of each example, which is excluded. room: tokens that are free for the segment.
        """
        own_begin, own_end = chunks.document_offsets[own], chunks.document_offsets[own + 1]
        # Draw from all pieces but those of the own document: of a range that is shorter by their number, then
        # step over them. So every other piece is equally likely.
        begin = below(bits, chunks.num_pieces - (own_end - own_begin))
        begin += np.where(begin < own_begin, 0, own_end - own_begin)
        end = begin + 1
        if self._objective.segments == "filled":  # as many more pieces of that document as fit
            fits = np.searchsorted(chunks.offsets, chunks.offsets[begin] + room, side="right") - 1
            document_end = chunks.document_offsets[chunks.document_of[begin] + 1]
            end = np.maximum(end, np.minimum(fits, document_end))
        return chunks.offsets[np.stack([begin, end])]

    def _windows(self, selections: Sequence[BlockSelection], *, seed: int, epoch: int) -> SegmentRanges:
        """Cut each stream, which is used as a ring, into windows that begin elsewhere in each epoch."""
        begins, ends = [], []
        for selection in selections:
            num_tokens = int(self._chunks_of(selection.block).offsets[-1])
            # One shift for all windows of the block, so that they never overlap.
            key = row_keys(np.array([selection.first]), seed=seed, epoch=epoch, purpose=Purpose.SHIFT)
            shift = below(draws(key, 0), num_tokens) if num_tokens > self._budget else 0
            # Past the end a window goes on in the ring's repetition, see `chunk_stream`.
            begins.append((shift + selection.indices * self._budget) % num_tokens)
            ends.append(begins[-1] + min(self._budget, num_tokens))
        begin, end = np.concatenate(begins), np.concatenate(ends)
        labels = np.zeros(len(begin), np.int8)
        # No second segment: its range is empty.
        return SegmentRanges(begin_a=begin, end_a=end, begin_b=end, end_b=end, labels=labels)

    def _chunks_of(self, block: Block) -> ChunkedBlock:
        if block not in self._chunked:
            self._chunked[block] = self._chunk(block)
        return self._chunked[block]

    def _chunk(self, block: Block) -> ChunkedBlock:
        if not self.is_pair:
            return chunk_stream(block, budget=self._budget, sep_id=self._sep_id)
        if self._objective.segments == "sentence":
            return chunk_sentence_pairs(block)
        return chunk_filled(block, budget=self._budget)


def _is_changed(corpus_indices: Int64s, *, seed: int, epoch: int) -> np.ndarray:
    """Return which examples get a random or swapped second segment: exactly half.

    Of two neighbours (2k, 2k + 1) it is one, and a coin decides which.
    """
    coins = draws(row_keys(corpus_indices // 2, seed=seed, epoch=epoch, purpose=Purpose.COINS), 0)
    return np.asarray((coins >> np.uint64(63)).astype(np.int64) != corpus_indices % 2)


def _swapped(first: Int64s, second: Int64s, is_swapped: np.ndarray) -> tuple[Int64s, Int64s]:
    return np.where(is_swapped, second, first), np.where(is_swapped, first, second)
