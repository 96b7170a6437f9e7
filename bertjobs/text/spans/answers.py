"""Choose answers from the scores of windows: an n-best list per question, and a score for no answer.

Of a window only its `n_best` best starts and ends are needed, besides the scores of [CLS], so what ranks
exchange and what is kept does not grow with the windows' lengths. Numpy only.

The plain version that the tests compare with is the loop of the published code, in
tests/text/spans/test_answers.py.

Source: Devlin et al. 2019 (BERT), section 4.2 and 4.3, and `write_predictions` of the published
`run_squad.py`; here answers are spans of the original characters, so no text is put together from wordpieces.

Shape suffixes: W: windows. K: best starts, or ends, of a window. C: candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertjobs.text import ragged
from bertjobs.text.spans.windows import EncodedQuestions, Windows

WINDOWS_PER_CHUNK = 4096
"""Bounds memory: K x K candidates of each window are looked at together."""


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """The best starts and ends of each window, best first; unused places have index -1."""

    start_WK: np.ndarray
    """int32, indices in the window's sequence."""
    start_score_WK: np.ndarray
    """float32 logits."""
    end_WK: np.ndarray
    end_score_WK: np.ndarray
    null_W2: np.ndarray
    """float32, the start and end logit of [CLS]."""

    @classmethod
    def empty(cls, num_windows: int, *, n_best: int) -> "WindowScores":
        """Return the scores of windows that nobody has predicted: all zero, so that ranks' can be added."""
        shape = (num_windows, n_best)
        return cls(
            start_WK=np.zeros(shape, np.int32),
            start_score_WK=np.zeros(shape, np.float32),
            end_WK=np.zeros(shape, np.int32),
            end_score_WK=np.zeros(shape, np.float32),
            null_W2=np.zeros((num_windows, 2), np.float32),
        )


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

    def text(self, null_threshold: float | None) -> str:
        """Return the answer: empty where `null_odds` exceed the threshold; None never answers empty."""
        return "" if null_threshold is not None and self.null_odds > null_threshold else self.best.text


_EMPTY = Candidate(text="", start=-1, end=-1, probability=1.0, start_logit=0.0, end_logit=0.0)


def choose_answers(
    scores: WindowScores,
    *,
    windows: Windows,
    questions: EncodedQuestions,
    contexts: Sequence[str],
    n_best: int,
    max_answer_tokens: int,
    has_impossible: bool,
) -> list[QuestionAnswers]:
    """Return the answers of all questions, in their order. contexts: one for each question."""
    found = _Candidates.of(scores, windows=windows, max_answer_tokens=max_answer_tokens)
    # Stable: of equal scores the earlier window comes first, then the better start, then the better end.
    order = np.lexsort((-found.score_C, found.example_C))
    bounds = np.searchsorted(found.example_C[order], np.arange(len(contexts) + 1))
    token_offset = questions.context_offsets
    starts_C = questions.char_starts[token_offset[found.example_C] + found.first_C]
    ends_C = questions.char_ends[token_offset[found.example_C] + found.last_C]
    # The window whose [CLS] scores lowest tells best whether the context has no answer.
    null_W = scores.null_W2.astype(np.float64).sum(axis=1)
    null_order = np.lexsort((null_W, windows.example_W))
    first_windows = np.searchsorted(windows.example_W, np.arange(len(contexts)))
    answers = []
    for i, context in enumerate(contexts):
        seen: set[str] = set()
        listed: list[Candidate] = []
        for c in order[bounds[i] : bounds[i + 1]]:
            text = context[starts_C[c] : ends_C[c]]
            if not text or text in seen:
                continue
            seen.add(text)
            start, end = float(found.start_score_C[c]), float(found.end_score_C[c])
            listed.append(Candidate(
                text=text, start=int(starts_C[c]), end=int(ends_C[c]), probability=0.0,
                start_logit=start, end_logit=end,
            ))  # fmt: skip
            if len(listed) == n_best:
                break
        best = listed[0] if listed else _EMPTY
        null_start, null_end = map(float, scores.null_W2[null_order[first_windows[i]]])
        if has_impossible or not listed:
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
    first_C: np.ndarray
    """Token of the context, as in `EncodedQuestions`."""
    last_C: np.ndarray
    start_score_C: np.ndarray
    end_score_C: np.ndarray

    @property
    def score_C(self) -> np.ndarray:
        # In float64, as the published code adds Python's numbers.
        return self.start_score_C.astype(np.float64) + self.end_score_C.astype(np.float64)

    @classmethod
    def of(cls, scores: WindowScores, *, windows: Windows, max_answer_tokens: int) -> "_Candidates":
        is_max_context_T = windows.is_max_context_T()
        token_offset_W = ragged.offsets_of(windows.length_W)
        parts = []
        for begin in range(0, windows.num_windows, WINDOWS_PER_CHUNK):
            chunk = slice(begin, begin + WINDOWS_PER_CHUNK)
            # Tokens of the context, counted in the window; those of the question become negative.
            start_WK = scores.start_WK[chunk] - windows.context_at_W[chunk, None]
            end_WK = scores.end_WK[chunk] - windows.context_at_W[chunk, None]
            length_W1 = windows.length_W[chunk, None]
            is_start_WK = (start_WK >= 0) & (start_WK < length_W1)
            is_end_WK = (end_WK >= 0) & (end_WK < length_W1)
            at_WK = token_offset_W[:-1][chunk, None] + np.where(is_start_WK, start_WK, 0)
            if len(is_max_context_T):
                is_start_WK &= is_max_context_T[np.minimum(at_WK, len(is_max_context_T) - 1)]
            num_tokens_WKK = end_WK[:, None, :] - start_WK[:, :, None] + 1
            is_span_WKK = is_start_WK[:, :, None] & is_end_WK[:, None, :]
            is_span_WKK &= (num_tokens_WKK > 0) & (num_tokens_WKK <= max_answer_tokens)
            w, s, e = np.nonzero(is_span_WKK)
            shift = windows.begin_W[chunk][w]
            parts.append((
                windows.example_W[chunk][w], start_WK[w, s] + shift, end_WK[w, e] + shift,
                scores.start_score_WK[chunk][w, s], scores.end_score_WK[chunk][w, e],
            ))  # fmt: skip
        example, first, last, start_score, end_score = map(np.concatenate, zip(*parts, strict=True))
        return cls(
            example_C=example, first_C=first, last_C=last, start_score_C=start_score, end_score_C=end_score
        )


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
