"""Windows compared with those of the `tokenizers` library: ids, characters, answers, and the max context."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.processors import BertProcessing

from bertjobs.errors import DataError
from bertjobs.text.datasets.squad_json import read_squad
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.source_file import SourceFile
from bertjobs.text.spans.question_table import SCHEMA, build_question_table
from bertjobs.text.spans.windows import (
    WindowTable,
    cut_windows,
    encode_questions,
    tokens_of_characters,
)
from bertjobs.text.tokenizer import WordPieceTokenizer
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.text.vocabulary import train_wordpiece

QUESTION = "Who saw it?"
CONTEXT = "Éole \u4e2d\u6587 flowed\u200b to İzmir; naïve\u0301 cats\x07 saw 한국어 and the sea, twice. " * 4


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return train_wordpiece(pa.array([QUESTION, CONTEXT]), vocab_size=200)


def question_table(*rows: tuple[str, str, str | None]) -> pa.Table:
    """Return a table of (question, context, answer); the answer is found in the context."""
    return pa.table(
        [
            pa.array([f"q{i}" for i in range(len(rows))]),
            pa.array([question for question, _, _ in rows], pa.string()),
            pa.array([context for _, context, _ in rows], pa.string()),
            pa.array([[a] if a else [] for _, _, a in rows], pa.list_(pa.string())),
            pa.array([[c.index(a)] if a else [] for _, c, a in rows], pa.list_(pa.int32())),
            pa.array([int(bool(a)) for _, _, a in rows], pa.int32()),
            pa.array(range(len(rows)), pa.int64()),
        ],
        schema=SCHEMA,
    )


def plain_windows(
    tokenizer: WordPieceTokenizer, table: pa.Table, *, max_len: int, stride: int
) -> list[tuple[int, Encoding, int, int]]:
    """Return row, encoding, and the answer's first and last position of each window, as transformers does."""
    fast = FastTokenizer.from_str(tokenizer._fast.to_str())
    fast.enable_truncation(max_len, stride=stride, strategy="only_second")
    fast.post_processor = BertProcessing(("[SEP]", tokenizer.sep_id), ("[CLS]", tokenizer.cls_id))
    found = []
    for row in table.to_pylist():
        first = fast.encode(row["text_a"], row["text_b"])
        for encoding in (first, *first.overflowing):
            found.append((row["index"], encoding, *plain_answer(row, encoding)))
    return found


def plain_answer(row: dict[str, Any], encoding: Encoding) -> tuple[int, int]:
    """Find the answer as `run_qa.py` of transformers does, but never beyond the context."""
    if not row["answers"]:
        return 0, 0
    start = row["answer_starts"][0]
    end = start + len(row["answers"][0])
    inside = [i for i, part in enumerate(encoding.sequence_ids) if part == 1]
    offsets = encoding.offsets
    if not inside or offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return 0, 0
    return (
        max(i for i in inside if offsets[i][0] <= start),
        min(i for i in inside if offsets[i][1] >= end),
    )


def assert_windows_are_equal(
    tokenizer: WordPieceTokenizer, table: pa.Table, *, max_len: int, stride: int
) -> WindowTable:
    questions = EncodedTable.from_arrow(encode_questions(table, tokenizer))
    windows = cut_windows(questions, max_len=max_len, stride=stride)
    plain = plain_windows(tokenizer, table, max_len=max_len, stride=stride)
    assert windows.example_W.tolist() == [row for row, _, _, _ in plain]
    assert windows.start_W.tolist() == [start for _, _, start, _ in plain]
    assert windows.end_W.tolist() == [end for _, _, _, end in plain]
    texts, CLS, SEP = windows, tokenizer.cls_id, tokenizer.sep_id
    ends = np.cumsum(windows.length_W)
    assert texts.b_ids is not None
    assert texts.b_offsets is not None
    for w, (_, encoding, _, _) in enumerate(plain):
        a = texts.a_ids[texts.a_offsets[w] : texts.a_offsets[w + 1]]
        b = texts.b_ids[texts.b_offsets[w] : texts.b_offsets[w + 1]]
        assert [CLS, *a.tolist(), SEP, *b.tolist(), SEP] == encoding.ids
        inside = slice(ends[w] - windows.length_W[w], ends[w])
        characters = list(
            zip(windows.char_starts_T[inside].tolist(), windows.char_ends_T[inside].tolist(), strict=True)
        )
        spans = zip(encoding.offsets, encoding.sequence_ids, strict=True)
        assert characters == [span for span, part in spans if part == 1]
        assert windows.context_at_W[w] == len(a) + 2
    return windows


@pytest.mark.parametrize(("max_len", "stride"), [(24, 8), (24, 0), (40, 30), (512, 128)])
def test_windows_are_those_of_the_tokenizers_library(
    tokenizer: WordPieceTokenizer, max_len: int, stride: int
) -> None:
    table = question_table(
        (QUESTION, CONTEXT, "İzmir"),
        ("Who?", CONTEXT, None),
        (QUESTION, "the sea", "sea"),
        (QUESTION, CONTEXT, "and the sea, twice."),
        (QUESTION, "\u200b\x07", None),
    )
    windows = assert_windows_are_equal(tokenizer, table, max_len=max_len, stride=stride)
    assert windows.num_rows > (5 if max_len < 512 else 4)


@given(
    num_words=st.integers(0, 60),
    max_len=st.integers(12, 40),
    stride=st.integers(0, 7),
    first=st.integers(0, 7),
)
def test_windows_of_any_length_and_overlap_are_those_of_the_tokenizers_library(
    tokenizer: WordPieceTokenizer, num_words: int, max_len: int, stride: int, first: int
) -> None:
    words = CONTEXT.split() * 2
    context = " ".join(words[:num_words])
    # Without what the tokenizer strips: where an answer ends in it, we are more exact than the plain version.
    answer = words[min(first, num_words - 1)].rstrip("\u200b\x07\u0301") if num_words else None
    table = question_table(("it", context, answer))
    assert_windows_are_equal(tokenizer, table, max_len=max_len, stride=stride)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "num_windows"),
    [("train-v1.1", 693), ("dev-v1.1", 253), ("train-v2.0", 1049), ("dev-v2.0", 372)],
)
def test_the_windows_of_squad_are_those_of_the_tokenizers_library(
    data_root: Path, name: str, num_windows: int
) -> None:
    source = SourceFile(data_root / "data/squad" / f"{name}.json")
    table, _ = build_question_table(
        read_squad(source), source=source, unanswerable=True, on_bad_row="error", require_labels=True
    )
    vocabulary = load_tokenizer(data_root / "data/vocab/bert-base-uncased-vocab.txt")
    assert isinstance(vocabulary, WordPieceTokenizer)
    windows = assert_windows_are_equal(vocabulary, table, max_len=384, stride=128)
    assert windows.num_rows == num_windows
    assert_windows_are_equal(vocabulary, table.slice(0, 250), max_len=96, stride=32)


def test_a_question_that_leaves_no_room_is_refused(tokenizer: WordPieceTokenizer) -> None:
    table = question_table((QUESTION, CONTEXT, None), ("who saw it and the sea " * 4, CONTEXT, None))
    questions = EncodedTable.from_arrow(encode_questions(table, tokenizer))
    num_pieces = int(questions.lengths_a[1])
    with pytest.raises(DataError) as raised:
        cut_windows(questions, max_len=32, stride=8)
    assert raised.value.message == (
        f"The question in row 2 has {num_pieces} wordpieces: with --max-len 32 that leaves {29 - num_pieces} "
        "for its context, which is not more than the overlap of --doc-stride 8"
    )
    assert "--max-len" in str(raised.value.hint)


def test_tokens_of_characters_are_those_that_share_one() -> None:
    starts, ends = np.array([0, 3, 5, 5, 8]), np.array([2, 5, 6, 6, 9])  # two tokens of one character
    assert tokens_of_characters(starts, ends, start=0, end=2) == (0, 0)
    assert tokens_of_characters(starts, ends, start=4, end=6) == (1, 3)
    assert tokens_of_characters(starts, ends, start=5, end=6) == (2, 3)
    assert tokens_of_characters(starts, ends, start=2, end=3) == (-1, -1)
    assert tokens_of_characters(starts, ends, start=9, end=12) == (-1, -1)


def plain_max_context(begins: list[int], lengths: list[int], window: int, position: int) -> bool:
    """Return what `_check_is_max_context` of BERT's `run_squad.py` returns, written as it is there."""
    best_score, best_window = None, None
    for w, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
        end = begin + length - 1
        if position < begin or position > end:
            continue
        score = min(position - begin, end - position) + 0.01 * length
        if best_score is None or score > best_score:
            best_score, best_window = score, w
    return window == best_window


@pytest.mark.parametrize(("max_len", "stride"), [(24, 8), (40, 30), (40, 0)])
def test_the_window_with_most_context_is_that_of_the_published_code(
    tokenizer: WordPieceTokenizer, max_len: int, stride: int
) -> None:
    table = question_table((QUESTION, CONTEXT, None), ("Who?", CONTEXT[:90], None))
    questions = EncodedTable.from_arrow(encode_questions(table, tokenizer))
    windows = cut_windows(questions, max_len=max_len, stride=stride)
    expected = []
    for example in range(2):
        own = np.flatnonzero(windows.example_W == example)
        begins, lengths = windows.begin_W[own].tolist(), windows.length_W[own].tolist()
        for w, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
            expected += [plain_max_context(begins, lengths, w, begin + i) for i in range(length)]
    assert windows.is_max_context_T.tolist() == expected
    assert 0 < sum(expected) <= len(expected)
