"""Read the JSON files of SQuAD v1.1 and v2.0: questions about a context, answered by spans of it.

A file is {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers", "is_impossible"}]}]}]}.
Every question is checked: an answer has to be at its offset, and an id may occur only once.

Source: Rajpurkar et al. 2016 (SQuAD v1.1) and Rajpurkar et al. 2018 (v2.0), whose files these are.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bertjobs.errors import DataError
from bertjobs.text.source_file import SourceFile, binary_kind


class Answer(NamedTuple):
    """An answer as the file gives it."""

    text: str
    start: int
    """Offset of its first character in the context, in characters (code points)."""


class Question(NamedTuple):
    """A question that could be read."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    is_impossible: bool | None
    """Whether the context does not answer it; None where the file does not say (v1.1)."""


class BadQuestion(NamedTuple):
    """A question that could not be read, and why."""

    id: str
    """Its id, or its place in the file where it has none."""
    cause: str


def read_squad(source: SourceFile) -> Iterator[Question | BadQuestion]:
    """Yield the questions of a file in SQuAD's format, in its order.

    Raises: DataError: missing, not UTF-8, not JSON, or not in SQuAD's format.
    """
    seen: set[str] = set()
    for i, article in enumerate(_articles(source)):
        for j, paragraph in enumerate(_list_in(article, "paragraphs", f"data[{i}]", source)):
            place = f"data[{i}].paragraphs[{j}]"
            for k, qa in enumerate(_list_in(paragraph, "qas", place, source)):
                question = check_question(qa, paragraph.get("context"), place=f"{place}.qas[{k}]")
                if isinstance(question, Question) and question.id in seen:
                    question = BadQuestion(question.id, "the id occurs twice in the file")
                seen.add(question.id)
                yield question


def check_question(qa: Any, context: Any, *, place: str) -> Question | BadQuestion:
    """Return a question with what belongs to it, checked. place: where it is, for one without an id."""
    if not isinstance(qa, Mapping):
        return BadQuestion(place, f"expected a question, but found {_shown(qa)}")
    given_id = qa.get("id")
    if not isinstance(given_id, str) or not given_id:
        return BadQuestion(place, f"the id is not a text but {_shown(given_id)}")
    for name, text in (("question", qa.get("question")), ("context", context)):
        if text is None or text == "":
            return BadQuestion(given_id, f"there is no {name}")
        if not isinstance(text, str):
            return BadQuestion(given_id, f"the {name} is not a text but {_shown(text)}")
    is_impossible = qa.get("is_impossible")
    if not isinstance(is_impossible, bool | None):
        return BadQuestion(given_id, f"is_impossible is not true or false but {_shown(is_impossible)}")
    answers = _answers(qa.get("answers"), context)
    if isinstance(answers, str):
        return BadQuestion(given_id, answers)
    if is_impossible and answers:
        return BadQuestion(given_id, f"it is_impossible, but has the answer {answers[0].text[:40]!r}")
    return Question(given_id, qa["question"], context, answers, is_impossible)


def _answers(given: Any, context: str) -> tuple[Answer, ...] | str:
    """Return the answers, or what is wrong with them."""
    if given is None:
        return ()
    if not isinstance(given, list):
        return f"answers is not a list but {_shown(given)}"
    answers = []
    for item in given:
        text = item.get("text") if isinstance(item, Mapping) else None
        start = item.get("answer_start") if isinstance(item, Mapping) else None
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            return f"an answer needs a text and a whole number answer_start, but is {_shown(item)}"
        if not text:
            return "an answer is empty; a question without an answer has none and is_impossible true"
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            return f"the answer {text[:40]!r} is not at its offset {start}, where {found[:40]!r} is"
        answers.append(Answer(text, start))
    return tuple(answers)


def _articles(source: SourceFile) -> list[Any]:
    with source.open() as stream:
        raw = stream.read()
    if kind := binary_kind(raw[:16]):
        raise DataError(f"{source} is not text but {kind}", hint="Give a file in SQuAD's format (--data).")
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise DataError(
            f"{source}: byte {raw[e.start]:#04x} at offset {e.start} is not UTF-8",
            hint="Give a file saved as UTF-8 (--data).",
        ) from e
    except (ValueError, RecursionError) as e:
        raise DataError(
            f"{source}: broken JSON ({e})", hint="The file may be cut short; fetch it again, or give another."
        ) from e
    if not isinstance(content, Mapping):
        raise _not_squad(source, f"expected a JSON object, but found {_shown(content)}")
    return _list_in(content, "data", "the file", source)


def _list_in(value: Any, key: str, place: str, source: SourceFile) -> list[Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise _not_squad(source, f"{place} has no list {key!r}")
    return found


def _not_squad(source: SourceFile, cause: str) -> DataError:
    return DataError(
        f"{source} is not in SQuAD's format: {cause}",
        hint='It looks like {"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., '
        '"question": ..., "answers": [{"text": ..., "answer_start": 0}]}]}]}]}.',
    )


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]
