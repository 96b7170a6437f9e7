"""A shard of a corpus, and how it is read: its documents as lists of sentences.

Lines or rows that cannot be read are refused with file and line, or counted where the user says so. Knows no
tokens; where the cuts between shards are is decided in `shards`.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from bertjobs.errors import DataError
from bertjobs.text.corpus.format import CorpusFormat, article_begins
from bertjobs.text.json_lines import decode_line, json_text
from bertjobs.text.parquet import check_text_column, parquet_errors
from bertjobs.text.source_file import SourceFile, binary_kind

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FileRange:
    """A part of one file: a range of its bytes, or in Parquet of the rows of one row group."""

    source: SourceFile
    format: CorpusFormat
    begin: int
    end: int
    num_bytes: int
    """Of its text; in Parquet an estimate."""
    row_group: int = 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The unit of work on a corpus: parts of files that are read and encoded together, in any process."""

    number: int
    """Position among the shards of the corpus, from 0."""
    parts: tuple[FileRange, ...]
    max_documents: int | None = None
    """Read only this many documents, from the beginning."""

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)


@dataclass
class ShardText:
    """What was read of a shard."""

    documents: list[list[str]] = field(default_factory=list)
    """Sentences of each document, in the order of the corpus; at least one sentence each."""
    num_dropped: int = 0
    """Lines or rows that could not be read and were skipped."""


def read_shard(shard: Shard) -> ShardText:
    """Read the documents of a shard.

    Raises: DataError: a line or row cannot be read (with file and line), unless bad rows are skipped; or the
        file is missing, binary or damaged.
    """
    found = ShardText()
    for part in shard.parts:
        for text in _READERS[part.format.container](part, found):
            sentences = part.format.sentences_of(text)
            if sentences:
                found.documents.append(sentences)
            if len(found.documents) == shard.max_documents:
                return found
    return found


def _text_documents(part: FileRange, found: ShardText) -> Iterable[str]:
    content = _read_bytes(part)
    if part.begin == 0:
        _refuse_binary(part.source, content)
        content = content.removeprefix(_BOM)
    if part.format.document == "article":
        return (_decode(article, begin, part, found) for begin, article in _articles(content))
    text = _decode(content, 0, part, found)
    return [text] if part.format.document == "file" else text.split("\n")


def _articles(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each article, and where it begins."""
    begins = [0, *article_begins(content), len(content)]
    for begin, end in itertools.pairwise(begins):
        yield begin, content[begin:end]


def _decode(content: bytes, begin: int, part: FileRange, found: ShardText) -> str:
    """Decode a document whose bytes are at `begin` in the part: at once, or line by line where that fails."""
    try:
        text = content.decode("utf-8")
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        pass
    lines = []
    for number, raw in enumerate(content.split(b"\n")):
        line, cause = decode_line(raw)
        if cause is None:
            lines.append(line)
        else:
            _refuse(part, found, cause, num_bytes_before=begin, num_lines_before=number)
    return "\n".join(lines)


def _json_documents(part: FileRange, found: ShardText) -> Iterator[str]:
    content = _read_bytes(part)
    if part.begin == 0:
        content = content.removeprefix(_BOM)
    for number, raw in enumerate(content.split(b"\n")):
        line, cause = decode_line(raw)
        if cause is None and (not line or line.isspace()):
            continue
        if cause is None:
            text, cause = json_text(line, part.format.column)
        if cause is None:
            yield text
        else:
            _refuse(part, found, cause, num_lines_before=number)


def _parquet_documents(part: FileRange, found: ShardText) -> Iterator[str]:
    with part.source.open() as stream, parquet_errors(part.source):
        file = pq.ParquetFile(stream)
        check_text_column(file.schema_arrow, part.format.column, part.source)
        rows_before = sum(file.metadata.row_group(i).num_rows for i in range(part.row_group))
        for number, text in enumerate(_cells(file, part), start=rows_before + part.begin):
            if text is None:
                _refuse(part, found, "the text is null", num_lines_before=number)
            else:
                yield text


def _cells(file: pq.ParquetFile, part: FileRange) -> Iterator[str | None]:
    """Yield the texts of a part, a batch at a time: a row group may be larger than a block."""
    begin_of_batch = 0
    for batch in file.iter_batches(1024, row_groups=[part.row_group], columns=[part.format.column]):
        begin = max(part.begin - begin_of_batch, 0)
        end = min(part.end - begin_of_batch, batch.num_rows)
        if begin < end:
            yield from batch.column(0).slice(begin, end - begin).to_pylist()
        begin_of_batch += batch.num_rows
        if begin_of_batch >= part.end:
            return


_READERS = {"text": _text_documents, "jsonl": _json_documents, "parquet": _parquet_documents}


def _read_bytes(part: FileRange) -> bytes:
    with part.source.open() as stream:
        stream.seek(part.begin)
        content = stream.read(part.end - part.begin)
    if len(content) < part.end - part.begin:
        raise DataError(
            f"{part.source} is shorter than it was when the job started reading it",
            hint="Submit again when nothing writes to the corpus any more (--corpus).",
        )
    return content


def _refuse_binary(source: SourceFile, content: bytes) -> None:
    kind = binary_kind(content)
    if kind is not None:
        raise DataError(f"{source} is not text but {kind}", hint="Give files of text (--corpus).")


def _refuse(
    part: FileRange, found: ShardText, cause: str, *, num_bytes_before: int = 0, num_lines_before: int
) -> None:
    """Raise for a line or row, or count it.

    num_bytes_before, num_lines_before: what is before it in the part; in Parquet, rows before it in the file.
    """
    if part.format.on_bad_row == "skip":
        found.num_dropped += 1
        return
    number = num_lines_before + 1
    if part.format.container != "parquet":
        number += _count_lines(part.source, part.begin + num_bytes_before)
    raise DataError(
        f"{part.source}, {part.format.unit} {number}: {cause}",
        hint="Correct it, or skip and count such lines and rows: --on-bad-row skip.",
    )


def _count_lines(source: SourceFile, end: int) -> int:
    """Count the line ends before a byte. Parts do not know their line numbers: only an error needs them."""
    count = num_read = 0
    with source.open() as stream:
        while num_read < end:
            chunk = stream.read(min(_CHUNK_BYTES, end - num_read))
            count += chunk.count(b"\n")
            num_read += len(chunk)
    return count
