"""Compute the metrics of SQuAD: exact match and F1 of words, also of answerable and unanswerable questions.

The best thresholds are what a threshold tuned on the same questions would reach: an upper bound, no result.

Source: Rajpurkar et al. 2016, section 6.1 (exact match, F1), Rajpurkar et al. 2018 (questions without an
answer), and the official `evaluate-v2.0.py`, whose numbers these are to the last digit.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ScoreSum(NamedTuple):
    """Sums over questions."""

    exact: float
    f1: float
    total: int

    def shares(self) -> tuple[float, float]:
        """Return exact match and F1 between 0 and 1."""
        return self.exact / self.total, self.f1 / self.total

    def percent(self) -> tuple[float, float]:
        """Return exact match and F1 in percent, computed in the order of the official script."""
        return 100.0 * self.exact / self.total, 100.0 * self.f1 / self.total


class BestThreshold(NamedTuple):
    """The largest sum of scores over all thresholds on the null odds, and the threshold that reaches it."""

    score_sum: float
    threshold: float


@dataclass(frozen=True, kw_only=True)
class SquadScores:
    """The result of an evaluation."""

    all: ScoreSum
    has_answer: ScoreSum | None
    """None where no question has an answer."""
    no_answer: ScoreSum | None
    best_exact: BestThreshold | None
    """None where there are no null odds, as `best_f1`."""
    best_f1: BestThreshold | None

    def official(self) -> dict[str, float]:
        """Return the keys of the official script, in percent."""
        exact, f1 = self.all.percent()
        found: dict[str, float] = {"exact": exact, "f1": f1, "total": self.all.total}
        for name, part in (("HasAns", self.has_answer), ("NoAns", self.no_answer)):
            if part is not None:
                exact, f1 = part.percent()
                found |= {f"{name}_exact": exact, f"{name}_f1": f1, f"{name}_total": part.total}
        for name, best in (("best_exact", self.best_exact), ("best_f1", self.best_f1)):
            if best is not None:
                found |= {
                    name: 100.0 * best.score_sum / self.all.total,
                    f"{name}_thresh": best.threshold,
                }
        return found


def squad_scores(
    predictions: Sequence[str],
    *,
    references: Sequence[Sequence[str]],
    null_odds: Sequence[float] | None = None,
    null_threshold: float = 1.0,
) -> SquadScores:
    """Return the scores of predicted texts. references: the answers of each question, none if it has none.

    null_odds: a question counts as not answered where they exceed `null_threshold`; None: all 0.
    """
    odds = [0.0] * len(predictions) if null_odds is None else list(null_odds)
    pairs = [answer_scores(p, texts) for p, texts in zip(predictions, references, strict=True)]
    exact, f1 = [exact for exact, _ in pairs], [f1 for _, f1 in pairs]
    answerable = [bool(texts) for texts in references]

    def at_threshold(scores: list[float]) -> list[float]:
        return [
            float(not has_answer) if odd > null_threshold else score
            for score, odd, has_answer in zip(scores, odds, answerable, strict=True)
        ]

    exact_at, f1_at = at_threshold(exact), at_threshold(f1)

    def sum_where(keep: Iterable[bool]) -> ScoreSum | None:
        rows = [i for i, kept in enumerate(keep) if kept]
        if not rows:
            return None
        # Python's sum, from left to right: the official script's own, to the last digit.
        return ScoreSum(sum(exact_at[i] for i in rows), sum(f1_at[i] for i in rows), len(rows))

    everything = sum_where([True] * len(pairs))
    assert everything is not None, "an empty split is refused when it is read"
    best_exact = best_f1 = None
    if null_odds is not None:
        best_exact = best_threshold(exact, predictions=predictions, null_odds=odds, has_answer=answerable)
        best_f1 = best_threshold(f1, predictions=predictions, null_odds=odds, has_answer=answerable)
    return SquadScores(
        all=everything,
        has_answer=sum_where(answerable),
        no_answer=sum_where(not has_answer for has_answer in answerable),
        best_exact=best_exact,
        best_f1=best_f1,
    )


def answer_scores(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 of one prediction with the reference that it fits best."""
    wanted = [r for r in references if normalize_answer(r)] or [""]
    exact = float(max(exact_match(prediction, r) for r in wanted))
    return exact, max(f1_of_words(prediction, r) for r in wanted)


def best_threshold(
    scores: Sequence[float],
    *,
    predictions: Sequence[str],
    null_odds: Sequence[float],
    has_answer: Sequence[bool],
) -> BestThreshold:
    """Return the threshold on the null odds that reaches the largest sum of scores."""
    # With a threshold below all odds no question is answered.
    current = best = float(sum(not has for has in has_answer))
    threshold = 0.0
    for i in sorted(range(len(scores)), key=lambda i: null_odds[i]):
        if has_answer[i]:
            current += scores[i]
        elif predictions[i]:
            current -= 1
        if current > best:
            best, threshold = current, null_odds[i]
    return BestThreshold(best, threshold)


def normalize_answer(text: str) -> str:
    """Return a text in lower case without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> int:
    """Return 1 where both are the same after normalisation, else 0."""
    return int(normalize_answer(prediction) == normalize_answer(reference))


def f1_of_words(prediction: str, reference: str) -> float:
    """Return the F1 of the words that both have; of two texts one of which is empty, whether both are."""
    wanted, given = normalize_answer(reference).split(), normalize_answer(prediction).split()
    if not wanted or not given:
        return float(wanted == given)
    num_same = sum((Counter(wanted) & Counter(given)).values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(given), num_same / len(wanted)
    return (2 * precision * recall) / (precision + recall)
