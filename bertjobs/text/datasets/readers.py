"""Read rows of delimited text: TSV as SNLI, CoLA and GLUE publish it (quotes are literal), and quoted CSV.

Read one JSON object a line, as SNLI publishes it and most others do.

Read rows of columnar files: Parquet, and Arrow's file, stream and Feather formats.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.errors import DataError
from bertjobs.text.datasets.rows import BadRow, Row
from bertjobs.text.datasets.tasks import Columns
from bertjobs.text.source_file import SourceFile

COLA_COLUMNS = ("source", "label", "author_mark", "sentence")
"""CoLA's files as published, and GLUE's `train.tsv` and `dev.tsv` for CoLA, have no header."""


def read_tsv(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a tab-separated file with a header. Raises: DataError: a column is missing."""
    return _read(source, columns, _tab_separated(source))


def read_csv(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a comma-separated file with a header. Raises: DataError: a column is missing."""
    return _read(source, columns, _comma_separated(source))


def read_cola(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a CoLA file: four columns without a header, or GLUE's with one.

    GLUE's `test.tsv` has a header, an index and no labels.
    """
    records = _tab_separated(source)
    for place, cells in records:
        if isinstance(cells, str):
            yield BadRow(place, cells)
        elif place == 1 and columns.text_a in cells:
            yield from _rows(_Picker(cells, columns, source), records)
            return
        else:
            picker = _Picker(COLA_COLUMNS, columns, source)
            yield picker.pick(place, cells)
            yield from _rows(picker, records)
            return


Records = Iterator[tuple[int, Sequence[str] | str]]
"""Line number, and the cells or the reason why there are none."""


def _read(source: SourceFile, columns: Columns, records: Records) -> Iterator[Row | BadRow]:
    place, header = next(records, (1, ()))
    if isinstance(header, str):
        raise DataError(f"{source}, line {place}: {header}.", hint="The first line must name the columns.")
    yield from _rows(_Picker(header, columns, source), records)


def _rows(picker: "_Picker", records: Records) -> Iterator[Row | BadRow]:
    for place, cells in records:
        yield BadRow(place, cells) if isinstance(cells, str) else picker.pick(place, cells)


class _Picker:
    """Picks the task's columns out of a record by their places in the header."""

    def __init__(self, header: Sequence[str], columns: Columns, source: SourceFile) -> None:
        self._width = len(header)
        place_of = {name.strip(): i for i, name in enumerate(header)}
        wanted = [columns.text_a] + ([columns.text_b] if columns.text_b is not None else [])
        for name in wanted:
            if name not in place_of:
                raise DataError(
                    f"{source}: there is no column {name!r}; the file has {', '.join(header)}.",
                    hint="The first line must name the columns that the task reads (--task).",
                )
        self._text_a = place_of[columns.text_a]
        self._text_b = None if columns.text_b is None else place_of[columns.text_b]
        self._label = place_of.get(columns.label)

    def pick(self, place: int, cells: Sequence[str]) -> Row | BadRow:
        if len(cells) != self._width:
            return BadRow(place, f"expected {self._width} columns, but found {len(cells)}")
        label = None if self._label is None else cells[self._label].strip() or None
        text_b = None if self._text_b is None else cells[self._text_b]
        return Row(place, cells[self._text_a], text_b, label)


def _tab_separated(source: SourceFile) -> Records:
    for number, line in source.lines():
        if line:
            yield number, line.split("\t")


def _comma_separated(source: SourceFile) -> Records:
    reader = csv.reader((line + "\n" for _, line in source.lines()), strict=True)
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


def read_json_lines(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows; blank lines are passed over."""
    for number, line in source.lines():
        if line and not line.isspace():
            yield _row(number, line, columns)


def _row(number: int, line: str, columns: Columns) -> Row | BadRow:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as e:
        return BadRow(number, f"broken JSON ({e})")
    if not isinstance(fields, dict):
        return BadRow(number, f"expected a JSON object, but found {line[:40]!r}")
    texts: list[str | None] = [None, None]
    for i, name in enumerate((columns.text_a, columns.text_b)):
        if name is None:
            continue
        if name not in fields:
            return BadRow(number, _no_field(name, fields))
        if not isinstance(fields[name], str):
            return BadRow(number, f"the field {name!r} is not a text but {json.dumps(fields[name])[:40]}")
        texts[i] = fields[name]
    assert texts[0] is not None
    return Row(number, texts[0], texts[1], label_text(fields.get(columns.label)))


def label_text(value: Any) -> str | None:
    """Return a label cell as the text that the task's `label_values` are compared with; None where empty."""
    if value is None or value == "" or value != value:  # NaN, pandas' word for an empty cell
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas turns a column of 0 and 1 with a gap into 0.0 and 1.0
    return value.strip() if isinstance(value, str) else str(value)


def _no_field(name: str, fields: dict[str, Any]) -> str:
    return f"there is no field {name!r}; the row has {', '.join(fields) or 'none'}"


def read_columnar(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows. Raises: DataError: damaged, a column is missing, or a text column holds no texts."""
    table = _read_columnar(source)
    texts = [_text_column(table, columns.text_a, source)]
    if columns.text_b is not None:
        texts.append(_text_column(table, columns.text_b, source))
    has_labels = columns.label in table.column_names
    labels = table[columns.label].to_pylist() if has_labels else [None] * table.num_rows
    for place, (label, *row) in enumerate(zip(labels, *texts, strict=True), start=1):
        if None in row:
            yield BadRow(place, "a text is null")
        else:
            yield Row(place, row[0], row[1] if columns.text_b is not None else None, label_text(label))


def _read_columnar(source: SourceFile) -> pa.Table:
    with source.open() as stream:
        content = pa.py_buffer(stream.read())
    if content.size == 0:
        raise DataError(f"{source} is empty.", hint="Give a file with rows (--data).")
    try:
        if source.suffix == ".parquet":
            return pq.read_table(pa.BufferReader(content))
        if content[:6].to_pybytes() == b"ARROW1":
            return pa.ipc.open_file(content).read_all()
        return pa.ipc.open_stream(content).read_all()
    except (pa.ArrowException, OSError) as e:
        raise DataError(
            f"{source} cannot be read as {source.suffix[1:]}: {str(e).splitlines()[0]}",
            hint="It is damaged, cut short or of another format; give another file (--data).",
        ) from e


def _text_column(table: pa.Table, name: str, source: SourceFile) -> list[str | None]:
    if name not in table.column_names:
        raise DataError(
            f"{source}: there is no column {name!r}; the file has {', '.join(table.column_names)}.",
            hint="The task file (--task) must name the columns as the file does.",
        )
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(
            f"{source}: the column {name!r} holds {column.type}, not texts.",
            hint="Name a column of texts in the task file (--task).",
        )
    values: list[str | None] = column.to_pylist()
    return values
