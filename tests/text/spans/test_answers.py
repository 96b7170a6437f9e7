"""Answers compared with the loop of the published code, written as it is there."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bertjobs.text.encoding import EncodedTable
from bertjobs.text.spans.answers import QuestionAnswers, WindowScores, choose_answers, num_packed
from bertjobs.text.spans.windows import WindowTable, cut_windows, encode_questions
from bertjobs.text.tokenizer import WordPieceTokenizer
from bertjobs.text.vocabulary import train_wordpiece

CONTEXT = "The sea and the river, the İzmir sea; a sea saw naïve cats twice and twice the sea. " * 2
QUESTIONS = (
    ("Who saw it?", CONTEXT),
    ("What?", "the sea"),
    ("Where is the sea?", CONTEXT[30:]),
    ("?", "\u200b"),
)
N_BEST, MAX_ANSWER_TOKENS = 5, 6


@pytest.fixture(scope="module")
def questions() -> EncodedTable:
    texts = [text for pair in QUESTIONS for text in pair]
    tokenizer = train_wordpiece(pa.array(texts), vocab_size=120)
    assert isinstance(tokenizer, WordPieceTokenizer)
    n = len(QUESTIONS)
    table = pa.table(
        {
            "text_a": [a for a, _ in QUESTIONS],
            "text_b": [b for _, b in QUESTIONS],
            "answers": pa.array([[]] * n, pa.list_(pa.string())),
            "answer_starts": pa.array([[]] * n, pa.list_(pa.int32())),
            "label": pa.array([-1] * n, pa.int32()),
            "index": range(n),
        }
    )
    return EncodedTable.from_arrow(encode_questions(table, tokenizer))


def random_logits(windows: WindowTable, seed: int) -> list[np.ndarray]:
    """Return (length, 2) logits of each window, with ties."""
    rng = np.random.default_rng(seed)
    lengths = windows.lengths_a + windows.length_W + 3
    return [rng.integers(-8, 8, (n, 2)).astype(np.float32) / 4 for n in lengths]


def best_of(logits: list[np.ndarray], windows: WindowTable, *, n_best: int) -> WindowScores:
    """Return the best starts and ends of each window, as a rank would."""
    best = np.full((len(logits), 2, 3, n_best), -1.0, dtype=np.float32)
    ends_T = np.cumsum(windows.length_W)
    for w, window in enumerate(logits):
        inside = slice(ends_T[w] - windows.length_W[w], ends_T[w])
        may_start = windows.is_max_context_T[inside]
        for side, characters in enumerate((windows.char_starts_T[inside], windows.char_ends_T[inside])):
            order = np.argsort(-window[:, side], kind="stable")[:n_best]
            for k, place in enumerate(order):
                token = place - windows.context_at_W[w]
                if 0 <= token < windows.length_W[w] and (side == 1 or may_start[token]):
                    best[w, side, :, k] = windows.begin_W[w] + token, characters[token], window[place, side]
    scores = WindowScores(
        example_W=windows.example_W,
        null_W2=np.array([window[0] for window in logits]),
        starts_W3K=best[:, 0],
        ends_W3K=best[:, 1],
    )
    packed = scores.pack()
    assert packed.shape == (len(logits), num_packed(n_best))
    return WindowScores.unpack(packed)


def plain_answers(
    logits: list[np.ndarray], windows: WindowTable, *, unanswerable: bool
) -> list[dict[str, Any]]:
    """Choose answers as `write_predictions` of BERT's `run_squad.py` does, with texts by characters."""
    found = []
    is_max_context, offset = windows.is_max_context_T, 0
    max_context = []
    for length in windows.length_W:
        max_context.append(is_max_context[offset : offset + length])
        offset += length
    for example, (_, context) in enumerate(QUESTIONS):
        prelim, score_null, null = [], 1e6, (0.0, 0.0)
        for w in np.flatnonzero(windows.example_W == example):
            start_logits, end_logits = logits[w][:, 0].tolist(), logits[w][:, 1].tolist()
            if start_logits[0] + end_logits[0] < score_null:
                score_null, null = start_logits[0] + end_logits[0], (start_logits[0], end_logits[0])
            at = int(windows.context_at_W[w])
            best_starts = sorted(range(len(start_logits)), key=lambda i: start_logits[i], reverse=True)
            best_ends = sorted(range(len(end_logits)), key=lambda i: end_logits[i], reverse=True)
            for s in best_starts[:N_BEST]:
                for e in best_ends[:N_BEST]:
                    inside = range(at, at + int(windows.length_W[w]))
                    if s not in inside or e not in inside or not max_context[w][s - at]:
                        continue
                    if e < s or e - s + 1 > MAX_ANSWER_TOKENS:
                        continue
                    starts, ends = (windows.examples.more[n][example] for n in ("b_starts", "b_ends"))
                    begin = int(windows.begin_W[w]) - at
                    span = (starts[begin + s].as_py(), ends[begin + e].as_py())
                    prelim.append((start_logits[s], end_logits[e], span))
        prelim.sort(key=lambda p: p[0] + p[1], reverse=True)
        nbest: list[tuple[str, float, float]] = []
        for start_logit, end_logit, (begin, end) in prelim:
            if len(nbest) == N_BEST:
                break
            if context[begin:end] not in [text for text, _, _ in nbest]:
                nbest.append((context[begin:end], start_logit, end_logit))
        best = nbest[0] if nbest else ("", 0.0, 0.0)
        if unanswerable or not nbest:
            nbest.append(("", *null))
            nbest.sort(key=lambda c: c[1] + c[2], reverse=True)
        exponentials = [np.exp(s + e) for _, s, e in nbest]
        probabilities = [x / sum(exponentials) for x in exponentials]
        found.append({"nbest": nbest, "probabilities": probabilities, "odds": score_null - best[1] - best[2]})
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize(("max_len", "stride"), [(24, 8), (40, 24), (128, 16)])
def test_answers_are_those_of_the_published_loop(
    questions: EncodedTable, seed: int, unanswerable: bool, max_len: int, stride: int
) -> None:
    windows = cut_windows(questions, max_len=max_len, stride=stride)
    logits = random_logits(windows, seed)
    answers = choose(windows, logits, unanswerable=unanswerable)
    expected = plain_answers(logits, windows, unanswerable=unanswerable)
    for found, plain in zip(answers, expected, strict=True):
        listed = [(c.text, c.start_logit, c.end_logit) for c in found.candidates]
        assert listed == plain["nbest"]
        assert [c.probability for c in found.candidates] == pytest.approx(plain["probabilities"], rel=1e-12)
        assert found.null_odds == plain["odds"]


def choose(
    windows: WindowTable, logits: list[np.ndarray], *, unanswerable: bool = True
) -> list[QuestionAnswers]:
    return choose_answers(
        best_of(logits, windows, n_best=N_BEST),
        contexts=[context for _, context in QUESTIONS],
        n_best=N_BEST,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        unanswerable=unanswerable,
    )


def test_an_answer_is_the_characters_between_its_offsets(questions: EncodedTable) -> None:
    windows = cut_windows(questions, max_len=24, stride=8)
    for (_, context), found in zip(QUESTIONS, choose(windows, random_logits(windows, 7)), strict=True):
        for candidate in found.candidates:
            inside = context[candidate.start : candidate.end] if candidate.start >= 0 else ""
            assert inside == candidate.text


def test_a_context_without_tokens_has_only_the_empty_answer(questions: EncodedTable) -> None:
    windows = cut_windows(questions, max_len=24, stride=8)
    for unanswerable in (False, True):
        answers = choose(windows, random_logits(windows, 3), unanswerable=unanswerable)
        (only,) = answers[3].candidates
        assert (only.text, only.start, only.probability) == ("", -1, 1.0)
        assert answers[3].text(None) == ""


def test_null_odds_above_the_threshold_leave_a_question_unanswered(questions: EncodedTable) -> None:
    windows = cut_windows(questions, max_len=128, stride=8)
    answer = choose(windows, random_logits(windows, 1))[0]
    assert answer.text(None) == answer.best.text != ""
    assert answer.text(answer.null_odds) == answer.best.text
    assert answer.text(answer.null_odds - 0.25) == ""
