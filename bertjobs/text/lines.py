"""Single texts, a line or a row each, from text, JSONL and Parquet files, read in spans of lines.

Planning looks for line ends only, so that every span knows the number of its first line. Spans are read in
any process and in any order; memory is bounded by the span. Blank lines are left out.

The plain version that the tests compare spans with is `read().split("\\n")`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.config.encode import LinesSection
from bertjobs.errors import DataError
from bertjobs.text.json_lines import decode_line, json_text
from bertjobs.text.parquet import check_text_column, parquet_errors
from bertjobs.text.source_file import SourceFile, data_errors

log = logging.getLogger(__name__)

LINES_PER_SPAN = 1024
"""Most lines of a span. Progress is reported per span, and rows are sorted by length inside it."""
SPAN_BYTES = 256 << 10
"""A span with long lines ends at the first line end after this many bytes."""
_LINE_FEED = 10
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class LineSpan:
    """Lines that follow one another in a file, or a row group of a Parquet file."""

    path: str
    first: int
    """Number of the first line, from 1."""
    num_lines: int
    begin: int
    """Offset of its first byte; in Parquet the row group's number."""
    num_bytes: int
    """0 in Parquet."""


class Line(NamedTuple):
    """A line of a file, or row of Parquet: its text, or what is wrong with it."""

    number: int
    text: str
    cause: str | None = None

    @property
    def is_blank(self) -> bool:
        return not self.text or self.text.isspace()


def plan_lines(files: Sequence[SourceFile], data: LinesSection) -> list[LineSpan]:
    """Cut files into spans; with `data.limit`, of the first lines of all files together.

    Raises: DataError: a file is missing, empty, not text, damaged, or lacks the column.
    """
    spans: list[LineSpan] = []
    left = data.limit
    for file in files:
        plan = _plan_parquet(file, data.column) if file.suffix == ".parquet" else plan_text(file)
        for span in plan:
            if left is not None and span.num_lines >= left:
                return [*spans, replace(span, num_lines=left)]
            spans.append(span)
            left = None if left is None else left - span.num_lines
    if not any(span.num_lines for span in spans):
        raise DataError(f"--data {data.path}: there are no rows in it", hint="Give files with text in them.")
    return [span for span in spans if span.num_lines]


def read_lines(
    span: LineSpan, data: LinesSection, *, check: Callable[[str], object] = str
) -> Iterator[pa.Table]:
    """Yield the span's texts in tables of `line` (int64) and `text`: one, or in Parquet several.

    check: raises DataError for a text that the caller cannot use; such lines are bad, too.

    Raises: DataError: there is a bad line, and bad lines are not skipped.
    """
    is_parquet = span.path.endswith(".parquet")
    num_skipped = 0
    for lines in _parquet_batches(span, data.column) if is_parquet else [_text_lines(span, data.column)]:
        kept: list[Line] = []
        for found in lines:
            line = _checked(found, check)
            if line.cause is None:
                kept.append(line)
                continue
            message = f"{span.path}, {'row' if is_parquet else 'line'} {line.number}: {line.cause}"
            if data.on_bad_row == "error":
                raise DataError(message, hint="Correct it, or skip and count such lines: --on-bad-row skip.")
            if not num_skipped:  # one per span is enough for the log
                log.warning("skipped: %s", message)
            num_skipped += 1
        kept = [line for line in kept if not line.is_blank]
        numbers = pa.array([line.number for line in kept], pa.int64())
        yield pa.table({"line": numbers, "text": pa.array([line.text for line in kept], pa.string())})


def plan_text(file: SourceFile) -> Iterator[LineSpan]:
    """Yield spans of LINES_PER_SPAN lines, or of about SPAN_BYTES where that is less."""
    next(file.lines())  # raises where the file is missing, empty or binary
    cutter = _SpanCutter(str(file.path))
    with data_errors(file), file.path.open("rb") as stream:
        while chunk := stream.read(SPAN_BYTES):
            yield from cutter.add(chunk)
        yield from cutter.finish()


class _SpanCutter:
    """Finds where spans end, in a file that is read chunk by chunk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._first = 1
        self._begin = 0
        self._num_lines = 0
        """Complete lines since `_begin`."""
        self._offset = 0
        """Bytes read."""
        self._is_inside_line = False

    def add(self, chunk: bytes) -> Iterator[LineSpan]:
        """Read the next bytes; yield the spans that end in them."""
        # Offsets in the file just after each line end of the chunk; the first `taken` of them are used up.
        ends = self._offset + 1 + np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == _LINE_FEED)
        taken = 0
        while self._num_lines + len(ends) - taken >= LINES_PER_SPAN:
            taken += LINES_PER_SPAN - self._num_lines
            yield self._close(int(ends[taken - 1]), LINES_PER_SPAN)
        self._num_lines += len(ends) - taken
        if len(ends) > taken and int(ends[-1]) - self._begin >= SPAN_BYTES:
            yield self._close(int(ends[-1]), self._num_lines)
        self._offset += len(chunk)
        self._is_inside_line = not chunk.endswith(b"\n")

    def finish(self) -> Iterator[LineSpan]:
        """Yield what is left at the end of the file, whose last line may have no end."""
        if self._offset > self._begin:
            yield self._close(self._offset, self._num_lines + self._is_inside_line)

    def _close(self, end: int, num_lines: int) -> LineSpan:
        span = LineSpan(
            path=self._path,
            first=self._first,
            num_lines=num_lines,
            begin=self._begin,
            num_bytes=end - self._begin,
        )
        self._begin, self._first, self._num_lines = end, self._first + num_lines, 0
        return span


def read_span(span: LineSpan) -> Iterator[tuple[int, str, str | None]]:
    """Yield number, text, and what is wrong with it (None: nothing), of each line of a span of text.

    Raises: DataError: the file cannot be read, or is shorter than when it was planned.
    """
    source = SourceFile(Path(span.path))
    with data_errors(source), source.path.open("rb") as stream:
        stream.seek(span.begin)
        content = stream.read(span.num_bytes)
    if len(content) < span.num_bytes:
        raise DataError(
            f"{source} was changed while the job read it", hint="Do not change it while the job runs."
        )
    for number, raw in enumerate(content.split(b"\n")[: span.num_lines], start=span.first):
        yield number, *decode_line(raw.removeprefix(_BOM) if number == 1 else raw)


def _text_lines(span: LineSpan, column: str) -> Iterator[Line]:
    is_json = SourceFile(Path(span.path)).suffix == ".jsonl"
    for number, text, cause in read_span(span):
        line = Line(number, text, cause)
        if line.cause is None and not line.is_blank and is_json:
            line = Line(number, *json_text(text, column))
        yield line


def _checked(line: Line, check: Callable[[str], object]) -> Line:
    if not line.is_blank:
        try:
            check(line.text)
        except DataError as e:
            return Line(line.number, "", e.message.rstrip("."))
    return line


def _plan_parquet(file: SourceFile, column: str) -> Iterator[LineSpan]:
    with parquet_errors(file), pq.ParquetFile(file.path) as parquet:
        schema = parquet.schema_arrow
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    check_text_column(schema, column, file)
    first = 1
    for number, num_rows in enumerate(sizes):
        yield LineSpan(path=str(file.path), first=first, num_lines=num_rows, begin=number, num_bytes=0)
        first += num_rows


def _parquet_batches(span: LineSpan, column: str) -> Iterator[Iterable[Line]]:
    source = SourceFile(Path(span.path))
    number, end = span.first, span.first + span.num_lines
    with parquet_errors(source), pq.ParquetFile(source.path) as parquet:
        wanted = {"row_groups": [span.begin], "columns": [column]}
        for batch in parquet.iter_batches(batch_size=LINES_PER_SPAN, **wanted):
            texts = batch.column(0).cast(pa.string()).to_pylist()[: end - number]
            yield [
                Line(number + i, "", "the text is null") if text is None else Line(number + i, text)
                for i, text in enumerate(texts)
            ]
            number += len(texts)
            if number == end:
                return
