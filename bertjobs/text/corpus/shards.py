"""Cut a corpus into shards: picklable pieces of bounded size, each read and encoded alone.

Cuts fall between documents and are found by seeking, so planning reads next to nothing. A document that is
larger than a shard is cut inside, at a line's end, else at a space; its parts are documents of their own.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import DataError
from bertjobs.text.corpus.documents import read_shard
from bertjobs.text.corpus.format import (
    CorpusFormat,
    FileRange,
    Shard,
    article_begins,
    format_of,
    open_parquet,
)
from bertjobs.text.source_file import SourceFile

__all__ = ["Shard", "plan_shards"]

_WINDOW_BYTES = 1 << 16
_WIDER = 16


def plan_shards(files: Sequence[SourceFile], data: CorpusSection) -> list[Shard]:
    """Return shards of at most `data.block_bytes` of text; small files share one.

    Only a single row of JSONL can be larger, and stands alone then. With `data.limit_documents` the shards
    end after so many documents.

    Raises: DataError: a file is missing, damaged or has no such column; or all are empty.
    """
    groups: list[list[FileRange]] = []
    room = 0
    for piece in _pieces(files, data):
        if piece.num_bytes > room or not groups:
            groups.append([])
            room = data.block_bytes
        groups[-1].append(piece)
        room -= piece.num_bytes
    if not groups:
        raise _empty_corpus(files)
    shards = [Shard(number=i, pieces=tuple(group)) for i, group in enumerate(groups)]
    return shards if data.limit_documents is None else _first_documents(shards, data.limit_documents)


def _first_documents(shards: list[Shard], num_documents: int) -> list[Shard]:
    """Keep the shards of the first documents; to count them they are read."""
    kept: list[Shard] = []
    while num_documents > 0 and len(kept) < len(shards):
        kept.append(replace(shards[len(kept)], max_documents=num_documents))
        num_documents -= len(read_shard(kept[-1]).documents)
    return kept


def _empty_corpus(files: Sequence[SourceFile]) -> DataError:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return DataError(
        f"The corpus is empty: there is no text in {files[0]}{more}.", hint="Give files with text (--corpus)."
    )


def _pieces(files: Iterable[SourceFile], data: CorpusSection) -> Iterator[FileRange]:
    for source in files:
        form = format_of(source, data)
        if form.container == "parquet":
            yield from _row_pieces(source, form, data.block_bytes)
        else:
            yield from _byte_pieces(source, form, data.block_bytes)


def _byte_pieces(source: SourceFile, form: CorpusFormat, block_bytes: int) -> Iterator[FileRange]:
    with source.open() as stream:
        size = stream.seek(0, os.SEEK_END)
        begin = 0
        while begin < size:
            end = size
            if size - begin > block_bytes:
                end = _cut_before(stream, begin, begin + block_bytes, form)
            yield FileRange(source=source, format=form, begin=begin, end=end, num_bytes=end - begin)
            begin = end


def _cut_before(stream: BinaryIO, begin: int, limit: int, form: CorpusFormat) -> int:
    """Return the last place up to the limit at which a document begins, else where the least is broken."""
    size = _WINDOW_BYTES
    while True:
        start = max(begin, limit - size)
        stream.seek(start)
        window = stream.read(limit - start)
        at = _last_document(window, form)
        if at > 0:
            return start + at
        if start == begin:
            break
        size *= _WIDER
    if form.container == "jsonl":
        return _next_line(stream, limit)
    return begin + _least_break(window)


def _last_document(window: bytes, form: CorpusFormat) -> int:
    """Return the last place in the window at which a document begins; 0 or less where there is none."""
    if form.document == "article":
        return max(article_begins(window), default=0)
    return 0 if form.document == "file" else window.rfind(b"\n") + 1


def _least_break(window: bytes) -> int:
    """Return where a document that is too large is cut: at a line's end, a space, or between characters."""
    for mark in (b"\n", b" "):
        if (at := window.rfind(mark)) >= 0:
            return at + 1
    at = len(window)
    while at > 1 and window[at - 1] & 0xC0 == 0x80:  # the last character may go on: it is left to the next
        at -= 1
    return max(at - 1, 1)


def _next_line(stream: BinaryIO, at: int) -> int:
    stream.seek(at)
    stream.readline()
    return stream.tell()


def _row_pieces(source: SourceFile, form: CorpusFormat, block_bytes: int) -> Iterator[FileRange]:
    with source.open() as stream:
        file = open_parquet(source, stream, form.column)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            columns = (group.column(i) for i in range(group.num_columns))
            num_bytes = next(c.total_uncompressed_size for c in columns if c.path_in_schema == form.column)
            num_parts = max(1, -(-num_bytes // block_bytes))
            rows = [group.num_rows * i // num_parts for i in range(num_parts + 1)]
            for begin, end in itertools.pairwise(rows):
                if begin < end:
                    yield FileRange(
                        source=source, format=form, begin=begin, end=end,
                        num_bytes=num_bytes // num_parts, row_group=number,
                    )  # fmt: skip
