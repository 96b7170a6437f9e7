"""Which tokens of a block make an example: the next sentence pair, a random or a swapped one, or a window.

What there is to choose from is laid out once per block (`layouts`); what is chosen is a function of
(seed, epoch, global number of the example).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.errors import DataError
from bertjobs.text.corpus.blocks import Block, BlockInfo
from bertjobs.text.pretraining.chunking import Layout, lay_out_chunks, lay_out_sentences, lay_out_stream
from bertjobs.text.pretraining.hashed_random import Int64s, Purpose, UInt64s, below, draws, row_keys
from bertjobs.text.truncation import truncate_lengths

IN_ORDER, CHANGED = 0, 1
"""Labels: Hugging Face's, d2l's are the other way round."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Examples of one block."""

    block: Block
    indices: Int64s
    """Numbers of the examples in the block."""
    first: int
    """Number of the block's first example in the whole corpus."""

    @property
    def numbers(self) -> Int64s:
        """Numbers of the examples in the whole corpus."""
        return np.asarray(self.indices, dtype=np.int64) + self.first


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """One or two stretches of tokens per example, short enough for max_len: places in `Pairing.tokens`."""

    begin_a: Int64s
    end_a: Int64s
    begin_b: Int64s
    """As `end_b` where there is no second segment."""
    end_b: Int64s
    labels: np.ndarray
    """int8: 0 in order, 1 random or swapped."""

    @property
    def lengths(self) -> Int64s:
        """Tokens of both segments, without special ones."""
        return self.end_a - self.begin_a + self.end_b - self.begin_b


class Pairing:
    """The objective's way from a block to examples."""

    def __init__(self, objective: ObjectiveSection, max_len: int, *, sep_id: int) -> None:
        self._objective, self._sep_id = objective, sep_id
        self.is_pair = objective.pairs != "none"
        """Whether examples have a second segment, and a label that says something."""
        self._budget = max_len - (3 if self.is_pair else 2)
        self._layouts: WeakKeyDictionary[Block, Layout] = WeakKeyDictionary()

    def check(self, infos: Sequence[BlockInfo]) -> None:
        """Refuse a corpus from which no example can be made, before anything is trained.

        Raises: DataError: it is empty, has one document only (nsp), or one-sentence documents only.
        """
        if not any(info.num_tokens for info in infos):
            raise DataError("The corpus is empty: it has no text.", hint="Give files with text (--corpus).")
        if not self.is_pair:
            return
        pairs = self._objective.pairs
        num_documents = sum(info.num_documents for info in infos)
        if pairs == "nsp" and num_documents < 2:
            raise DataError(
                "The corpus is a single document, so there is none to take a random second segment from "
                "(--pairs nsp).",
                hint="Give more documents (--corpus), take smaller ones (--document), or give --pairs sop "
                "or --pairs none.",
            )
        if not any(info.num_pairable for info in infos):
            raise DataError(
                f"None of the {num_documents:,} documents has two sentences, so no next sentence can be "
                f"shown (--pairs {pairs}).",
                hint="Change what a document or a sentence is (--document, --sentences), or give "
                "--pairs none.",
            )

    def num_examples(self, block: Block) -> int:
        """Return how many examples a block makes, whatever the seed and the epoch.

        Raises: DataError: a random second segment needs two documents, and the block has one.
        """
        if self._objective.pairs == "nsp" and block.num_documents == 1:
            raise DataError(
                "A block of one document has none to take a random second segment from (--pairs nsp).",
                hint="Give more documents (--corpus), or --pairs sop or --pairs none.",
            )
        return self._layout(block).num_examples

    def tokens(self, block: Block) -> np.ndarray:
        """Return what ranges point into: the block's ids, or its stream with [SEP] after each document."""
        return self._layout(block).tokens

    def ranges(self, parts: Sequence[Part], *, seed: int, epoch: int) -> Ranges:
        """Return the ranges of examples, part after part; the places are those in the part's tokens."""
        if not self.is_pair:
            return self._windows(parts, seed=seed, epoch=epoch)
        numbers = np.concatenate([part.numbers for part in parts])
        is_changed = self._is_changed(numbers, seed=seed, epoch=epoch)
        keys = row_keys(numbers, seed=seed, epoch=epoch, purpose=Purpose.PAIRS)
        split_bits, random_bits = draws(keys, 0), draws(keys, 1)
        found, end = [], 0
        for part in parts:
            own = slice(end, end := end + len(part.indices))
            found.append(self._segments(part, split_bits[own], random_bits[own], is_changed[own]))
        begin_a, end_a, begin_b, end_b = np.concatenate(found, axis=1)
        if self._objective.pairs == "sop":
            begin_a, begin_b = _swapped(begin_a, begin_b, is_changed)
            end_a, end_b = _swapped(end_a, end_b, is_changed)
        cut = truncate_lengths(
            end_a - begin_a, end_b - begin_b, budget=self._budget, strategy="longest_first"
        )
        return Ranges(
            begin_a=begin_a,
            end_a=begin_a + cut.keep_a,
            begin_b=begin_b,
            end_b=begin_b + cut.keep_b,
            labels=is_changed.astype(np.int8),
        )

    @staticmethod
    def _is_changed(numbers: Int64s, *, seed: int, epoch: int) -> np.ndarray:
        """Toss a coin for every two examples and give it to one, its opposite to the other: exactly half."""
        coins = draws(row_keys(numbers // 2, seed=seed, epoch=epoch, purpose=Purpose.COINS), 0)
        return np.asarray((coins >> np.uint64(63)).astype(np.int64) != numbers % 2)

    def _segments(
        self, part: Part, split_bits: UInt64s, random_bits: UInt64s, is_changed: np.ndarray
    ) -> Int64s:
        """Return where the segments of examples begin and end: a's, then b's, in order or random; (4, E)."""
        layout = self._layout(part.block)
        begin, end = layout.begins[part.indices], layout.ends[part.indices]
        middle = begin + 1 + below(split_bits, end - begin - 1)
        places = layout.offsets[np.stack([begin, middle, middle, end])]
        if self._objective.pairs == "nsp":
            rows = np.flatnonzero(is_changed)
            room = self._budget - (places[1] - places[0])[rows]
            own = layout.document_of[begin[rows]]
            places[2:, rows] = self._random_segments(layout, random_bits[rows], own, room)
        return places

    def _random_segments(self, layout: Layout, bits: UInt64s, own: Int64s, room: Int64s) -> Int64s:
        """Return where segments of other documents begin and end, any of their pieces alike; (2, E)."""
        own_begin, own_end = layout.document_offsets[own], layout.document_offsets[own + 1]
        begin = below(bits, layout.num_pieces - (own_end - own_begin))
        begin += np.where(begin < own_begin, 0, own_end - own_begin)
        end = begin + 1
        if self._objective.segments == "filled":
            fits = np.searchsorted(layout.offsets, layout.offsets[begin] + room, side="right") - 1
            document_end = layout.document_offsets[layout.document_of[begin] + 1]
            end = np.maximum(end, np.minimum(fits, document_end))
        return layout.offsets[np.stack([begin, end])]

    def _windows(self, parts: Sequence[Part], *, seed: int, epoch: int) -> Ranges:
        """Cut each stream, which is closed to a ring, into windows that begin elsewhere in each epoch."""
        begins, ends = [], []
        for part in parts:
            num_tokens = int(self._layout(part.block).offsets[-1])
            key = row_keys(np.array([part.first]), seed=seed, epoch=epoch, purpose=Purpose.SHIFT)
            shift = below(draws(key, 0), num_tokens) if num_tokens > self._budget else 0
            begins.append((shift + part.indices * self._budget) % num_tokens)
            ends.append(begins[-1] + min(self._budget, num_tokens))
        begin, end = np.concatenate(begins), np.concatenate(ends)
        return Ranges(begin_a=begin, end_a=end, begin_b=end, end_b=end, labels=np.zeros(len(begin), np.int8))

    def _layout(self, block: Block) -> Layout:
        if block not in self._layouts:
            self._layouts[block] = self._lay_out(block)
        return self._layouts[block]

    def _lay_out(self, block: Block) -> Layout:
        if not self.is_pair:
            return lay_out_stream(block, budget=self._budget, sep_id=self._sep_id)
        if self._objective.segments == "sentence":
            return lay_out_sentences(block)
        return lay_out_chunks(block, budget=self._budget)


def _swapped(first: Int64s, second: Int64s, is_swapped: np.ndarray) -> tuple[Int64s, Int64s]:
    return np.where(is_swapped, second, first), np.where(is_swapped, first, second)
