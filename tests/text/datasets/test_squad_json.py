"""SQuAD's files: what is read, and what each kind of broken question is called."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bertjobs.errors import DataError
from bertjobs.text.datasets.squad_json import read_squad
from bertjobs.text.source_file import SourceFile
from bertjobs.text.spans.question_table import SCHEMA, build_question_table

CONTEXT = "Éole flows to the sea at Calais."


def question(id: str = "q1", **changes: Any) -> dict[str, Any]:
    answer = {"text": "Calais", "answer_start": 25}
    return {"id": id, "question": "Where does it end?", "answers": [answer], **changes}


def squad_file(path: Path, *questions: Any, context: Any = CONTEXT) -> Path:
    paragraph = {"qas": list(questions)} | ({} if context is None else {"context": context})
    content = {"version": "1.1", "data": [{"title": "Rivers", "paragraphs": [paragraph]}]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def read(
    path: Path, *, unanswerable: bool = False, on_bad_row: Any = "error", require_labels: bool = True
) -> tuple[pa.Table, dict[str, int]]:
    source = SourceFile(path)
    return build_question_table(
        read_squad(source),
        source=source,
        unanswerable=unanswerable,
        on_bad_row=on_bad_row,
        require_labels=require_labels,
    )


def test_questions_are_read_with_all_their_answers(tmp_path: Path) -> None:
    answers = [{"text": "Calais", "answer_start": 25}, {"text": "at Calais", "answer_start": 22}]
    path = squad_file(tmp_path / "dev.json", question(answers=answers), question("q2"))
    table, num_dropped = read(path)
    assert table.schema == SCHEMA
    assert num_dropped == {"broken row": 0}
    assert table.to_pylist()[0] == {
        "id": "q1",
        "text_a": "Where does it end?",
        "text_b": CONTEXT,
        "answers": ["Calais", "at Calais"],
        "answer_starts": [25, 22],
        "label": 1,
        "index": 0,
    }


def test_an_impossible_question_has_label_0_and_no_answers(tmp_path: Path) -> None:
    plausible = [{"text": "sea", "answer_start": 18}]
    impossible = question("q2", answers=[], is_impossible=True, plausible_answers=plausible)
    path = squad_file(tmp_path / "dev.json", question(is_impossible=False), impossible)
    table, _ = read(path, unanswerable=True)
    assert table["label"].to_pylist() == [1, 0]
    assert table["answers"].to_pylist() == [["Calais"], []]


def test_a_file_without_any_answers_is_for_predictions_only(tmp_path: Path) -> None:
    path = squad_file(tmp_path / "test.json", {"id": "q1", "question": "Where?"})
    table, _ = read(path, require_labels=False)
    assert table["label"].to_pylist() == [-1]
    with pytest.raises(DataError, match="none of its 1 questions has an answer"):
        read(path)


BROKEN = {
    "offset": (
        question(answers=[{"text": "Calais", "answer_start": 24}]),
        "question q1: the answer 'Calais' is not at its offset 24, where ' Calai' is",
    ),
    "negative offset": (
        question(answers=[{"text": "s.", "answer_start": -2}]),
        "question q1: the answer 's.' is not at its offset -2, where '' is",
    ),
    "no question": (question(question=None), "question q1: there is no question"),
    "question type": (question(question=3), "question q1: the question is not a text but 3"),
    "no id": (question(""), 'question data[0].paragraphs[0].qas[0]: the id is not a text but ""'),
    "no answers": (
        question(answers=[]),
        "question q1: there is no answer, and it is not marked is_impossible",
    ),
    "answers type": (question(answers="Calais"), 'question q1: answers is not a list but "Calais"'),
    "answer start": (
        question(answers=[{"text": "Calais", "answer_start": "25"}]),
        "question q1: an answer needs a text and a whole number answer_start, but is",
    ),
    "empty answer": (
        question(answers=[{"text": "", "answer_start": 0}]),
        "question q1: an answer is empty",
    ),
    "impossible flag": (
        question(is_impossible="no"),
        'question q1: is_impossible is not true or false but "no"',
    ),
    "impossible with answer": (
        question(is_impossible=True),
        "question q1: it is_impossible, but has the answer 'Calais'",
    ),
    "impossible in v1.1": (
        question(answers=[], is_impossible=True),
        "question q1: it is_impossible, which the task does not have; SQuAD v2.0 is squad_v2",
    ),
    "not a question": ("Where?", 'question data[0].paragraphs[0].qas[0]: expected a question, but found "W'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_question_is_refused_with_its_file_and_id_or_skipped_and_counted(
    tmp_path: Path, name: str
) -> None:
    broken, message = BROKEN[name]
    path = squad_file(tmp_path / "dev.json", broken, question("good"))
    with pytest.raises(DataError) as raised:
        read(path)
    assert raised.value.message.startswith(f"{path}, {message}")
    assert raised.value.hint == "Correct the question, or skip and count such ones: --on-bad-row skip."
    table, num_dropped = read(path, on_bad_row="skip")
    assert table["id"].to_pylist() == ["good"]
    assert num_dropped == {"broken row": 1}


def test_a_question_without_its_context_is_refused(tmp_path: Path) -> None:
    for context, cause in (
        (None, "there is no context"),
        ("", "there is no context"),
        (7, "not a text but 7"),
    ):
        path = squad_file(tmp_path / "dev.json", question(), context=context)
        with pytest.raises(DataError, match=f"question q1: .*{cause}"):
            read(path)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = squad_file(tmp_path / "dev.json", question(), question())
    with pytest.raises(DataError, match="question q1: the id occurs twice in the file"):
        read(path)


def test_a_file_of_broken_questions_only_shows_the_first(tmp_path: Path) -> None:
    path = squad_file(tmp_path / "dev.json", question(answers=[7]), question("q2", question=""))
    with pytest.raises(DataError, match=r"all of its 2 questions are broken. The first: .* question q1: an"):
        read(path, on_bad_row="skip", require_labels=False)


NOT_SQUAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "broken JSON"),
    "cut short": ('{"data": [{"paragraphs": [', "broken JSON"),
    "a list": ("[]", "is not in SQuAD's format: expected a JSON object, but found []"),
    "no data": ('{"version": "2.0"}', "is not in SQuAD's format: the file has no list 'data'"),
    "no paragraphs": ('{"data": [{}]}', "data[0] has no list 'paragraphs'"),
    "no questions": ('{"data": [{"paragraphs": [{}]}]}', "data[0].paragraphs[0] has no list 'qas'"),
    "nothing in it": ('{"data": []}', "has no questions"),
    "binary": (b"PK\x03\x04", "is not text but a zip archive"),
    "not UTF-8": (b'{"data": "\xff"}', "byte 0xff at offset 10 is not UTF-8"),
}


@pytest.mark.parametrize("name", NOT_SQUAD)
def test_a_file_in_another_format_is_refused(tmp_path: Path, name: str) -> None:
    content, message = NOT_SQUAD[name]
    path = tmp_path / "dev.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as raised:
        read(path)
    assert str(path) in raised.value.message
    assert message in raised.value.message


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "num_answerable", "num_impossible"),
    [("train-v1.1", 688, 0), ("dev-v1.1", 253, 0), ("train-v2.0", 688, 354), ("dev-v2.0", 253, 119)],
)
def test_every_published_question_is_read(
    data_root: Path, name: str, num_answerable: int, num_impossible: int
) -> None:
    table, num_dropped = read(data_root / "data/squad" / f"{name}.json", unanswerable="v2" in name)
    assert table["label"].to_pylist().count(1) == num_answerable
    assert table["label"].to_pylist().count(0) == num_impossible
    assert num_dropped == {"broken row": 0}
