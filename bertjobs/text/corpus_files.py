"""Which files make up a corpus: a published one by its name, or a file, folder or glob of one's own.

Knows no content, and imports nothing slow: the command line looks here before anything is queued.
"""

import glob
from pathlib import Path
from typing import Literal

from bertjobs.errors import DataError
from bertjobs.text.locate import downloads_dir

PUBLISHED_CORPORA = ("wikitext-2", "wikitext-103")
SUFFIXES = (".txt", ".text", ".tokens", ".jsonl", ".parquet")


def find_files(
    corpus: str, path: str | None, *, split: Literal["train", "valid"], cache: Path
) -> tuple[Path, ...]:
    """Return the files of a corpus, sorted by name.

    path: folder that holds a published corpus; None is what `data get` downloaded.

    Raises: DataError: there is none; says where was looked and what to do.
    """
    if corpus in PUBLISHED_CORPORA:
        return (_published(corpus, path, split=split, cache=cache),)
    given = Path(corpus).expanduser()
    if given.is_file():
        return (given,)
    if given.is_dir():
        found = [p for p in given.rglob("*") if p.is_file() and p.suffix in SUFFIXES]
    else:
        found = [Path(p) for p in glob.glob(str(given), recursive=True) if Path(p).is_file()]  # noqa: PTH207
    if not found:
        raise DataError(
            f"--corpus {corpus}: there is no such corpus, file or folder with text in it.",
            hint=f"Give one of {', '.join(PUBLISHED_CORPORA)}, or files that end in {', '.join(SUFFIXES)}.",
        )
    return tuple(sorted(found))


def _published(corpus: str, path: str | None, *, split: str, cache: Path) -> Path:
    name = f"wiki.{split}.tokens"
    roots = [downloads_dir(cache)] if path is None else [Path(path).expanduser()]
    for root in roots:
        for folder in (root, root / corpus, root / f"{corpus}-v1"):
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"{corpus}: {name} is not in {roots[0]}.",
        hint=f"Run `bertjobs data get {corpus}`, or give the folder that holds it (--data).",
    )
