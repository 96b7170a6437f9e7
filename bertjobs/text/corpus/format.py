"""How a file of a corpus is read: what a document is, where sentences end, and which lines are headings.

The unit of work on a corpus: a shard, which is some pieces of files, and can be sent to any process.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.config.pretrain import CorpusSection, Document
from bertjobs.errors import DataError
from bertjobs.text.source_file import SourceFile

Container = Literal["text", "jsonl", "parquet"]

_TITLE = re.compile(rb"\n ?= [^=\r\n]+ = ?(?=\r?\n|\Z)")
"""WikiText's headings of level 1, on lines of their own; a document begins with the first line anyway."""
_HEADING = re.compile(r"=( =)* .+ =( =)*")
_AFTER_PUNCTUATION = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True)
class CorpusFormat:
    """What `auto` stands for is decided here; nothing below asks for file names."""

    container: Container
    document: Literal["article", "paragraph", "file", "line", "row"]
    sentences: Literal["dot", "line", "punctuation"]
    has_headings: bool
    """Whether lines such as ` = = History = = ` are headings, which are no sentences to learn from."""
    column: str
    """Field or column of the text, in JSONL and Parquet."""
    on_bad_row: Literal["error", "skip"]

    @property
    def unit(self) -> str:
        """What a place in the file counts."""
        return "row" if self.container == "parquet" else "line"

    def sentences_of(self, text: str) -> list[str]:
        """Cut a text into its sentences; blank ones and headings are left out.

        A sentence never goes beyond a line. `dot` takes the ` . ` between two sentences away, as d2l does.
        """
        found: list[str] = []
        for line in text.split("\n"):
            line = line.strip()
            if not line or (self.has_headings and is_heading(line)):
                continue
            if self.sentences == "dot":
                found += line.split(" . ")
            elif self.sentences == "punctuation":
                found += _AFTER_PUNCTUATION.split(line)
            else:
                found.append(line)
        return [sentence for sentence in found if sentence and not sentence.isspace()]


def article_begins(content: bytes) -> Iterator[int]:
    """Yield the places, but the first byte, at which articles of WikiText begin."""
    return (found.start() + 1 for found in _TITLE.finditer(content))


def is_heading(line: str) -> bool:
    """Return whether a stripped line of WikiText is a heading, of any level."""
    return line[0] == "=" and _HEADING.fullmatch(line) is not None


def format_of(source: SourceFile, data: CorpusSection) -> CorpusFormat:
    """Decide how a file is read, by its ending and what was asked for.

    Raises: DataError: rows were asked of a text, or another document than a row of a table.
    """
    container = _CONTAINERS.get(source.suffix, "text")
    is_wikitext = source.suffix == ".tokens"
    document, sentences = data.document, data.sentences
    if document == "auto":
        document = "row" if container != "text" else "article" if is_wikitext else "file"
    if sentences == "auto":
        sentences = "dot" if is_wikitext else "punctuation"
    _check(document, container, source)
    return CorpusFormat(
        container=container,
        document=document,
        sentences=sentences,
        has_headings=is_wikitext or document in ("article", "paragraph"),
        column=data.column,
        on_bad_row=data.on_bad_row,
    )


_CONTAINERS: dict[str, Container] = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def _check(document: Document, container: Container, source: SourceFile) -> None:
    if (document == "row") == (container != "text"):
        return
    has = "text, which has no rows" if container == "text" else f"{container}, whose documents are its rows"
    raise DataError(
        f"--document {document}: {source} is {has}.",
        hint="Leave --document out, or give other files (--corpus).",
    )


@dataclass(frozen=True, kw_only=True)
class FileRange:
    """A stretch of one file."""

    source: SourceFile
    format: CorpusFormat
    begin: int
    """In bytes; rows of the row group in Parquet."""
    end: int
    num_bytes: int
    row_group: int = 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Pieces that are read and encoded together; the unit of work."""

    number: int
    """Place among the shards of the corpus, from 0."""
    pieces: tuple[FileRange, ...]
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
