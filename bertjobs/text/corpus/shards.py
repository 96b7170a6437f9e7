"""Cut a corpus into shards: picklable parts of files of bounded size, each read and encoded by itself.

Cuts are between documents and are found by seeking, so planning reads next to nothing. A document that is
larger than a shard is cut at a line end, else at a space; the parts count as documents.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

import pyarrow.parquet as pq

from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import DataError
from bertjobs.text.corpus.documents import FileRange, Shard, read_shard
from bertjobs.text.corpus.format import CorpusFormat, article_begins, format_of
from bertjobs.text.parquet import check_text_column, parquet_errors
from bertjobs.text.source_file import SourceFile

_WINDOW_BYTES = 1 << 16
"""How far before a shard's limit a document's beginning is looked for at first."""
_WINDOW_GROWTH = 16


def plan_shards(files: Sequence[SourceFile], data: CorpusSection) -> list[Shard]:
    """Return shards of at most `data.block_bytes` of text; small files share one.

    Only a single row of JSONL can be larger, and has a shard to itself then. With `data.limit_documents` the
    shards end after that many documents.

    Raises: DataError: a file is missing, damaged or has no such column; or all are empty.
    """
    shards: list[list[FileRange]] = []
    num_free_bytes = 0
    for part in _parts(files, data):
        if part.num_bytes > num_free_bytes or not shards:
            shards.append([])
            num_free_bytes = data.block_bytes
        shards[-1].append(part)
        num_free_bytes -= part.num_bytes
    if not shards:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise DataError(
            f"The corpus is empty: there is no text in {files[0]}{more}",
            hint="Give files with text (--corpus).",
        )
    planned = [Shard(number=i, parts=tuple(parts)) for i, parts in enumerate(shards)]
    return planned if data.limit_documents is None else _first_documents(planned, data.limit_documents)


def _first_documents(shards: list[Shard], num_documents: int) -> list[Shard]:
    """Return the shards of the first documents; they are read to count their documents."""
    kept: list[Shard] = []
    while num_documents > 0 and len(kept) < len(shards):
        kept.append(replace(shards[len(kept)], max_documents=num_documents))
        num_documents -= len(read_shard(kept[-1]).documents)
    return kept


def _parts(files: Iterable[SourceFile], data: CorpusSection) -> Iterator[FileRange]:
    for source in files:
        format_ = format_of(source, data)
        if format_.container == "parquet":
            yield from _row_ranges(source, format_, data.block_bytes)
        else:
            yield from _byte_ranges(source, format_, data.block_bytes)


def _byte_ranges(source: SourceFile, format_: CorpusFormat, block_bytes: int) -> Iterator[FileRange]:
    with source.open() as stream:
        size = stream.seek(0, os.SEEK_END)
        begin = 0
        while begin < size:
            end = size
            if size - begin > block_bytes:
                end = _cut(stream, begin, begin + block_bytes, format_)
            yield FileRange(source=source, format=format_, begin=begin, end=end, num_bytes=end - begin)
            begin = end


def _cut(stream: BinaryIO, begin: int, limit: int, format_: CorpusFormat) -> int:
    """Return the last offset up to `limit` at which a document begins, else one inside the document."""
    # Look back from the limit in a small window, then in larger ones, down to `begin`.
    window_bytes = _WINDOW_BYTES
    while True:
        start = max(begin, limit - window_bytes)
        stream.seek(start)
        window = stream.read(limit - start)
        offset = _last_document(window, format_)
        if offset > 0:
            return start + offset
        if start == begin:
            break
        window_bytes *= _WINDOW_GROWTH
    if format_.container == "jsonl":  # a row cannot be cut
        stream.seek(limit)
        stream.readline()
        return stream.tell()
    return begin + _cut_inside(window)


def _last_document(window: bytes, format_: CorpusFormat) -> int:
    """Return the last offset in the window at which a document begins; 0 where there is none."""
    if format_.document == "article":
        return max(article_begins(window), default=0)
    return 0 if format_.document == "file" else window.rfind(b"\n") + 1


def _cut_inside(window: bytes) -> int:
    """Return where to cut a document that is too large: after a line end, a space, or between characters."""
    for separator in (b"\n", b" "):
        if (found := window.rfind(separator)) >= 0:
            return found + 1
    # The last character may be incomplete: step back over UTF-8 continuation bytes (10xxxxxx) to its first
    # byte, and leave all of it to the next shard.
    end = len(window)
    while end > 1 and window[end - 1] & 0xC0 == 0x80:
        end -= 1
    return max(end - 1, 1)


def _row_ranges(source: SourceFile, format_: CorpusFormat, block_bytes: int) -> Iterator[FileRange]:
    """Yield ranges of rows: each row group in as many equal parts as its texts' size asks for."""
    with source.open() as stream, parquet_errors(source):
        file = pq.ParquetFile(stream)
        check_text_column(file.schema_arrow, format_.column, source)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            columns = (group.column(i) for i in range(group.num_columns))
            num_bytes = next(c.total_uncompressed_size for c in columns if c.path_in_schema == format_.column)
            num_parts = max(1, -(-num_bytes // block_bytes))
            rows = [group.num_rows * i // num_parts for i in range(num_parts + 1)]
            for begin, end in itertools.pairwise(rows):
                if begin < end:
                    yield FileRange(
                        source=source, format=format_, begin=begin, end=end,
                        num_bytes=num_bytes // num_parts, row_group=number,
                    )  # fmt: skip
