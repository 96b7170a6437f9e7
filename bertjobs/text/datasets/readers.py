"""Read rows of text files: TSV as SNLI, CoLA and GLUE publish it (quotes are text), CSV, and JSON lines.

A reader yields what it finds, row by row; labels are texts here, and bad rows are only described. Imports
nothing slow: the command line knows tasks, and tasks may have a reader. Parquet and Arrow are read in
`columnar`.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bertjobs.errors import DataError
from bertjobs.text.json_lines import field_text, json_object
from bertjobs.text.source_file import SourceFile


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the texts' and the label's columns: in a header, in JSON objects, or in a table."""

    text_a: str
    text_b: str | None
    label: str
    endings: tuple[str, ...] = ()
    """Of multiple choice: one column per ending."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of a row's texts, in the order of `Row.texts`."""
        return (self.text_a, *(() if self.text_b is None else (self.text_b,)), *self.endings)


class Row(NamedTuple):
    """One row that could be read."""

    place: int
    """Line of a text file, or row of a columnar one, from 1."""
    texts: tuple[str, ...]
    """One for each of `Columns.texts`."""
    label: Any
    """Text as in the file, which the task's type reads; None where the file has no label column or the cell
    is empty."""


class BadRow(NamedTuple):
    """One row that could not be read, and why."""

    place: int
    cause: str


Reader = Callable[[SourceFile, Columns], Iterator[Row | BadRow]]


def read_tsv(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a tab-separated file with a header. Raises: DataError: a column is missing."""
    return _with_header(source, columns, tab_separated(source))


def read_csv(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a comma-separated file with a header. Raises: DataError: a column is missing."""
    return _with_header(source, columns, csv_records(line + "\n" for _, line in source.lines()))


def read_json_lines(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a file with a JSON object in each line; blank lines are left out."""
    for number, line in source.lines():
        if line and not line.isspace():
            yield _row(number, line, columns)


Records = Iterator[tuple[int, Sequence[str] | str]]
"""Line number, and the cells or what is wrong with the line."""


def _with_header(source: SourceFile, columns: Columns, records: Records) -> Iterator[Row | BadRow]:
    place, header = next(records, (1, ()))
    if isinstance(header, str):
        raise DataError(f"{source}, line {place}: {header}", hint="The first line must name the columns.")
    yield from rows_of(records, ColumnPicker(header, columns, source))


def rows_of(records: Records, picker: "ColumnPicker") -> Iterator[Row | BadRow]:
    """Yield the task's columns of each record."""
    for place, cells in records:
        yield BadRow(place, cells) if isinstance(cells, str) else picker.pick(place, cells)


class ColumnPicker:
    """Picks the task's columns out of a record by their places in the header."""

    def __init__(self, header: Sequence[str], columns: Columns, source: SourceFile) -> None:
        self._width = len(header)
        place_of = {name.strip(): i for i, name in enumerate(header)}
        for name in columns.texts:
            if name not in place_of:
                raise DataError(
                    f"{source}: there is no column {name!r}; the file has {', '.join(header)}",
                    hint="The first line must name the columns that the task reads (--task).",
                )
        self._texts = [place_of[name] for name in columns.texts]
        self._label = place_of.get(columns.label)

    def pick(self, place: int, cells: Sequence[str]) -> Row | BadRow:
        """Return one row; a record with too many or too few cells is bad."""
        if len(cells) != self._width:
            return BadRow(place, f"expected {self._width} columns, but found {len(cells)}")
        label = None if self._label is None else cells[self._label].strip() or None
        return Row(place, tuple(cells[i] for i in self._texts), label)


def tab_separated(source: SourceFile) -> Records:
    """Yield the cells of each line; quotes are text. Blank lines are left out."""
    for number, line in source.lines():
        if line:
            yield number, line.split("\t")


def csv_records(lines: Iterable[str]) -> Records:
    """Parse lines with their ends as CSV. A record is numbered by its last line; blank ones are left out."""
    reader = csv.reader(lines, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            yield reader.line_num, f"broken CSV ({e})"
            continue
        if cells:
            yield reader.line_num, cells


def _row(number: int, line: str, columns: Columns) -> Row | BadRow:
    fields, cause = json_object(line)
    texts: list[str] = []
    for name in columns.texts if cause is None else ():
        if name not in fields:
            cause = f"there is no field {name!r}; the row has {', '.join(fields) or 'none'}"
        else:
            text, cause = field_text(fields, name)
            texts.append(text)
        if cause is not None:
            break
    if cause is not None:
        return BadRow(number, cause)
    return Row(number, tuple(texts), label_text(fields.get(columns.label)))


def label_text(value: Any) -> str | tuple[str, ...] | None:
    """Return a label as text, as the task's `label_values` are written; None where the cell is empty.

    A list becomes a tuple of texts.
    """
    if isinstance(value, list):
        return tuple(str(label_text(item) or "") for item in value)
    if value is None or value == "" or value != value:  # NaN is pandas' empty cell
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas turns a column of 0 and 1 with a gap into 0.0 and 1.0
    return value.strip() if isinstance(value, str) else str(value)
