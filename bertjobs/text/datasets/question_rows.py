"""Read questions from rows: JSON lines, or Parquet as the `datasets` library publishes SQuAD.

A row has `id`, `question`, `context`, and `answers`: a list of `{"text", "answer_start"}`, or one
`{"text": [...], "answer_start": [...]}`. A row with no answers in it has a question without an answer; a row
without the column is not answered yet. Each row is checked as a question of SQuAD's own files is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.text.datasets.squad_json import BadQuestion, Question, check_question
from bertjobs.text.json_lines import json_object
from bertjobs.text.parquet import parquet_errors
from bertjobs.text.source_file import SourceFile


def read_question_lines(source: SourceFile) -> Iterator[Question | BadQuestion]:
    """Yield the questions of a file with a JSON object in each line; blank lines are left out."""
    seen: set[str] = set()
    for number, line in source.lines():
        if line and not line.isspace():
            fields, cause = json_object(line)
            place = f"in line {number}"
            yield BadQuestion(place, cause) if cause is not None else _question(fields, place, seen)


def read_question_table(source: SourceFile) -> Iterator[Question | BadQuestion]:
    """Yield the questions of a Parquet file. Raises: DataError: it is damaged."""
    with source.open() as stream, parquet_errors(source):
        rows = pq.read_table(pa.BufferReader(stream.read())).to_pylist()
    seen: set[str] = set()
    for number, fields in enumerate(rows, start=1):
        yield _question(fields, f"in row {number}", seen)


def _question(fields: Mapping[str, Any], place: str, seen: set[str]) -> Question | BadQuestion:
    given = {"answers": _listed(fields.get("answers"))}
    question = check_question({**fields, **given}, fields.get("context"), place=place)
    if isinstance(question, Question) and question.id in seen:
        return BadQuestion(question.id, "the id occurs twice in the file")
    seen.add(question.id)
    if isinstance(question, Question) and given["answers"] == [] and question.is_impossible is None:
        return question._replace(is_impossible=True)
    return question


def _listed(answers: Any) -> Any:
    """Return answers given as columns, as `datasets` has them, as a list of answers."""
    if not isinstance(answers, Mapping):
        return answers
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return dict(answers)  # which is refused, and shown
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
