"""Which files make up a corpus: a published one by its name, or a file, folder or glob of the user.

Knows nothing of their content, and imports nothing slow: the command line checks files before a job is
queued.
"""

import glob
from pathlib import Path
from typing import Literal

from bertjobs.config.pretrain import PUBLISHED_CORPORA
from bertjobs.errors import DataError
from bertjobs.text.datasets.splits import downloads_dir
from bertjobs.text.source_file import SourceFile, data_errors, open_archive

__all__ = ["PREDICTED_SUFFIXES", "PUBLISHED_CORPORA", "SPLITS", "find_files", "member_name", "own_files"]

SPLITS = ("train", "valid", "test")
"""Of the published corpora."""
SUFFIXES = (".txt", ".text", ".tokens", ".jsonl", ".parquet")
"""Endings of the files that are taken from a folder; a file given by name is text if it has another."""

PREDICTED_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
"""The same for files of rows to predict."""


def find_files(
    corpus: str, path: str | None, *, split: Literal["train", "valid"], cache: Path
) -> tuple[SourceFile, ...]:
    """Return the files of a corpus, sorted by name.

    path: folder or zip that holds a published corpus; None is what `data get` downloaded.

    Raises: DataError: there are none; the message says where they were looked for.
    """
    if corpus in PUBLISHED_CORPORA:
        return (_published(corpus, path, split=split, cache=cache),)
    return own_files(corpus, flag="--corpus", or_else=f"one of {', '.join(PUBLISHED_CORPORA)}, or ")


def own_files(
    given: str, *, flag: str, or_else: str = "", suffixes: tuple[str, ...] = SUFFIXES, content: str = "text"
) -> tuple[SourceFile, ...]:
    """Return the files of a path, folder or glob, sorted by name.

    flag: what the user gave them with. or_else: what else it takes, for the hint. suffixes: endings of the
    files that are taken from a folder. content: what is in them, for the message.

    Raises: DataError: there are none.
    """
    path = Path(given).expanduser()
    with data_errors(SourceFile(path)):  # a name that is too long, a folder that may not be entered
        if path.is_file():
            return (SourceFile(path),)
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.is_file() and p.suffix in suffixes]
        else:
            matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (an absolute pattern)
            found = [Path(p) for p in matches if Path(p).is_file()]
    if not found:
        raise DataError(
            f"{flag} {given}: there is no such {'corpus, ' if or_else else ''}file or folder with {content}",
            hint=f"Give {or_else}files that end in {', '.join(suffixes)}.",
        )
    return tuple(SourceFile(p) for p in sorted(found))


def member_name(split: str) -> str:
    """Return the file name of a split of WikiText."""
    return f"wiki.{split}.tokens"


def _published(corpus: str, path: str | None, *, split: str, cache: Path) -> SourceFile:
    root = downloads_dir(cache) if path is None else Path(path).expanduser()
    name = member_name(split)
    with data_errors(SourceFile(root)):
        for folder in (root, root / corpus, root / f"{corpus}-v1"):
            if (folder / name).is_file():
                return SourceFile(folder / name)
        is_zip = root.is_file() and root.suffix == ".zip"
    if is_zip:
        with open_archive(root) as archive:
            for member in archive.namelist():
                if member == name or member.endswith(f"/{name}"):
                    return SourceFile(root, member)
    raise DataError(
        f"{corpus}: {name} is not in {root}",
        hint=f"Run `bertjobs data get {corpus}`, or give the folder or zip that holds it (--data).",
    )
