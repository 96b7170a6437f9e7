"""What to keep of texts that do not fit: arithmetic on lengths, in closed form, for a whole batch at once.

Lengths are in wordpieces and count no special tokens: `budget` is what is left of max_len after those.
A single text is cut at its end by every strategy but `head_tail`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertjobs.config.finetune import Truncation

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """How much of each text is kept, and how much of that comes from its beginning; the rest from its end."""

    keep_a: Lengths
    head_a: Lengths
    keep_b: Lengths
    """Zeros where there is no second text."""
    head_b: Lengths

    def take(self, rows: Lengths) -> "Cut":
        """Return the cut of the given rows, in the given order."""
        return Cut(self.keep_a[rows], self.head_a[rows], self.keep_b[rows], self.head_b[rows])


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a strategy cuts from a set of examples."""

    num_rows: int
    num_cut: int
    """Examples that lose at least one wordpiece."""
    num_tokens: int
    num_tokens_cut: int
    num_tokens_cut_second: int
    """How many of those are the second texts'."""
    num_texts_lost: int
    """Texts of which nothing is left."""
    max_tokens_cut: int
    """The most that one example loses."""


def budget_of(max_len: int, *, is_pair: bool) -> int:
    """Return what max_len leaves for text: without [CLS] and one or two [SEP]."""
    return max_len - (3 if is_pair else 2)


def truncate_lengths(len_a: Lengths, len_b: Lengths | None, *, budget: int, strategy: Truncation) -> Cut:
    """Return what is kept so that no example is longer than the budget; what fits is left alone.

    longest_first: the longer text loses its last piece until the pair fits, ties from the second text.
        Source: Dive into Deep Learning, `SNLIBERTDataset._truncate_pair_of_tokens`.
    only_first, only_second: that text is cut; where that is not enough it goes, and the other is cut too.
    ratio: each text keeps its share of the pair's length; no text is lost altogether while two pieces fit.
    head_tail: lengths as longest_first, and each cut text keeps its beginning and its end, half and half.
        Source: Sun et al. 2019, How to Fine-Tune BERT, section 5.3.1.
    """
    a = np.asarray(len_a, dtype=np.int64)
    b = np.zeros_like(a) if len_b is None else np.asarray(len_b, dtype=np.int64)
    budget = max(budget, 0)
    keep_a, keep_b = _KEEP[strategy](a, b, budget)
    if strategy != "head_tail":
        return Cut(keep_a, keep_a, keep_b, keep_b)
    return Cut(keep_a, _head(keep_a, a), keep_b, _head(keep_b, b))


def report(len_a: Lengths, len_b: Lengths | None, *, budget: int, strategy: Truncation) -> Report:
    """Say how many examples a strategy cuts, and by how much."""
    cut = truncate_lengths(len_a, len_b, budget=budget, strategy=strategy)
    a = np.asarray(len_a, dtype=np.int64)
    b = np.zeros_like(a) if len_b is None else np.asarray(len_b, dtype=np.int64)
    lost = a + b - cut.keep_a - cut.keep_b
    return Report(
        num_rows=len(lost),
        num_cut=int((lost > 0).sum()),
        num_tokens=int((a + b).sum()),
        num_tokens_cut=int(lost.sum()),
        num_tokens_cut_second=int((b - cut.keep_b).sum()),
        num_texts_lost=int(((a > 0) & (cut.keep_a == 0)).sum() + ((b > 0) & (cut.keep_b == 0)).sum()),
        max_tokens_cut=int(lost.max(initial=0)),
    )


def _longest_first(a: Lengths, b: Lengths, budget: int) -> tuple[Lengths, Lengths]:
    # The second text stops shrinking at half the budget rounded down, or where the first leaves it more.
    keep_b = np.minimum(b, np.maximum(budget // 2, budget - a))
    return np.minimum(a, budget - keep_b), keep_b


def _only_first(a: Lengths, b: Lengths, budget: int) -> tuple[Lengths, Lengths]:
    keep_b = np.minimum(b, budget)
    return np.minimum(a, budget - keep_b), keep_b


def _only_second(a: Lengths, b: Lengths, budget: int) -> tuple[Lengths, Lengths]:
    keep_b, keep_a = _only_first(b, a, budget)
    return keep_a, keep_b


def _ratio(a: Lengths, b: Lengths, budget: int) -> tuple[Lengths, Lengths]:
    total = a + b
    share = budget * a // np.maximum(total, 1)
    if budget >= 2:
        share = np.maximum(share, np.minimum(a, 1))  # rounding down must not lose a short text altogether
    fits = total <= budget
    return np.where(fits, a, share), np.where(fits, b, budget - share)


def _head(keep: Lengths, length: Lengths) -> Lengths:
    """Return how many pieces come from the beginning: all where nothing is cut, else half, rounded up."""
    return np.where(keep < length, keep - keep // 2, keep)


_KEEP = {
    "longest_first": _longest_first,
    "only_first": _only_first,
    "only_second": _only_second,
    "ratio": _ratio,
    "head_tail": _longest_first,
}
STRATEGIES: tuple[Truncation, ...] = tuple(_KEEP)  # type: ignore[arg-type]
