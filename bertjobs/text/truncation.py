"""How much to keep of texts that do not fit: closed forms on lengths, for a whole batch at once.

Lengths are counted in tokens, without [CLS] and [SEP]: `budget` is what max_len leaves after those. A single
text is cut at its end by every strategy but `head_tail`. Knows no tokens, only how many there are.

The plain version that each closed form is compared with is a loop that removes one token at a time, in
tests/text/test_truncation.py.
"""

from dataclasses import dataclass

import numpy as np

from bertjobs.config.sections import Truncation
from bertjobs.text.ragged import Int64s


@dataclass(frozen=True)
class KeptLengths:
    """How many tokens of each text are kept, and how many of those come from its beginning.

    The others, keep - head, come from its end. All are int64 with one element per example.
    """

    keep_a: Int64s
    head_a: Int64s
    keep_b: Int64s
    """Zeros where there is no second text."""
    head_b: Int64s

    def take(self, rows: Int64s) -> "KeptLengths":
        """Return the given examples, in the given order."""
        return KeptLengths(self.keep_a[rows], self.head_a[rows], self.keep_b[rows], self.head_b[rows])


@dataclass(frozen=True, kw_only=True)
class TruncationReport:
    """What a strategy cuts from a set of examples. Its field names are keys of `data inspect --json`."""

    num_rows: int
    num_cut: int
    """Examples that lose at least one token."""
    num_tokens: int
    num_tokens_cut: int
    num_tokens_cut_second: int
    """The part of `num_tokens_cut` that is cut from second texts."""
    num_texts_lost: int
    """Texts of which nothing is left."""
    max_tokens_cut: int
    """The most that one example loses."""


def budget_of(max_len: int, *, is_pair: bool) -> int:
    """Return how many tokens max_len leaves for text: all but [CLS] and one [SEP] per text."""
    return max_len - num_special_tokens(is_pair=is_pair)


def num_special_tokens(*, is_pair: bool) -> int:
    """Return how many special tokens a sequence has: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]."""
    return 3 if is_pair else 2


def uncut_sequence_lengths(len_a: Int64s, len_b: Int64s | None) -> Int64s:
    """Return the lengths of whole sequences before truncation, special tokens included."""
    lengths = np.asarray(len_a, dtype=np.int64) + num_special_tokens(is_pair=len_b is not None)
    return lengths if len_b is None else lengths + len_b


def truncate_lengths(
    len_a: Int64s, len_b: Int64s | None, *, budget: int, strategy: Truncation
) -> KeptLengths:
    """Return how much to keep so that no example is longer than `budget`; examples that fit are not cut.

    longest_first: remove the last token of the longer text until the pair fits; of equally long texts, cut
        the second.
        Source: Dive into Deep Learning, section 16.7 (Fine-Tuning BERT),
        `SNLIBERTDataset._truncate_pair_of_tokens`.
    only_first, only_second: cut that text; where removing all of it is not enough, cut the other one too.
    ratio: each text keeps its share of the pair's length; no text is lost while the budget is 2 or more.
    head_tail: lengths as longest_first, but a cut text keeps its beginning and its end, half of each.
        Source: Sun et al. 2019, How to Fine-Tune BERT for Text Classification?, section 5.3.1 (which keeps
        the first 128 and the last 382 of 510 tokens; here the halves are equal).
    """
    a = np.asarray(len_a, dtype=np.int64)
    b = np.zeros_like(a) if len_b is None else np.asarray(len_b, dtype=np.int64)
    budget = max(budget, 0)
    keep_a, keep_b = _KEEP[strategy](a, b, budget)
    if strategy != "head_tail":
        return KeptLengths(keep_a, keep_a, keep_b, keep_b)
    return KeptLengths(keep_a, _head_lengths(keep_a, a), keep_b, _head_lengths(keep_b, b))


def truncation_report(
    len_a: Int64s, len_b: Int64s | None, *, budget: int, strategy: Truncation
) -> TruncationReport:
    """Count how many examples a strategy cuts, and by how much."""
    kept = truncate_lengths(len_a, len_b, budget=budget, strategy=strategy)
    a = np.asarray(len_a, dtype=np.int64)
    b = np.zeros_like(a) if len_b is None else np.asarray(len_b, dtype=np.int64)
    num_cut = a + b - kept.keep_a - kept.keep_b
    return TruncationReport(
        num_rows=len(num_cut),
        num_cut=int((num_cut > 0).sum()),
        num_tokens=int((a + b).sum()),
        num_tokens_cut=int(num_cut.sum()),
        num_tokens_cut_second=int((b - kept.keep_b).sum()),
        num_texts_lost=int(((a > 0) & (kept.keep_a == 0)).sum() + ((b > 0) & (kept.keep_b == 0)).sum()),
        max_tokens_cut=int(num_cut.max(initial=0)),
    )


def _longest_first(a: Int64s, b: Int64s, budget: int) -> tuple[Int64s, Int64s]:
    # Removing from the longer text first makes both equally long, then shortens them in turn, the second
    # first. So the second text ends at half the budget, rounded down, unless the first is so short that it
    # leaves more than that; and the first text gets what the second leaves.
    keep_b = np.minimum(b, np.maximum(budget // 2, budget - a))
    return np.minimum(a, budget - keep_b), keep_b


def _only_first(a: Int64s, b: Int64s, budget: int) -> tuple[Int64s, Int64s]:
    keep_b = np.minimum(b, budget)  # cut only where it is longer than the budget by itself
    return np.minimum(a, budget - keep_b), keep_b


def _only_second(a: Int64s, b: Int64s, budget: int) -> tuple[Int64s, Int64s]:
    keep_b, keep_a = _only_first(b, a, budget)
    return keep_a, keep_b


def _ratio(a: Int64s, b: Int64s, budget: int) -> tuple[Int64s, Int64s]:
    total = a + b
    keep_a = budget * a // np.maximum(total, 1)  # the first text's share, rounded down
    if budget >= 2:
        keep_a = np.maximum(keep_a, np.minimum(a, 1))  # rounding down must not lose a short text
    fits = total <= budget
    return np.where(fits, a, keep_a), np.where(fits, b, budget - keep_a)


def _head_lengths(keep: Int64s, length: Int64s) -> Int64s:
    """Return how many tokens come from the beginning: half, rounded up; all of them where nothing is cut."""
    return np.where(keep < length, keep - keep // 2, keep)


_KEEP = {
    "longest_first": _longest_first,
    "only_first": _only_first,
    "only_second": _only_second,
    "ratio": _ratio,
    "head_tail": _longest_first,
}
STRATEGIES: tuple[Truncation, ...] = tuple(_KEEP)  # type: ignore[arg-type]
