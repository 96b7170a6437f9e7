"""Read a shard of a corpus: its documents as lists of sentences. What it cannot read it names, or counts."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.errors import DataError
from bertjobs.text.corpus.format import FileRange, Shard, article_begins, open_parquet
from bertjobs.text.source_file import SourceFile, binary_kind

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20


@dataclass
class Documents:
    """Documents in the order of the corpus; each has a sentence at least."""

    documents: list[list[str]] = field(default_factory=list)
    num_dropped: int = 0
    """Lines or rows that could not be read and were skipped."""


def read_shard(shard: Shard) -> Documents:
    """Read the documents of a shard.

    Raises: DataError: a line or row that cannot be read, with file and line, unless such are skipped; or the
        file is missing, binary or damaged.
    """
    found = Documents()
    for piece in shard.pieces:
        for text in _READERS[piece.format.container](piece, found):
            sentences = piece.format.sentences_of(text)
            if sentences:
                found.documents.append(sentences)
            if len(found.documents) == shard.max_documents:
                return found
    return found


def _text_documents(piece: FileRange, found: Documents) -> Iterable[str]:
    content = _read_bytes(piece)
    if piece.begin == 0:
        _refuse_binary(piece.source, content)
        content = content.removeprefix(_BOM)
    if piece.format.document == "article":
        return (_decode(part, at, piece, found) for at, part in _articles(content))
    text = _decode(content, 0, piece, found)
    return [text] if piece.format.document == "file" else text.split("\n")


def _articles(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut before each title; yield the parts with their places."""
    begins = [0, *article_begins(content), len(content)]
    for begin, end in itertools.pairwise(begins):
        yield begin, content[begin:end]


def _decode(content: bytes, at: int, piece: FileRange, found: Documents) -> str:
    """Decode a part of a piece that begins `at` its bytes; where that fails, line by line."""
    try:
        text = content.decode("utf-8")
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        pass
    lines = []
    for number, raw in enumerate(content.split(b"\n")):
        line, cause = _decode_line(raw)
        if cause is None:
            lines.append(line)
        else:
            _refuse(piece, found, cause, num_bytes=at, num_places=number)
    return "\n".join(lines)


def _decode_line(raw: bytes) -> tuple[str, str | None]:
    """Return the line, and why it is none."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        return "", f"byte {raw[e.start]:#04x} at column {e.start + 1} is not UTF-8"
    return line, "holds a zero byte" if "\0" in line else None


def _json_documents(piece: FileRange, found: Documents) -> Iterator[str]:
    content = _read_bytes(piece)
    if piece.begin == 0:
        content = content.removeprefix(_BOM)
    for number, raw in enumerate(content.split(b"\n")):
        line, cause = _decode_line(raw)
        if cause is None:
            if not line or line.isspace():
                continue
            text, cause = _json_text(line, piece.format.column)
            if cause is None:
                yield text
                continue
        _refuse(piece, found, cause, num_bytes=0, num_places=number)


def _json_text(line: str, column: str) -> tuple[str, str | None]:
    """Return the row's text, and why it has none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        return "", f"broken JSON ({e})"
    if not isinstance(row, dict):
        return "", f"expected a JSON object, but found {line[:40]!r}"
    if column not in row:
        return "", f"there is no field {column!r}; the row has {', '.join(row) or 'none'} (--column)"
    if not isinstance(row[column], str):
        return "", f"the field {column!r} is not a text but {json.dumps(row[column])[:40]}"
    return row[column], None


def _parquet_documents(piece: FileRange, found: Documents) -> Iterator[str]:
    column = piece.format.column
    with piece.source.open() as stream:
        file = open_parquet(piece.source, stream, column)
        num_before = sum(file.metadata.row_group(i).num_rows for i in range(piece.row_group))
        for number, text in enumerate(_column_values(file, piece), start=piece.begin):
            if text is None:
                _refuse(piece, found, "the text is null", num_bytes=0, num_places=num_before + number)
            else:
                yield text


def _column_values(file: pq.ParquetFile, piece: FileRange) -> Iterator[str | None]:
    """Yield the cells of a piece, a batch at a time: a row group may be larger than a block."""
    try:
        batches = file.iter_batches(1024, row_groups=[piece.row_group], columns=[piece.format.column])
        at = 0
        for batch in batches:
            begin, end = max(piece.begin - at, 0), min(piece.end - at, batch.num_rows)
            if begin < end:
                yield from batch.column(0).slice(begin, end - begin).to_pylist()
            at += batch.num_rows
            if at >= piece.end:
                return
    except (pa.ArrowException, OSError) as e:
        raise DataError(
            f"{piece.source} cannot be read as Parquet: {str(e).splitlines()[0]}",
            hint="It is damaged or cut short; give another file (--corpus).",
        ) from e


_READERS = {"text": _text_documents, "jsonl": _json_documents, "parquet": _parquet_documents}


def _read_bytes(piece: FileRange) -> bytes:
    with piece.source.open() as stream:
        stream.seek(piece.begin)
        content = stream.read(piece.end - piece.begin)
    if len(content) < piece.end - piece.begin:
        raise DataError(
            f"{piece.source} is shorter than it was: it is being written or was replaced.",
            hint="Start again when the corpus lies still (--corpus).",
        )
    return content


def _refuse_binary(source: SourceFile, content: bytes) -> None:
    kind = binary_kind(content)
    if kind is not None:
        raise DataError(f"{source} is not text but {kind}.", hint="Give files of text (--corpus).")


def _refuse(piece: FileRange, found: Documents, cause: str, *, num_bytes: int, num_places: int) -> None:
    """Raise for a line or row that lies so far into the piece, or count it."""
    if piece.format.on_bad_row == "skip":
        found.num_dropped += 1
        return
    place = num_places + 1
    if piece.format.container != "parquet":
        place += _lines_before(piece.source, piece.begin + num_bytes)
    raise DataError(
        f"{piece.source}, {piece.format.unit} {place}: {cause}.",
        hint="Correct it, or skip and count such places: --on-bad-row skip.",
    )


def _lines_before(source: SourceFile, end: int) -> int:
    """Count the lines before a place: pieces do not know where they lie, and only an error asks."""
    count = at = 0
    with source.open() as stream:
        while at < end:
            chunk = stream.read(min(_CHUNK_BYTES, end - at))
            count += chunk.count(b"\n")
            at += len(chunk)
    return count
