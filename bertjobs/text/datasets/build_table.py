"""From the rows that a reader yields to one Arrow table: read labels, refuse or count bad rows."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from bertjobs.config.sections import OnBadRow
from bertjobs.errors import DataError
from bertjobs.text.datasets.examples import WrongRow, example_format
from bertjobs.text.datasets.readers import BadRow, Row
from bertjobs.text.datasets.task import Task
from bertjobs.text.source_file import SourceFile

NO_GOLD_LABEL = "no gold label"
BROKEN_ROW = "broken row"


def build_table(
    rows: Iterable[Row | BadRow],
    *,
    task: Task,
    source: SourceFile,
    unit: str,
    on_bad_row: OnBadRow,
    require_labels: bool,
) -> tuple[pa.Table, dict[str, int]]:
    """Return the table of a split (`read_split.Split`), and how many rows were left out, by reason.

    unit: what row numbers count, `line` or `row`.

    A file in which no row has a label is kept whole, without targets, unless labels are required.

    Raises: DataError: a bad row, a label that the task does not know, no rows, or no labels where they are
        required.
    """
    kept = _Kept(task, source, unit, on_bad_row)
    for row in rows:
        if isinstance(row, BadRow):
            kept.refuse(row.place, row.cause)
        else:
            kept.add(row)
    return kept.finish(require_labels=require_labels)


class _Kept:
    """The rows kept so far, as columns."""

    def __init__(self, task: Task, source: SourceFile, unit: str, on_bad_row: OnBadRow) -> None:
        self._task, self._source, self._unit, self._on_bad_row = task, source, unit, on_bad_row
        self._format = example_format(task)
        self._texts: list[tuple[str, ...]] = []
        self._targets: list[Any] = []
        self._without_gold: list[int] = []
        """Positions of kept rows whose label is the task's `no_label`."""
        self._without_cell: list[tuple[int, int]] = []
        """Positions of kept rows whose label is empty or absent, with their numbers in the file."""
        self._num_broken = 0
        self._first_cause = ""

    def refuse(self, place: int, cause: str) -> None:
        """Raise for a bad row, or count it."""
        message = f"{self._source}, {self._unit} {place}: {cause}"
        if self._on_bad_row == "error":
            raise DataError(message, hint="Correct the row, or skip and count such rows: --on-bad-row skip.")
        self._num_broken += 1
        self._first_cause = self._first_cause or message

    def add(self, row: Row) -> None:
        """Keep a row."""
        position = len(self._targets)
        target = self._format.no_target
        try:
            self._format.check_texts(row)
            if row.label is None:
                self._without_cell.append((position, row.place))
            elif row.label == self._task.no_label:
                self._without_gold.append(position)
            else:
                target = self._format.target(row)
        except WrongRow as e:
            self.refuse(row.place, str(e))
            return
        self._texts.append(row.texts)
        self._targets.append(target)

    def finish(self, *, require_labels: bool) -> tuple[pa.Table, dict[str, int]]:
        """Build the table."""
        if not self._targets:
            raise self._nothing_left()
        num_unlabelled = len(self._without_gold) + len(self._without_cell)
        is_unlabelled = num_unlabelled == len(self._targets)
        if is_unlabelled and require_labels:
            raise DataError(
                f"{self._source}: none of its {num_unlabelled} rows has a label "
                f"(column {self._task.columns.label!r} is empty or absent)",
                hint="This split is for predictions only; give one with labels (--data, --split).",
            )
        dropped: set[int] = set()
        if not is_unlabelled:
            for _, place in self._without_cell:
                self.refuse(place, f"the label (column {self._task.columns.label!r}) is empty")
            dropped = {position for position, _ in self._without_cell} | set(self._without_gold)
        num_without_gold = 0 if is_unlabelled else len(self._without_gold)
        return self._table(dropped), {NO_GOLD_LABEL: num_without_gold, BROKEN_ROW: self._num_broken}

    def _table(self, dropped: set[int]) -> pa.Table:
        table = pa.table(self._format.columns(self._texts, self._targets))
        if dropped:
            table = table.filter(pa.array([i not in dropped for i in range(len(self._targets))]))
        return table.append_column("index", pa.array(range(table.num_rows), pa.int64()))

    def _nothing_left(self) -> DataError:
        if self._num_broken:
            return DataError(
                f"{self._source}: all of its {self._num_broken} rows are broken. The first: "
                f"{self._first_cause}",
                hint="Check that the file is in the task's format (--task, --data).",
            )
        return DataError(f"{self._source} has no rows", hint="Give a file with rows (--data).")
