"""What readers of Parquet files share: a file that can be read, with a column of texts."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from bertjobs.errors import DataError
from bertjobs.text.source_file import SourceFile, data_errors


@contextmanager
def parquet_errors(source: SourceFile) -> Iterator[None]:
    """Turn what pyarrow and the system say about a Parquet file into a DataError."""
    try:
        with data_errors(source):
            yield
    except pa.ArrowException as e:
        raise DataError(
            f"{source} cannot be read as Parquet: {str(e).splitlines()[0]}",
            hint="It is damaged, cut short or of another format; give another file.",
        ) from e


def check_text_column(schema: pa.Schema, column: str, source: SourceFile, *, flag: str = "--column") -> None:
    """Refuse a table without this column, or whose column is not of texts.

    flag: what names the column on the command line.

    Raises: DataError.
    """
    hint = f"Name a column of texts ({flag})."
    if column not in schema.names:
        raise DataError(
            f"{source}: there is no column {column!r}; the file has {', '.join(schema.names)}", hint=hint
        )
    type_ = schema.field(column).type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
        raise DataError(f"{source}: the column {column!r} is of type {type_}, not of texts", hint=hint)
