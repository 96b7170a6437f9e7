"""Read rows of delimited text: TSV as SNLI, CoLA and GLUE publish it (quotes are literal), and quoted CSV."""

import csv
from collections.abc import Iterator, Sequence

from bertjobs.errors import DataError
from bertjobs.text.rows import BadRow, Row
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tasks import Columns

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
