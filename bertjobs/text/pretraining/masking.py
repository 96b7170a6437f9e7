"""Choose which tokens of a batch are predicted, and what the model sees there, for the whole batch at once.

Every choice is a hash of (seed, epoch, number of the example in the corpus, position in the row). So it does
not depend on how examples are put into batches, on which worker, or when.

An open token is one that may be predicted: all but [CLS], [SEP], [PAD] and [MASK].

The plain version, a loop over rows and tokens, is in tests/text/pretraining/test_masking.py.

Shape suffixes: N: tokens of a packed batch, padding included. B: its rows. O: its open tokens, row after row.
W: words, which are runs of open tokens. P: predicted tokens. V: vocabulary.
"""

from dataclasses import dataclass

import numpy as np

from bertjobs.config.pretrain import ObjectiveSection
from bertjobs.text import ragged
from bertjobs.text.pretraining.hashed_random import (
    Purpose,
    UInt64s,
    again,
    below,
    draws,
    row_keys,
    shares,
)
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer

_ROW_BITS, _POSITION_BITS = 16, 13
"""Of the 64-bit numbers that tokens are sorted by: 65,536 rows, 8,192 positions; the other 35 are random."""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What the model must predict, and what it sees there; each array is (P)."""

    places_P: Int64s
    """Indices in N, ascending."""
    targets_P: Int64s
    """The true ids."""
    ids_P: Int64s
    """What the model sees there."""


class Masker:
    """Masks tokens as the objective asks for: how many, whole words or not, and what replaces them.

    Sources: Devlin et al. 2019, BERT, section 3.1 (Task 1: masked LM), for the 15 % of which 80 % are masked,
    10 % random and 10 % unchanged; google-research/bert's README (May 2019) for whole words. Dive into Deep
    Learning, section 15.9, `_replace_mlm_tokens`, does the same with one token at a time.
    """

    def __init__(self, objective: ObjectiveSection, tokenizer: Tokenizer) -> None:
        """Look up what is needed of the vocabulary.

        Raises: ModelError: whole words are asked for, and the vocabulary does not tell where words begin.
        """
        self._objective, self._mask_id = objective, tokenizer.mask_id
        self._is_continuation_V = tokenizer.is_continuation_V if objective.whole_word else None
        self._is_open_V = np.ones(tokenizer.vocab_size, dtype=bool)
        self._is_open_V[[tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id]] = False
        # A random replacement is never special. [UNK] is not drawn either, but it may be predicted.
        self._ordinary_ids = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)

    def mask(
        self, ids_N: Int64s, *, starts_B: Int64s, lengths_B: Int64s, indices_B: Int64s, seed: int, epoch: int
    ) -> Masked:
        """Choose round(mask_ratio * open tokens) of each row, at least one.

        With whole words that number is met on average only: the word that would exceed it is chosen with a
        probability in proportion to what is missing.

        indices_B: numbers of the examples in the corpus.
        """
        assert len(indices_B) <= 1 << _ROW_BITS
        keys_B = row_keys(indices_B, seed=seed, epoch=epoch, purpose=Purpose.MASKS)
        places_O, rows_O = self._open_tokens(ids_N, starts_B, lengths_B)
        positions_O = places_O - starts_B[rows_O]
        bits_O = draws(keys_B[rows_O], positions_O)

        num_wanted_B = self._num_wanted(np.bincount(rows_O, minlength=len(lengths_B)))
        order_O = _order_keys(bits_O, rows_O, positions_O)
        if self._objective.whole_word:
            begins_W = self._begins_of_words(ids_N, places_O, rows_O)
            num_tokens_W = np.diff(begins_W, append=len(places_O))
            is_chosen_W = _choose_words(
                order_O[begins_W],
                rows_O[begins_W],
                num_tokens_W,
                num_wanted_B,
                rounding_B=shares(again(keys_B)),
            )
            is_chosen_O = np.repeat(is_chosen_W, num_tokens_W)
            # All tokens of a word get the action of its first one.
            action_bits_P = np.repeat(bits_O[begins_W], num_tokens_W)[is_chosen_O]
        else:
            is_chosen_O = _choose_tokens(order_O, rows_O, num_wanted_B)
            action_bits_P = bits_O[is_chosen_O]
        targets_P = ids_N[places_O[is_chosen_O]]
        return Masked(
            places_P=places_O[is_chosen_O],
            targets_P=targets_P,
            ids_P=self._replaced(targets_P, action_bits_P, bits_O[is_chosen_O]),
        )

    def _open_tokens(self, ids_N: Int64s, starts_B: Int64s, lengths_B: Int64s) -> tuple[Int64s, Int64s]:
        """Return the open tokens' indices in N, and their rows; (O) each. Padding is beyond the lengths."""
        places = ragged.flat_indices(starts_B, lengths_B)
        rows = np.repeat(np.arange(len(lengths_B)), lengths_B)
        is_open = self._is_open_V[ids_N[places]]
        return places[is_open], rows[is_open]

    def _begins_of_words(self, ids_N: Int64s, places_O: Int64s, rows_O: Int64s) -> Int64s:
        """Return where words begin among the open tokens (W). No word spans a special token or two rows."""
        assert self._is_continuation_V is not None
        continues_O = self._is_continuation_V[ids_N[places_O]]
        continues_O &= (np.diff(places_O, prepend=-2) == 1) & (np.diff(rows_O, prepend=-1) == 0)
        return np.flatnonzero(~continues_O)

    def _num_wanted(self, num_open_B: Int64s) -> Int64s:
        # floor(x + 0.5), as `np.round` takes halves to the even number. At least one, if the row has one.
        rounded_B = np.floor(self._objective.mask_ratio * num_open_B + 0.5).astype(np.int64)
        return np.asarray(np.minimum(np.maximum(rounded_B, 1), num_open_B))

    def _replaced(self, targets_P: Int64s, action_bits_P: UInt64s, bits_P: UInt64s) -> Int64s:
        """Return what the model sees: one action for a word, but a random token for each token of it."""
        # `again` gives bits that are independent of those by which the tokens were chosen.
        action_P = shares(again(action_bits_P))
        random_P = self._ordinary_ids[below(again(again(bits_P)), len(self._ordinary_ids))]
        mask_ratio, random_ratio = self._objective.mask_token_ratio, self._objective.random_token_ratio
        # One number in [0, 1) decides: [mask | random | unchanged], in the ratios of the objective.
        random_or_kept_P = np.where(action_P < mask_ratio + random_ratio, random_P, targets_P)
        return np.where(action_P < mask_ratio, self._mask_id, random_or_kept_P)


def _order_keys(bits_O: UInt64s, rows_O: Int64s, positions_O: Int64s) -> UInt64s:
    """Return numbers that sort tokens by row and at random inside a row; all different.

    From the highest bit: the row, random bits, the position, which decides between equal random bits. One
    sort over the whole batch then does what a random choice per row would need a loop for.
    """
    num_random_bits = np.uint64(64 - _ROW_BITS - _POSITION_BITS)
    random_O = bits_O >> (np.uint64(64) - num_random_bits) << np.uint64(_POSITION_BITS)
    by_row_O = rows_O.astype(np.uint64) << np.uint64(64 - _ROW_BITS)
    return np.asarray(by_row_O | random_O | positions_O.astype(np.uint64), dtype=np.uint64)


def _choose_tokens(order_O: UInt64s, rows_O: Int64s, num_wanted_B: Int64s) -> np.ndarray:
    """Return which tokens are chosen (O): of each row the wanted number of the smallest order keys."""
    if not len(rows_O):
        return np.zeros(0, dtype=bool)
    begins_B = np.searchsorted(rows_O, np.arange(len(num_wanted_B)))
    # Sorted, row b's keys begin at begins_B[b], so the largest that is chosen is num_wanted - 1 further. For
    # a row without open tokens this reads some other row's key, but no token of that row will look at it.
    largest_chosen_B = np.sort(order_O)[begins_B + num_wanted_B - 1]
    return np.asarray(order_O <= largest_chosen_B[rows_O])


def _choose_words(
    order_W: UInt64s,
    rows_W: Int64s,
    num_tokens_W: Int64s,
    num_wanted_B: Int64s,
    *,
    rounding_B: np.ndarray,
) -> np.ndarray:
    """Return which words are chosen (W): those of the smallest keys of a row, up to the wanted tokens.

    rounding_B: a random share per row, which decides on words that exceed what is wanted.
    """
    order = np.argsort(order_W)  # row after row, at random inside a row
    rows, num_tokens = rows_W[order], num_tokens_W[order]
    is_first = np.diff(rows, prepend=-1) != 0
    # Tokens of the words before in the same row: a running sum, less what it was at the row's first word.
    before = np.cumsum(num_tokens) - num_tokens
    before -= np.repeat(before[is_first], np.diff(np.flatnonzero(is_first), append=len(rows)))
    missing = num_wanted_B[rows] - before
    # A word that fits, the first of a row in any case, or one that exceeds and wins its draw.
    is_chosen = (missing >= num_tokens) | is_first | (rounding_B[rows] * num_tokens < missing)
    is_chosen_W = np.empty(len(rows), dtype=bool)
    is_chosen_W[order] = is_chosen  # back into the order of the text
    return is_chosen_W
