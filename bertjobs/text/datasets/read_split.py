"""Read a split of a task into one Arrow table, from any format; hold out a share of its rows."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bertjobs.config.sections import OnBadRow
from bertjobs.errors import DataError
from bertjobs.text.datasets.build_table import build_table
from bertjobs.text.datasets.columnar import read_columnar
from bertjobs.text.datasets.question_rows import read_question_lines, read_question_table
from bertjobs.text.datasets.readers import Reader, read_csv, read_json_lines, read_tsv
from bertjobs.text.datasets.splits import find_split
from bertjobs.text.datasets.squad_json import BadQuestion, Question, read_squad
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import files_of
from bertjobs.text.source_file import SourceFile
from bertjobs.text.spans.question_table import build_question_table


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of one split."""

    table: pa.Table
    """Those of the task's `ExampleFormat` (`text_a`, `text_b`, `label`, ...), and `index`: int64, the row's
    number among the kept rows from 0."""
    task: Task
    num_dropped: dict[str, int]
    """How many rows were left out, by reason: `no gold label`, `broken row`."""
    files: tuple[Path, ...]
    """The files that were read, for the cache key; an archive counts as a whole."""


def read_split(
    task: Task, path: str | None, *, split: str, on_bad_row: OnBadRow, cache: Path, require_labels: bool
) -> Split:
    """Read one split.

    `path` is a folder, a zip or one file; None is what `data get` downloaded into `cache`. `split` is a name
    (`train`, `dev`, `test`; CoLA: also `in_domain_dev`, `out_of_domain_dev`) or the path of one file.
    Rows without a label are dropped and counted; where no row has one they are all kept with label -1,
    unless `require_labels`.

    Raises: DataError: a missing, empty, binary or damaged file, a missing column, a bad row, no labels.
    """
    source = find_split(task, path, split=split, cache=cache)
    read = _read_questions if task.type == "span" else _read_rows
    try:
        table, num_dropped = read(task, source, on_bad_row=on_bad_row, require_labels=require_labels)
    except DataError:
        source.check_archive()  # a broken row may come from a damaged archive: that is the real cause
        raise
    return Split(table=table, task=task, num_dropped=num_dropped, files=(source.path,))


def holdout(num_rows: int, *, ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers into (train, valid), as scikit-learn's `train_test_split(random_state=seed)` does.

    The held-out rows are ceil(ratio * num_rows), in the order of the permutation.

    Raises: DataError: one of the two would be empty.
    Source: scikit-learn 1.x, `model_selection._split.ShuffleSplit`.
    """
    num_valid = math.ceil(ratio * num_rows)
    if not 0 < num_valid < num_rows:
        raise DataError(
            f"Holding out {ratio:g} of {num_rows} rows leaves {num_rows - num_valid} to train on and "
            f"{num_valid} to validate on",
            hint="Change data.valid_ratio (--valid-ratio), or give more rows (--data).",
        )
    permutation = np.random.RandomState(seed).permutation(num_rows)
    return permutation[num_valid:], permutation[:num_valid]


_READERS: dict[str, tuple[Reader, str]] = {
    ".jsonl": (read_json_lines, "line"),
    ".json": (read_json_lines, "line"),
    ".csv": (read_csv, "line"),
    ".tsv": (read_tsv, "line"),
    ".txt": (read_tsv, "line"),
    ".parquet": (read_columnar, "row"),
    ".arrow": (read_columnar, "row"),
    ".feather": (read_columnar, "row"),
}
"""By ending: the reader, and what its row numbers count."""


def _read_rows(
    task: Task, source: SourceFile, *, on_bad_row: OnBadRow, require_labels: bool
) -> tuple[pa.Table, dict[str, int]]:
    reader, unit = _reader(task, source)
    return build_table(
        reader(source, task.columns),
        task=task,
        source=source,
        unit=unit,
        on_bad_row=on_bad_row,
        require_labels=require_labels,
    )


def _read_questions(
    task: Task, source: SourceFile, *, on_bad_row: OnBadRow, require_labels: bool
) -> tuple[pa.Table, dict[str, int]]:
    if source.suffix not in _QUESTION_READERS:
        raise DataError(
            f"{source}: files ending in {source.suffix or 'nothing'!r} cannot be read as questions",
            hint=f"Give a file ending in one of {', '.join(_QUESTION_READERS)} (--data, --split).",
        )
    return build_question_table(
        _QUESTION_READERS[source.suffix](source),
        source=source,
        unanswerable=task.unanswerable,
        on_bad_row=on_bad_row,
        require_labels=require_labels,
    )


_QUESTION_READERS: dict[str, Callable[[SourceFile], Iterator[Question | BadQuestion]]] = {
    ".json": read_squad,
    ".jsonl": read_question_lines,
    ".parquet": read_question_table,
}


def _reader(task: Task, source: SourceFile) -> tuple[Reader, str]:
    own_reader = files_of(task).read_text
    if own_reader is not None and source.suffix in (".tsv", ".txt"):
        return own_reader, "line"
    if source.suffix not in _READERS:
        raise DataError(
            f"{source}: files ending in {source.suffix or 'nothing'!r} cannot be read",
            hint=f"Give a file ending in one of {', '.join(_READERS)} (--data, --split).",
        )
    return _READERS[source.suffix]
