"""From the questions that a reader yields to one Arrow table: refuse or count bad ones.

What `build_table` is for tasks with labels, this is for answers that are spans of a context.
"""

from collections.abc import Iterable

import pyarrow as pa

from bertjobs.config.sections import OnBadRow
from bertjobs.errors import DataError
from bertjobs.text.datasets.squad_json import BadQuestion, Question
from bertjobs.text.source_file import SourceFile

BROKEN_QUESTION = "broken row"

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text_a": pa.string(),  # the question
        "text_b": pa.string(),  # the context
        "answers": pa.list_(pa.string()),  # none: the context does not answer it, or nobody says
        "answer_starts": pa.list_(pa.int32()),  # in characters of the context
        "label": pa.int32(),  # 1: it has an answer, 0: it has none, -1: not known
        "index": pa.int64(),
    }
)


def build_question_table(
    questions: Iterable[Question | BadQuestion],
    *,
    source: SourceFile,
    unanswerable: bool,
    on_bad_row: OnBadRow,
    require_labels: bool,
) -> tuple[pa.Table, dict[str, int]]:
    """Return the questions as a table of `SCHEMA`, and how many were left out, by reason.

    unanswerable: whether a question may have no answer (SQuAD v2.0).

    A file in which no question has an answer or is marked impossible is kept whole, with label -1, unless
    answers are required.

    Raises: DataError: a bad question, no questions, or no answers where they are required.
    """
    kept: list[Question] = []
    causes: list[str] = []

    def refuse(id: str, cause: str) -> None:
        message = f"{source}, question {id}: {cause}"
        if on_bad_row == "error":
            raise DataError(
                message, hint="Correct the question, or skip and count such ones: --on-bad-row skip."
            )
        causes.append(message)

    for question in questions:
        if isinstance(question, BadQuestion):
            refuse(*question)
        elif question.is_impossible and not unanswerable:
            refuse(question.id, "it is_impossible, which the task does not have; SQuAD v2.0 is squad_v2")
        else:
            kept.append(question)
    is_unanswered = not any(q.answers or q.is_impossible for q in kept)
    if kept and is_unanswered and require_labels:
        raise DataError(
            f"{source}: none of its {len(kept)} questions has an answer",
            hint="This split is for predictions only; give one with answers (--data, --split).",
        )
    if not is_unanswered:
        for question in kept:
            if not question.answers and not question.is_impossible:
                refuse(question.id, "there is no answer, and it is not marked is_impossible")
        kept = [q for q in kept if q.answers or q.is_impossible]
    if not kept and causes:
        raise DataError(
            f"{source}: all of its {len(causes)} questions are broken. The first: {causes[0]}",
            hint="Check that the file is in the task's format (--task, --data).",
        )
    if not kept:
        raise DataError(f"{source} has no questions", hint="Give a file with questions (--data).")
    return _table(kept), {BROKEN_QUESTION: len(causes)}


def _table(questions: list[Question]) -> pa.Table:
    labels = [1 if q.answers else 0 if q.is_impossible else -1 for q in questions]
    columns = {
        "id": [q.id for q in questions],
        "text_a": [q.question for q in questions],
        "text_b": [q.context for q in questions],
        "answers": [[answer.text for answer in q.answers] for q in questions],
        "answer_starts": [[answer.start for answer in q.answers] for q in questions],
        "label": labels,
        "index": range(len(questions)),
    }
    return pa.table({name: pa.array(columns[name], type=SCHEMA.field(name).type) for name in columns})
