"""Which tokens of a block make an example: the next sentence pair, a random or a swapped one, or a window.

What there is to choose from is laid out once per block (`layouts`); what is chosen is a function of
(seed, epoch, global number of the example).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from bertjobs.config.schema_pretrain import ObjectiveSection
from bertjobs.errors import DataError
from bertjobs.text.blocks import Block
from bertjobs.text.corpus_encoding import BlockInfo
from bertjobs.text.counter_random import Int64s, Purpose, UInt64s, below, draws, row_keys
from bertjobs.text.layouts import Layout, lay_out_chunks, lay_out_sentences, lay_out_stream
from bertjobs.text.truncation import truncate_lengths

IN_ORDER, CHANGED = 0, 1
"""Labels: Hugging Face's, d2l's are the other way round."""


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

    def ranges(self, block: Block, indices: Int64s, *, first: int = 0, seed: int, epoch: int) -> Ranges:
        """Return the ranges of examples of a block, by their numbers in it.

        first: number of the block's first example in the whole corpus.
        """
        layout = self._layout(block)
        indices = np.asarray(indices, dtype=np.int64)
        if not self.is_pair:
            return self._windows(layout, indices, first=first, seed=seed, epoch=epoch)
        keys = row_keys(indices + first, seed=seed, epoch=epoch, purpose=Purpose.PAIRS)
        begin, end = layout.begins[indices], layout.ends[indices]
        middle = begin + 1 + below(draws(keys, 0), end - begin - 1)
        is_changed = self._is_changed(indices + first, seed=seed, epoch=epoch)
        a, b = (begin, middle), (middle, end)
        if self._objective.pairs == "nsp":
            b = self._random_segment(layout, keys, a, b, is_changed)
        begin_a, end_a, begin_b, end_b = (layout.offsets[pieces] for pieces in (*a, *b))
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

    def _random_segment(
        self,
        layout: Layout,
        keys: UInt64s,
        a: tuple[Int64s, Int64s],
        b: tuple[Int64s, Int64s],
        is_random: np.ndarray,
    ) -> tuple[Int64s, Int64s]:
        """Replace second segments, pieces (begin, end), by ones that begin anywhere in another document."""
        own = layout.document_of[a[0]]
        own_begin, own_end = layout.document_offsets[own], layout.document_offsets[own + 1]
        begin = below(draws(keys, 1), layout.num_pieces - (own_end - own_begin))
        begin = np.where(begin < own_begin, begin, begin + own_end - own_begin)
        end = begin + 1
        if self._objective.segments == "filled":
            room = self._budget - (layout.offsets[a[1]] - layout.offsets[a[0]])
            fits = np.searchsorted(layout.offsets, layout.offsets[begin] + room, side="right") - 1
            document_end = layout.document_offsets[layout.document_of[begin] + 1]
            end = np.maximum(end, np.minimum(fits, document_end))
        return np.where(is_random, begin, b[0]), np.where(is_random, end, b[1])

    def _windows(self, layout: Layout, indices: Int64s, *, first: int, seed: int, epoch: int) -> Ranges:
        """Cut the stream, which is closed to a ring, into windows that begin elsewhere in each epoch."""
        num_tokens = int(layout.offsets[-1])
        key = row_keys(np.array([first]), seed=seed, epoch=epoch, purpose=Purpose.SHIFT)
        shift = below(draws(key, 0), num_tokens) if layout.num_examples * self._budget <= num_tokens else 0
        begin = (shift + indices * self._budget) % num_tokens
        end = begin + min(self._budget, num_tokens)
        return Ranges(
            begin_a=begin, end_a=end, begin_b=end, end_b=end, labels=np.zeros(len(indices), np.int8)
        )

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
