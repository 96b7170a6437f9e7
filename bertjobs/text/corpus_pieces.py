"""The unit of work on a corpus: a span, which is some pieces of files, and can be sent to any process."""

from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.errors import DataError
from bertjobs.text.corpus_format import CorpusFormat
from bertjobs.text.source_file import SourceFile


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of one file."""

    source: SourceFile
    format: CorpusFormat
    begin: int
    """In bytes; rows of the row group in Parquet."""
    end: int
    num_bytes: int
    row_group: int = 0


@dataclass(frozen=True, kw_only=True)
class Span:
    """Pieces that are read and encoded together; the unit of work."""

    number: int
    """Place among the spans of the corpus, from 0."""
    pieces: tuple[Piece, ...]
    max_documents: int | None = None
    """Read only so many from the beginning."""

    @property
    def num_bytes(self) -> int:
        return sum(piece.num_bytes for piece in self.pieces)


def open_parquet(source: SourceFile, stream: BinaryIO, column: str) -> pq.ParquetFile:
    """Open a Parquet file that has a column of texts. Raises: DataError: it has not, or is damaged."""
    try:
        file = pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as e:
        raise DataError(
            f"{source} cannot be read as Parquet: {str(e).splitlines()[0]}",
            hint="It is damaged or cut short; give another file (--corpus).",
        ) from e
    schema = file.schema_arrow
    if column not in schema.names:
        raise DataError(
            f"{source}: there is no column {column!r}; the file has {', '.join(schema.names)}.",
            hint="Name the column that holds the text (--column).",
        )
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(
            f"{source}: the column {column!r} holds {kind}, not texts.",
            hint="Name the column that holds the text (--column).",
        )
    return file
