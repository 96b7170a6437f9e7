"""How a file of a corpus is read: what a document is, where sentences end, and which lines are headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bertjobs.config.pretrain import CorpusSection, Document
from bertjobs.errors import DataError
from bertjobs.text.source_file import SourceFile

Container = Literal["text", "jsonl", "parquet"]

_TITLE = re.compile(rb"\n ?= [^=\r\n]+ = ?(?=\r?\n|\Z)")
"""A title of WikiText, on a line of its own: `= Title =`. One in the first line needs no cut before it."""
_HEADING = re.compile(r"=( =)* .+ =( =)*")
_AFTER_PUNCTUATION = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True)
class CorpusFormat:
    """How one file is read: every `auto` is decided here, so that readers need no file names."""

    container: Container
    document: Literal["article", "paragraph", "file", "line", "row"]
    sentences: Literal["dot", "line", "punctuation"]
    has_headings: bool
    """Whether lines such as ` = = History = = ` are headings, and so not sentences."""
    column: str
    """Field or column of the text, in JSONL and Parquet."""
    on_bad_row: Literal["error", "skip"]

    @property
    def unit(self) -> str:
        """What numbers in error messages count: `row` or `line`."""
        return "row" if self.container == "parquet" else "line"

    def sentences_of(self, text: str) -> list[str]:
        """Cut a text into its sentences; blank ones and headings are left out.

        A line end always ends a sentence. `dot` removes the ` . ` between two sentences.
        Source of `dot`: Dive into Deep Learning, section 15.9, `_read_wiki`.
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
    """Yield the offsets at which articles of WikiText begin, except 0."""
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
        f"--document {document}: {source} is {has}",
        hint="Leave --document out, or give other files (--corpus).",
    )
