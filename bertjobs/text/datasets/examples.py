"""What an example of each type of task has: its label, its columns in the table of a split, and how those are
encoded.

One class per type, chosen by `example_format`; what a model does with the examples is in `training.tasks`.
A new type is a class here (or in a module of its own that is listed here) and a `TaskType` there.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertjobs.text.datasets.readers import Row
from bertjobs.text.datasets.task import LABEL_SEPARATOR, Task, TypeName
from bertjobs.text.encoding import encode_table
from bertjobs.text.spans.question_table import SCHEMA
from bertjobs.text.spans.windows import encode_questions
from bertjobs.text.tokenizer import Tokenizer


class WrongRow(ValueError):
    """A label or text that the task does not allow; the message completes "FILE, line N: ..."."""


class ExampleFormat:
    """The examples of classification, and the base of the other types."""

    target_type: ClassVar[pa.DataType] = pa.int32()
    """Of the column `label`."""
    no_target: ClassVar[Any] = -1
    """What stands in `label` where a row has no label."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._number_of = {value: number for number, value in enumerate(task.label_values)}

    def target(self, row: Row) -> Any:
        """Return the value of a row's label in the column `label`. Raises: WrongRow."""
        if row.label not in self._number_of:
            known = ", ".join(self.task.label_values)
            raise WrongRow(f"the label {str(row.label)[:80]!r} is not one of {known}")
        return self._number_of[row.label]

    def check_texts(self, row: Row) -> None:
        """Raises: WrongRow: a row's texts cannot be used; without this they all can."""

    def columns(self, texts: Sequence[tuple[str, ...]], targets: Sequence[Any]) -> dict[str, pa.Array]:
        """Return the columns of a split, from the texts of each row (`Columns.texts`) and its target."""
        names = ["text_a", "text_b"] if self.task.columns.text_b is not None else ["text_a"]
        columns = {name: pa.array([row[i] for row in texts], pa.string()) for i, name in enumerate(names)}
        return columns | {"label": pa.array(targets, self.target_type)}

    def unlabelled(self, texts: Sequence[tuple[str, ...]]) -> pa.Table:
        """Return rows that have no label as the table of a split."""
        columns = self.columns(texts, [self.no_target] * len(texts))
        return pa.table(columns | {"index": pa.array(range(len(texts)), pa.int64())})

    def encode(self, table: pa.Table, tokenizer: Tokenizer) -> pa.Table:
        """Encode rows of a split into the columns that `EncodedTable` views; `index` names their rows."""
        return encode_table(table, tokenizer)

    def texts(self, table: pa.Table) -> pa.ChunkedArray:
        """Return all texts of a split, for a vocabulary."""
        columns = [table[name] for name in ("text_a", "text_b") if name in table.column_names]
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks])

    def sequences(self, table: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
        """Return the first and the second text (None: there is none) of each sequence of a split."""
        return table["text_a"], table["text_b"] if "text_b" in table.column_names else None

    def num_unlabelled(self, table: pa.Table) -> int:
        """Return how many rows of a split have no label."""
        return int((table["label"].to_numpy() < 0).sum())

    def label_counts(self, table: pa.Table) -> dict[str, int]:
        """Count the labelled rows of a split by label, for `data inspect`."""
        labels = table["label"].to_numpy()
        return {name: int((labels == number).sum()) for number, name in enumerate(self.task.labels)}


class LabelSetFormat(ExampleFormat):
    """Several labels per text, or none: bit i of `label` says whether label i applies."""

    target_type = pa.int64()

    def target(self, row: Row) -> int:
        """Return the labels as bits. Raises: WrongRow: one is not known."""
        labels = row.label
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(LABEL_SEPARATOR) if label.strip()]
        for label in labels:
            if label not in self._number_of:
                known = ", ".join(self.task.label_values)
                raise WrongRow(f"the label {label[:80]!r} is not one of {known}")
        return sum(1 << number for number in {self._number_of[label] for label in labels})

    def label_counts(self, table: pa.Table) -> dict[str, int]:
        """Count the rows to which each label applies."""
        sets = label_sets(table["label"].to_numpy(), self.task.labels)
        return {name: sum(name in labels for labels in sets if labels) for name in self.task.labels}


def label_sets(bits_R: np.ndarray, labels: Sequence[str]) -> list[list[str] | None]:
    """Return the labels of each row; None where it is not labelled."""
    return [
        None if bits < 0 else [label for i, label in enumerate(labels) if bits >> i & 1]
        for bits in bits_R.tolist()
    ]


class RegressionFormat(ExampleFormat):
    """A score in place of a label."""

    target_type = pa.float32()
    no_target = math.nan

    def target(self, row: Row) -> float:
        """Return the score. Raises: WrongRow: it is not a number, or outside of the task's range."""
        try:
            score = float(row.label)
        except (ValueError, TypeError):
            raise WrongRow(f"the score {row.label[:80]!r} is not a number") from None
        low, high = self.task.score_range or (-math.inf, math.inf)
        if not (math.isfinite(score) and low <= score <= high):
            raise WrongRow(f"the score {row.label} is outside of {low:g} to {high:g}")
        return score

    def num_unlabelled(self, table: pa.Table) -> int:
        """Return how many rows of a split have no score."""
        return int(np.isnan(table["label"].to_numpy()).sum())

    def label_counts(self, table: pa.Table) -> dict[str, int]:
        """Count the scores in five intervals of equal width; the last includes its upper end."""
        scores = table["label"].to_numpy()
        scores = scores[~np.isnan(scores)]
        if not len(scores):
            return {}
        low, high = self.task.score_range or (float(scores.min()), float(scores.max()))
        counts, edges = np.histogram(scores, bins=5, range=(low, high))
        names = [f"{start:g} to {end:g}" for start, end in pairwise(edges)]
        return dict(zip(names, counts.tolist(), strict=True))


class ChoiceFormat(ExampleFormat):
    """A beginning and several endings; the label is the number of the right one.

    Each ending makes one sequence: [CLS] text_a [SEP] text_b ending [SEP], where `text_b` (SWAG's `sent2`) is
    the beginning of the sentence that the endings complete, and may be absent.
    """

    def check_texts(self, row: Row) -> None:
        """Raises: WrongRow: an ending is missing."""
        num_endings = len(self.task.columns.endings)
        for name, ending in zip(self.task.columns.endings, row.texts[-num_endings:], strict=True):
            if not ending.strip():
                raise WrongRow(f"the column {name!r} is empty")

    def columns(self, texts: Sequence[tuple[str, ...]], targets: Sequence[Any]) -> dict[str, pa.Array]:
        """Return the columns `text_a`, `endings` (a list of texts per row), and `label`."""
        endings = []
        for row in texts:
            if self.task.columns.text_b is None:
                endings.append(list(row[1:]))
            else:
                endings.append([f"{row[1]} {ending}" for ending in row[2:]])
        return {
            "text_a": pa.array([row[0] for row in texts], pa.string()),
            "endings": pa.array(endings, pa.list_(pa.string())),
            "label": pa.array(targets, self.target_type),
        }

    def encode(self, table: pa.Table, tokenizer: Tokenizer) -> pa.Table:
        """Encode as pairs, the endings of a row as one list of lists `b`."""
        endings = table["endings"].combine_chunks()
        firsts = encode_table(table.select(["text_a", "label", "index"]), tokenizer)
        flat = pa.table({"text_a": endings.flatten()})
        no_labels = pa.array(np.full(len(flat), -1), pa.int32())
        flat = flat.append_column("label", no_labels).append_column("index", no_labels.cast(pa.int64()))
        seconds = encode_table(flat, tokenizer)["a"].combine_chunks()
        offsets = pc.subtract(endings.offsets, endings.offsets[0])
        return firsts.append_column("b", pa.ListArray.from_arrays(offsets, seconds))

    def texts(self, table: pa.Table) -> pa.ChunkedArray:
        """Return all texts of a split, for a vocabulary."""
        return pa.chunked_array([*table["text_a"].chunks, table["endings"].combine_chunks().flatten()])

    def sequences(self, table: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """Return the first and the second text of each sequence of a split."""
        endings = table["endings"].combine_chunks()
        firsts = table["text_a"].combine_chunks().take(pc.list_parent_indices(endings))
        return pa.chunked_array([firsts]), pa.chunked_array([endings.flatten()])


class SpanFormat(ExampleFormat):
    """A question, a context, and the answers: pieces of the context. Read from files in SQuAD's format."""

    def check_texts(self, row: Row) -> None:
        """Raises: WrongRow: there is no question, or no context."""
        for name, text in zip(self.task.columns.texts, row.texts, strict=True):
            if not text.strip():
                raise WrongRow(f"the column {name!r} is empty")

    def columns(self, texts: Sequence[tuple[str, ...]], targets: Sequence[Any]) -> dict[str, pa.Array]:
        """Return the columns of questions whose answers are not known."""
        num_rows = len(texts)
        columns = {
            "id": [str(i) for i in range(num_rows)],
            "text_a": [row[0] for row in texts],
            "text_b": [row[1] for row in texts],
            "answers": [[] for _ in texts],
            "answer_starts": [[] for _ in texts],
            "label": targets,
        }
        return {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}

    def encode(self, table: pa.Table, tokenizer: Tokenizer) -> pa.Table:
        """Encode whole contexts, with the characters of each token."""
        return encode_questions(table, tokenizer)

    def label_counts(self, table: pa.Table) -> dict[str, int]:
        """Count the questions with and without an answer."""
        labels = table["label"].to_numpy()
        counts = {"answer": int((labels == 1).sum())}
        return counts | ({"no answer": int((labels == 0).sum())} if self.task.unanswerable else {})


_FORMATS: dict[TypeName, type[ExampleFormat]] = {
    "classification": ExampleFormat,
    "multi_label": LabelSetFormat,
    "regression": RegressionFormat,
    "multiple_choice": ChoiceFormat,
    "span": SpanFormat,
}


def example_format(task: Task) -> ExampleFormat:
    """Return the format of a task's examples."""
    return _FORMATS[task.type](task)
