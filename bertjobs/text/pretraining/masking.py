"""Which positions of a batch are predicted, and what stands there instead: vectorised over the whole batch.

Every choice is a hash of (seed, epoch, global number of the example, position), so it does not depend on how
examples are put into batches, on which worker, or when.

N: places of a near-packed batch. B: its rows. V: vocabulary. P: predicted places. W: words.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.text import ragged
from bertjobs.text.pretraining.hashed_random import (
    Int64s,
    Purpose,
    UInt64s,
    again,
    below,
    draws,
    row_keys,
    shares,
)

_POSITION_BITS, _ROW_BITS = 13, 16
"""Of the 64 bits by which pieces are sorted; the rest are random."""


class MaskSpecials(Protocol):
    """Ids of the special wordpieces; a `Tokenizer` is one."""

    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int


class Vocabulary(MaskSpecials, Protocol):
    """What the masks need to know of a vocabulary; a `Tokenizer` is one."""

    vocab_size: int

    @property
    def special_ids(self) -> Int64s: ...

    @property
    def is_continuation_V(self) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What the model must predict."""

    places_P: Int64s
    """In N, ascending."""
    targets_P: Int64s
    """The true ids."""
    ids_P: Int64s
    """What the model sees there."""


class Masker:
    """The objective's way to hide tokens."""

    def __init__(
        self,
        objective: ObjectiveSection,
        specials: MaskSpecials,
        *,
        vocab_size: int,
        is_continuation_V: np.ndarray | None,
        special_ids: Int64s,
    ) -> None:
        """Take the vocabulary's facts.

        is_continuation_V: whether a piece goes on the word before it; needed for whole words only.
        special_ids: what never replaces a token at random; of these only [UNK] may be predicted itself.
        """
        assert not objective.whole_word or is_continuation_V is not None
        self._objective, self._mask_id = objective, specials.mask_id
        self._is_continuation_V = is_continuation_V
        self._is_protected_V = np.zeros(vocab_size, dtype=bool)
        self._is_protected_V[[specials.cls_id, specials.sep_id, specials.pad_id, specials.mask_id]] = True
        self._ordinary_ids = np.setdiff1d(np.arange(vocab_size), special_ids)

    @classmethod
    def of(cls, objective: ObjectiveSection, vocabulary: Vocabulary) -> "Masker":
        """Make the masker for a vocabulary.

        Raises: ModelError: whole words are asked for, and its pieces do not tell them.
        """
        return cls(
            objective,
            vocabulary,
            vocab_size=vocabulary.vocab_size,
            is_continuation_V=vocabulary.is_continuation_V if objective.whole_word else None,
            special_ids=vocabulary.special_ids,
        )

    def mask(
        self, ids_N: Int64s, *, starts_B: Int64s, lengths_B: Int64s, indices_B: Int64s, seed: int, epoch: int
    ) -> Masked:
        """Choose round(mask_ratio * positions) of each row, one at least; special tokens do not count.

        With whole words that number is met on average: the word that would exceed it is taken in proportion
        to what is missing.
        """
        assert len(indices_B) <= 1 << _ROW_BITS
        keys_B = row_keys(indices_B, seed=seed, epoch=epoch, purpose=Purpose.MASKS)
        places, rows = ragged.places(starts_B, lengths_B), np.repeat(np.arange(len(lengths_B)), lengths_B)
        is_open = ~self._is_protected_V[ids_N[places]]
        places, rows = places[is_open], rows[is_open]
        positions = places - starts_B[rows]
        bits = draws(keys_B[rows], positions)

        num_wanted_B = self._num_wanted(np.bincount(rows, minlength=len(lengths_B)))
        order_keys = _order_keys(bits, rows, positions)
        if self._objective.whole_word:
            begins = self._begins_of_words(ids_N, places, rows)
            num_pieces = np.diff(begins, append=len(places))
            is_chosen_W = _choose_words(
                order_keys[begins], rows[begins], num_pieces, num_wanted_B, rounding_B=shares(again(keys_B))
            )
            is_chosen = np.repeat(is_chosen_W, num_pieces)
            bits_of_action = np.repeat(bits[begins], num_pieces)[is_chosen]
        else:
            is_chosen = _choose_pieces(order_keys, rows, num_wanted_B)
            bits_of_action = bits[is_chosen]
        targets = ids_N[places[is_chosen]]
        return Masked(
            places_P=places[is_chosen],
            targets_P=targets,
            ids_P=self._replaced(targets, bits_of_action, bits[is_chosen]),
        )

    def _begins_of_words(self, ids_N: Int64s, places: Int64s, rows: Int64s) -> Int64s:
        """Return where words begin among the open places; none reaches over a special token."""
        assert self._is_continuation_V is not None
        goes_on = self._is_continuation_V[ids_N[places]]
        goes_on &= (np.diff(places, prepend=-2) == 1) & (np.diff(rows, prepend=-1) == 0)
        return np.flatnonzero(~goes_on)

    def _num_wanted(self, num_open_B: Int64s) -> Int64s:
        rounded = np.floor(self._objective.mask_ratio * num_open_B + 0.5).astype(np.int64)
        return np.asarray(np.minimum(np.maximum(rounded, 1), num_open_B))

    def _replaced(self, targets_P: Int64s, bits_of_action_P: UInt64s, bits_P: UInt64s) -> Int64s:
        """Return what is seen instead: one action for a word, but a random token for each of its pieces."""
        action_P = shares(again(bits_of_action_P))
        random_P = self._ordinary_ids[below(again(again(bits_P)), len(self._ordinary_ids))]
        masks, randoms = self._objective.mask_token_ratio, self._objective.random_token_ratio
        kept_or_random_P = np.where(action_P < masks + randoms, random_P, targets_P)
        return np.where(action_P < masks, self._mask_id, kept_or_random_P)


def _choose_pieces(order_keys: UInt64s, rows: Int64s, num_wanted_B: Int64s) -> np.ndarray:
    """Return which pieces are chosen: in each row the wanted number of the smallest keys."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    begins_B = np.searchsorted(rows, np.arange(len(num_wanted_B)))
    largest_B = np.sort(order_keys)[begins_B + num_wanted_B - 1]  # of a row without any it is never read
    return np.asarray(order_keys <= largest_B[rows])


def _choose_words(
    order_keys_W: UInt64s,
    rows_W: Int64s,
    num_pieces_W: Int64s,
    num_wanted_B: Int64s,
    *,
    rounding_B: np.ndarray,
) -> np.ndarray:
    """Return which words are chosen: in each row those of the smallest keys, up to the wanted pieces."""
    order = np.argsort(order_keys_W)
    rows, num_pieces = rows_W[order], num_pieces_W[order]
    is_first = np.diff(rows, prepend=-1) != 0
    before = np.cumsum(num_pieces) - num_pieces
    before -= np.repeat(before[is_first], np.diff(np.flatnonzero(is_first), append=len(rows)))
    missing = num_wanted_B[rows] - before
    is_chosen = (missing >= num_pieces) | is_first | (rounding_B[rows] * num_pieces < missing)
    is_chosen_W = np.empty(len(rows), dtype=bool)
    is_chosen_W[order] = is_chosen
    return is_chosen_W


def _order_keys(bits: UInt64s, rows: Int64s, positions: Int64s) -> UInt64s:
    """Return unique numbers that sort pieces by row, then at random."""
    kept = np.uint64(64 - _ROW_BITS - _POSITION_BITS)
    random = bits >> (np.uint64(64) - kept) << np.uint64(_POSITION_BITS)
    by_row = rows.astype(np.uint64) << np.uint64(64 - _ROW_BITS)
    return np.asarray(by_row | random | positions.astype(np.uint64), dtype=np.uint64)
