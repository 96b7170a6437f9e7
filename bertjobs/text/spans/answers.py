"""Choose answers from the scores of windows: an n-best list per question, and a score for no answer.

Of a window only its `n_best` best starts and ends are needed, besides the scores of [CLS], so what ranks
exchange and what is kept does not grow with the windows' lengths. Numpy only.

The plain version that the tests compare with is the loop of the published code, in
tests/text/spans/test_answers.py.

Source: Devlin et al. 2019 (BERT), sections 4.2 and 4.3, and `write_predictions` of the published
`run_squad.py`; here answers are spans of the original characters, so no text is put together from wordpieces.

Shape suffixes: W: windows. K: best starts, or ends, of a window. C: candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS_PER_CHUNK = 4096
"""Bounds memory: K x K candidates of each window are looked at together."""


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """The best starts and ends of each window, best first, and the scores of [CLS]."""

    example_W: np.ndarray
    """The row of the question that a window belongs to."""
    null_W2: np.ndarray
    """The start and the end logit of [CLS]."""
    starts_W3K: np.ndarray
    """Per start its token in the context, its first character, and its logit. The token is -1 where no answer
    may begin there: outside of the context, or where another window has more context around it."""
    ends_W3K: np.ndarray
    """Per end its token, the character after its last one, and its logit."""

    def pack(self) -> np.ndarray:
        """Return all of it as numbers of each window: float32, exact for tokens and characters below 2^24."""
        parts = (self.example_W[:, None], self.null_W2, _flat(self.starts_W3K), _flat(self.ends_W3K))
        return np.concatenate(parts, axis=1).astype(np.float32)

    @classmethod
    def unpack(cls, packed: np.ndarray) -> "WindowScores":
        """Read what `pack` returned."""
        starts, ends = np.split(packed[:, 3:], 2, axis=1)
        return cls(
            example_W=packed[:, 0].astype(np.int64),
            null_W2=packed[:, 1:3],
            starts_W3K=starts.reshape(len(packed), 3, -1),
            ends_W3K=ends.reshape(len(packed), 3, -1),
        )


def num_packed(n_best: int) -> int:
    """Return how many numbers `WindowScores.pack` makes of a window."""
    return 3 + 6 * n_best


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One entry of an n-best list; the empty text means that the context does not answer the question."""

    text: str
    start: int
    """Offset of the first character in the context; -1 for no answer, as `end`."""
    end: int
    probability: float
    """Among the entries of the list."""
    start_logit: float
    end_logit: float


@dataclass(frozen=True, kw_only=True)
class QuestionAnswers:
    """What is predicted for one question."""

    candidates: tuple[Candidate, ...]
    """Best first; where questions may have no answer, one candidate is empty."""
    null_odds: float
    """Score of no answer over that of the best answer, in logits: the larger, the less likely an answer."""

    @property
    def best(self) -> Candidate:
        """The best answer that is not empty; empty where no span can be one."""
        return next((c for c in self.candidates if c.text), _EMPTY)

    def probability_of(self, text: str) -> float:
        """Return the probability of a text that is in the list; 0 if it is not."""
        return next((c.probability for c in self.candidates if c.text == text), 0.0)

    def text(self, null_threshold: float | None) -> str:
        """Return the answer: empty where `null_odds` exceed the threshold; None never answers empty."""
        return "" if null_threshold is not None and self.null_odds > null_threshold else self.best.text


_EMPTY = Candidate(text="", start=-1, end=-1, probability=1.0, start_logit=0.0, end_logit=0.0)


def choose_answers(
    scores: WindowScores,
    *,
    contexts: Sequence[str],
    n_best: int,
    max_answer_tokens: int,
    unanswerable: bool,
) -> list[QuestionAnswers]:
    """Return the answers of all questions, in their order.

    contexts: one for each question. unanswerable: whether a question may have no answer.
    """
    found = _Candidates.of(scores, max_answer_tokens=max_answer_tokens)
    # Stable: of equal scores the earlier window comes first, then the better start, then the better end.
    order = np.lexsort((-found.score_C, found.example_C))
    bounds = np.searchsorted(found.example_C[order], np.arange(len(contexts) + 1))
    # The window whose [CLS] scores lowest tells best whether the context has no answer.
    null_W = scores.null_W2.astype(np.float64).sum(axis=1)
    null_order = np.lexsort((null_W, scores.example_W))
    first_windows = np.searchsorted(scores.example_W, np.arange(len(contexts)))
    answers = []
    for i, context in enumerate(contexts):
        seen: set[str] = set()
        listed: list[Candidate] = []
        for c in order[bounds[i] : bounds[i + 1]]:
            text = context[found.char_start_C[c] : found.char_end_C[c]]
            if not text or text in seen:
                continue
            seen.add(text)
            start, end = float(found.start_score_C[c]), float(found.end_score_C[c])
            listed.append(Candidate(
                text=text, start=int(found.char_start_C[c]), end=int(found.char_end_C[c]),
                probability=0.0, start_logit=start, end_logit=end,
            ))  # fmt: skip
            if len(listed) == n_best:
                break
        best = listed[0] if listed else _EMPTY
        null_start, null_end = map(float, scores.null_W2[null_order[first_windows[i]]])
        if unanswerable or not listed:
            listed.append(Candidate(
                text="", start=-1, end=-1, probability=0.0, start_logit=null_start, end_logit=null_end
            ))  # fmt: skip
            listed.sort(key=lambda c: -(c.start_logit + c.end_logit))
        answers.append(
            QuestionAnswers(
                candidates=_with_probabilities(listed),
                null_odds=null_start + null_end - best.start_logit - best.end_logit,
            )
        )
    return answers


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """All spans that may be answers, window after window."""

    example_C: np.ndarray
    char_start_C: np.ndarray
    """int64, offsets in the context."""
    char_end_C: np.ndarray
    start_score_C: np.ndarray
    end_score_C: np.ndarray

    @property
    def score_C(self) -> np.ndarray:
        # In float64, as the published code adds Python's numbers.
        return self.start_score_C.astype(np.float64) + self.end_score_C.astype(np.float64)

    @classmethod
    def of(cls, scores: WindowScores, *, max_answer_tokens: int) -> "_Candidates":
        """Combine the starts and ends of each window that may belong together."""
        parts = []
        for begin in range(0, len(scores.example_W), WINDOWS_PER_CHUNK):
            chunk = slice(begin, begin + WINDOWS_PER_CHUNK)
            starts_W3K, ends_W3K = scores.starts_W3K[chunk], scores.ends_W3K[chunk]
            first_WK1, last_W1K = starts_W3K[:, 0, :, None], ends_W3K[:, 0, None, :]
            num_tokens_WKK = last_W1K - first_WK1 + 1
            is_span_WKK = (first_WK1 >= 0) & (last_W1K >= 0)
            is_span_WKK &= (num_tokens_WKK > 0) & (num_tokens_WKK <= max_answer_tokens)
            w, s, e = np.nonzero(is_span_WKK)  # row after row: windows, then starts, then ends
            parts.append((
                scores.example_W[chunk][w],
                starts_W3K[w, 1, s].astype(np.int64), ends_W3K[w, 1, e].astype(np.int64),
                starts_W3K[w, 2, s], ends_W3K[w, 2, e],
            ))  # fmt: skip
        return cls(**dict(zip(_FIELDS, map(np.concatenate, zip(*parts, strict=True)), strict=True)))


_FIELDS = ("example_C", "char_start_C", "char_end_C", "start_score_C", "end_score_C")


def _with_probabilities(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    scores = np.array([c.start_logit + c.end_logit for c in candidates])
    exponentials = np.exp(scores - scores.max())
    probabilities = exponentials / exponentials.sum()
    return tuple(
        Candidate(
            text=c.text, start=c.start, end=c.end, probability=float(p),
            start_logit=c.start_logit, end_logit=c.end_logit,
        )
        for c, p in zip(candidates, probabilities, strict=True)
    )  # fmt: skip
