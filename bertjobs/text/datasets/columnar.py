"""Read rows of columnar files: Parquet, and Arrow's file, stream and Feather formats."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.errors import DataError
from bertjobs.text.datasets.readers import BadRow, Columns, Row, label_text
from bertjobs.text.parquet import check_text_column
from bertjobs.text.source_file import SourceFile


def read_columnar(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows. Raises: DataError: damaged, a column is missing, or a text column holds no texts."""
    table = _read_table(source)
    texts = [_texts(table, name, source) for name in columns.texts]
    has_labels = columns.label in table.column_names
    labels = table[columns.label].to_pylist() if has_labels else [None] * table.num_rows
    for place, (label, *row) in enumerate(zip(labels, *texts, strict=True), start=1):
        if None in row:
            yield BadRow(place, "a text is null")
        else:
            yield Row(place, tuple(row), label_text(label))


def _read_table(source: SourceFile) -> pa.Table:
    with source.open() as stream:
        content = pa.py_buffer(stream.read())
    if content.size == 0:
        raise DataError(f"{source} is empty", hint="Give a file with rows (--data).")
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


def _texts(table: pa.Table, name: str, source: SourceFile) -> list[str | None]:
    check_text_column(table.schema, name, source, flag="columns in the task file, --task")
    values: list[str | None] = table[name].cast(pa.large_string()).to_pylist()
    return values
