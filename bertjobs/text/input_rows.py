"""Rows to predict, with all their columns, from CSV, TSV, JSON lines and Parquet, read in spans.

Planning finds where spans begin and end, so that they are read in any process and in any order; memory is
bounded by the span. Columns of CSV and TSV are texts. So are those of JSON lines, where what is not a text is
written as JSON. Parquet keeps its types. Blank lines are left out.

The plain version that the tests compare spans with reads a whole file with `csv` or `json`.
"""

import csv
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.config.predict import RowsSection
from bertjobs.errors import DataError
from bertjobs.text.corpus.files import PREDICTED_SUFFIXES
from bertjobs.text.datasets.examples import ExampleFormat, WrongRow
from bertjobs.text.datasets.readers import Row, csv_records
from bertjobs.text.datasets.task import Task
from bertjobs.text.json_lines import decode_line, field_text, json_object
from bertjobs.text.lines import LINES_PER_SPAN, SPAN_BYTES, LineSpan, plan_text, read_span
from bertjobs.text.parquet import check_text_column, parquet_errors
from bertjobs.text.source_file import SourceFile, data_errors

log = logging.getLogger(__name__)

PLACE_COLUMNS = ("bertjobs.file", "bertjobs.line")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class RowFiles:
    """The files of a prediction, which all have the same columns."""

    spans: tuple[LineSpan, ...]
    num_rows: int
    """Rows in all spans; headers are not counted, blank lines and broken rows are."""
    schema: pa.Schema
    """The columns of a row, in the order of the first file."""


class _Plan(NamedTuple):
    schema: pa.Schema
    spans: list[LineSpan]
    num_rows: int


class _Found(NamedTuple):
    """A row: the line where it ends, and its cells in the order of the columns, or what is wrong with it."""

    number: int
    cells: Sequence[Any]
    cause: str | None = None


def plan_rows(files: Sequence[SourceFile], data: RowsSection) -> RowFiles:
    """Cut files into spans; with `data.limit`, of the first rows of all files together.

    Raises: DataError: a file is missing, empty, damaged, of an unknown format, or has other columns than the
        first; there is no row.
    """
    spans: list[LineSpan] = []
    num_rows = 0
    schema: pa.Schema | None = None
    for file in files:
        left = None if data.limit is None else data.limit - num_rows
        if left is not None and left <= 0:
            break
        plan = _plan(file)
        if schema is not None and plan.schema != schema:
            raise DataError(
                f"{file} has the columns {_listed(plan.schema)}, but {files[0]} has {_listed(schema)}",
                hint="Give files with the same columns, or one file (--data).",
            )
        schema = plan.schema
        found, count = (plan.spans, plan.num_rows) if left is None else _first_rows(plan, left)
        spans += found
        num_rows += count
    if not num_rows:
        raise DataError(f"--data {data.path}: there are no rows in it", hint="Give files with rows in them.")
    assert schema is not None, "there is a file"
    return RowFiles(spans=tuple(spans), num_rows=num_rows, schema=schema)


def read_rows(
    span: LineSpan, schema: pa.Schema, data: RowsSection, *, format: ExampleFormat, file_number: int = 0
) -> Iterator[tuple[pa.Table, list[tuple[str, ...]]]]:
    """Yield the rows of a span in one table, or of Parquet in several, each with the texts of its rows.

    The table has the columns of `schema`, and `PLACE_COLUMNS`: `file_number`, and the line or row of the
    file, from 1. Texts are in the order of `Columns.texts`.

    Raises: DataError: a row is bad, and bad rows are not skipped.
    """
    names = schema.names
    places = [names.index(name) for name in format.task.columns.texts]
    is_parquet = span.path.endswith(".parquet")
    num_skipped = 0
    texts = frozenset(format.task.columns.texts)
    for rows in _parquet_batches(span) if is_parquet else [_rows(span, names, texts)]:
        kept: list[_Found] = []
        for row in rows:
            if (cause := row.cause or _wrong_texts(row, places, format)) is None:
                kept.append(row)
                continue
            message = f"{span.path}, {'row' if is_parquet else 'line'} {row.number}: {cause}"
            if data.on_bad_row == "error":
                raise DataError(message, hint="Correct it, or skip and count such rows: --on-bad-row skip.")
            if not num_skipped:  # one per span is enough for the log
                log.warning("skipped: %s", message)
            num_skipped += 1
        columns = {
            field.name: pa.array([row.cells[i] for row in kept], field.type) for i, field in enumerate(schema)
        }
        columns["bertjobs.file"] = pa.array([file_number] * len(kept), pa.int32())
        columns["bertjobs.line"] = pa.array([row.number for row in kept], pa.int64())
        yield pa.table(columns), [tuple(row.cells[i] or "" for i in places) for row in kept]


def fit_task(task: Task, schema: pa.Schema, source: SourceFile, *, is_pair_known: bool) -> Task:
    """Return the task for rows with these columns: as it is, but for a model that does not know its texts.

    is_pair_known: whether the task says if its rows are pairs; else they are where the file has `text_b`, and
        endings are those that the file has.

    Raises: DataError: a column that the task reads is missing, or holds no texts.
    """
    columns = task.columns
    if not is_pair_known and columns.text_b is not None and columns.text_b not in schema.names:
        columns = replace(columns, text_b=None)
    if not is_pair_known and columns.endings:
        columns = replace(columns, endings=tuple(n for n in schema.names if re.fullmatch(r"ending\d+", n)))
        labels = tuple(str(i) for i in range(len(columns.endings)))
        task = replace(task, labels=labels, label_values=labels)
    for name in columns.texts:
        if name not in schema.names:
            raise DataError(
                f"{source}: there is no column {name!r}; the file has {_listed(schema)}",
                hint=f"{task.name} reads the columns {', '.join(task.columns.texts)}; rename those of the "
                "file, or give a task file that names them (--task).",
            )
        check_text_column(schema, name, source, flag="columns in the task file, --task")
    return replace(task, columns=columns)


def _plan(file: SourceFile) -> _Plan:
    planners = {".csv": _plan_csv, ".tsv": _plan_tsv, ".jsonl": _plan_json_lines, ".parquet": _plan_parquet}
    if file.suffix not in planners:
        raise DataError(
            f"{file}: files ending in {file.suffix or 'nothing'!r} cannot be read",
            hint=f"Give a file ending in one of {', '.join(PREDICTED_SUFFIXES)} (--data).",
        )
    return planners[file.suffix](file)


def _plan_csv(file: SourceFile) -> _Plan:
    """Parse the whole file once: only a parser knows which line ends are inside of a cell."""
    spans: list[LineSpan] = []
    num_rows = first = begin = 0
    header: list[str] = []
    with data_errors(file), file.path.open("rb") as stream:
        lines = _CountedLines(stream)
        reader = csv.reader(lines, strict=True)
        first, num_records = 1, 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as e:
                if not header:
                    raise DataError(f"{file}, line 1: broken CSV ({e})", hint=_NAME_COLUMNS) from e
                cells = [""]
            if cells and not header:
                header = _header(cells, file)
                num_records -= 1
            num_records += bool(cells)
            if num_records >= LINES_PER_SPAN or lines.num_bytes - begin >= SPAN_BYTES:
                spans.append(_span(file, first, lines.number, begin, lines.num_bytes))
                num_rows += num_records
                first, begin, num_records = lines.number + 1, lines.num_bytes, 0
        if lines.num_bytes > begin:
            spans.append(_span(file, first, lines.number, begin, lines.num_bytes))
            num_rows += num_records
    if not header:
        raise DataError(f"{file} is empty", hint="Give a file with rows (--data).")
    return _Plan(_texts_schema(header), spans, num_rows)


_NAME_COLUMNS = "The first line must name the columns that the task reads."


def _plan_tsv(file: SourceFile) -> _Plan:
    _, line = next(file.lines())  # raises where the file is missing, empty or binary
    spans = [span for span in plan_text(file) if span.num_lines]
    schema = _texts_schema(_header(line.split("\t"), file))
    return _Plan(schema, spans, sum(span.num_lines for span in spans) - 1)


def _plan_json_lines(file: SourceFile) -> _Plan:
    """Take the columns from the first span: those that only later rows have are left out."""
    spans = [span for span in plan_text(file) if span.num_lines]
    names: dict[str, None] = {}
    for _, line, cause in read_span(spans[0]) if spans else ():
        fields, cause = ({}, cause) if cause is not None or not line.strip() else json_object(line)
        names |= dict.fromkeys(fields)
    return _Plan(_texts_schema(list(names)), spans, sum(span.num_lines for span in spans))


def _plan_parquet(file: SourceFile) -> _Plan:
    with parquet_errors(file), pq.ParquetFile(file.path) as parquet:
        schema = parquet.schema_arrow.remove_metadata()
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    spans, first = [], 1
    for number, size in enumerate(sizes):
        span = LineSpan(path=str(file.path), first=first, num_lines=size, begin=number, num_bytes=0)
        spans += [span] if size else []
        first += size
    return _Plan(schema, spans, sum(sizes))


def _first_rows(plan: _Plan, limit: int) -> tuple[list[LineSpan], int]:
    """Return the spans of the first rows of a file: whole spans of CSV, TSV and JSON lines, then a part."""
    spans: list[LineSpan] = []
    left = limit + (plan.num_rows != sum(span.num_lines for span in plan.spans))  # a header is a line
    for span in plan.spans:
        if span.num_lines >= left:
            return [*spans, replace(span, num_lines=left)], min(limit, plan.num_rows)
        spans.append(span)
        left -= span.num_lines
    return spans, plan.num_rows


class _CountedLines:
    """The lines of a stream as text, for a parser that asks for as many as a row takes."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = iter(stream)
        self.number = 0
        """Of lines that were read."""
        self.num_bytes = 0

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        raw = next(self._stream)
        self.number += 1
        self.num_bytes += len(raw)
        text, cause = decode_line(raw.removeprefix(_BOM) if self.number == 1 else raw)
        return ("" if cause else text) + "\n"  # whoever reads the span refuses the line


def _rows(span: LineSpan, names: Sequence[str], texts: Collection[str]) -> Iterator[_Found]:
    """Yield the rows of a span of text; blank lines are left out. texts: the columns that hold texts."""
    suffix = Path(span.path).suffix
    lines = read_span(span)
    if suffix == ".csv":
        yield from _csv_rows(span, lines, len(names))
        return
    for number, line, cause in lines:
        if cause is not None:
            yield _Found(number, (), cause)
        elif suffix == ".tsv" and line and number > 1:
            yield _cells(number, line.split("\t"), len(names))
        elif suffix == ".jsonl" and line and not line.isspace():
            fields, cause = json_object(line)
            for name in texts:
                if cause is None and fields.get(name) is not None:
                    _, cause = field_text(fields, name)
            yield _Found(number, [_json_cell(fields.get(name)) for name in names], cause)


def _csv_rows(span: LineSpan, lines: Iterable[tuple[int, str, str | None]], width: int) -> Iterator[_Found]:
    decoded = list(lines)
    for number, _, cause in decoded:
        if cause is not None:
            raise DataError(
                f"{span.path}, line {number}: {cause}", hint="Give a text file saved as UTF-8 (--data)."
            )
    is_header = span.first == 1
    for place, cells in csv_records(line + "\n" for _, line, _ in decoded):
        number = span.first + place - 1
        if isinstance(cells, str):
            yield _Found(number, (), cells)
        elif is_header:
            is_header = False
        else:
            yield _cells(number, cells, width)


def _cells(number: int, cells: Sequence[str], width: int) -> _Found:
    if len(cells) == width:
        return _Found(number, cells)
    return _Found(number, (), f"expected {width} columns, but found {len(cells)}")


def _parquet_batches(span: LineSpan) -> Iterator[list[_Found]]:
    source = SourceFile(Path(span.path))
    number, end = span.first, span.first + span.num_lines
    with parquet_errors(source), pq.ParquetFile(source.path) as parquet:
        for batch in parquet.iter_batches(batch_size=LINES_PER_SPAN, row_groups=[span.begin]):
            columns = [column.to_pylist()[: end - number] for column in batch.columns]
            yield [_Found(number + i, cells) for i, cells in enumerate(zip(*columns, strict=True))]
            number += len(columns[0])
            if number == end:
                return


def _wrong_texts(row: _Found, places: Sequence[int], format: ExampleFormat) -> str | None:
    """Return what is wrong with the texts of a row."""
    texts = [row.cells[i] for i in places]
    for text, name in zip(texts, format.task.columns.texts, strict=True):
        if text is None and name not in format.task.columns.endings:
            return f"there is no text in {name!r}"
    try:
        format.check_texts(Row(row.number, tuple(text or "" for text in texts), None))
    except WrongRow as e:
        return str(e)
    return None


def _json_cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _header(cells: Sequence[str], file: SourceFile) -> list[str]:
    names = [name.strip() for name in cells]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{file}: the column {repeated!r} occurs twice", hint=_NAME_COLUMNS)
    return names


def _texts_schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _listed(schema: pa.Schema) -> str:
    return ", ".join(schema.names) or "none"


def _span(file: SourceFile, first: int, last: int, begin: int, end: int) -> LineSpan:
    return LineSpan(
        path=str(file.path), first=first, num_lines=last - first + 1, begin=begin, num_bytes=end - begin
    )
