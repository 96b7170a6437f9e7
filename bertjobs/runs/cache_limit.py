"""What is removed of a node's cache when a driver starts: encoded data and fetched inputs that no job has
used for long, and the least recently used beyond a limit of size.

    <cache>/encoded/<key>.arrow       encoded rows, read once when a job starts
    <cache>/encoded/corpus-<key>/     blocks of a corpus, read as long as a job trains
    <cache>/inputs/<key>/             files that were fetched from an object store, read as long as a job runs

Encoded corpora that several nodes share (`BERTJOBS_ENCODED`, or below the storage) have the same limits; the
driver of a pretraining applies them.

All of it can be made again. Downloads and models stay: they may have been put there by hand.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bertjobs.storage import JobDir

log = logging.getLogger(__name__)

DAY_S = 24 * 3600.0
TABLE_IN_USE_S, FOLDER_IN_USE_S = DAY_S, 30 * DAY_S
"""Time since its last use during which a job may still read it; the limit of size does not count then."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """A file or a folder that is removed as a whole."""

    path: Path
    size_bytes: int
    unused_s: float
    """Since a job last started with it."""
    may_be_in_use: bool


def note_use(path: Path) -> None:
    """Record that a job uses an entry from now on."""
    try:
        os.utime(path)
    except OSError as e:  # a cache that another user owns
        log.debug("%s: its use is not recorded: %s", path, e)


def limit_cache(cache: Path, *, keep_s: float | None, max_bytes: float | None) -> list[Path]:
    """Remove what `removable` names; return it. An entry that cannot be removed is left for the next time."""
    gone = []
    for entry in removable(_entries(cache, now_s=time.time()), keep_s=keep_s, max_bytes=max_bytes):
        if entry.path.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            entry.path.unlink(missing_ok=True)
        gone.append(entry.path)
        log.info("%s is removed from the cache: unused for %.0f days", entry.path, entry.unused_s / DAY_S)
    return gone


def limit_shared_corpora(
    root: str, *, manifest: str, keep_s: float | None, max_bytes: float | None, now_s: float
) -> list[str]:
    """Remove the encoded corpora that `removable` names from a folder or an address. Returns their names.

    `manifest` is the file without which a corpus is not whole: it goes first, and is written again by each
    use, so that the newest file tells the age. Raises: StorageError.
    """
    parent, _, name = root.rstrip("/").rpartition("/")
    corpora = JobDir(parent, name)
    entries = []
    for found in corpora.list(""):
        if found.startswith("corpus-") and (files := corpora.list_files(found)):
            unused_s = now_s - max(file.modified_at_s for file in files)
            size_bytes = sum(file.size_bytes for file in files)
            in_use = unused_s < FOLDER_IN_USE_S
            entries.append(
                CacheEntry(path=Path(found), size_bytes=size_bytes, unused_s=unused_s, may_be_in_use=in_use)
            )
    gone = [str(entry.path) for entry in removable(entries, keep_s=keep_s, max_bytes=max_bytes)]
    for found in gone:
        corpora.remove(f"{found}/{manifest}")
        corpora.remove(found)
        log.info("%s is removed from %s: no job has used it for long", found, root)
    return gone


def removable(
    entries: Iterable[CacheEntry], *, keep_s: float | None, max_bytes: float | None
) -> Iterator[CacheEntry]:
    """Yield the entries not used for `keep_s`, then the least recently used until the rest is within
    `max_bytes`; None is no limit. One that a job may still read is left."""
    entries = sorted(entries, key=lambda entry: -entry.unused_s)
    total_bytes = sum(entry.size_bytes for entry in entries)
    for entry in entries:
        is_old = keep_s is not None and entry.unused_s > keep_s
        is_too_much = max_bytes is not None and total_bytes > max_bytes
        if not entry.may_be_in_use and (is_old or is_too_much):
            total_bytes -= entry.size_bytes
            yield entry


def _entries(cache: Path, *, now_s: float) -> Iterator[CacheEntry]:
    places = ((cache / "encoded", "*.arrow"), (cache / "encoded", "corpus-*"), (cache / "inputs", "[!.]*"))
    for path in (path for folder, pattern in places for path in folder.glob(pattern)):
        in_use_s = FOLDER_IN_USE_S if path.is_dir() else TABLE_IN_USE_S
        try:
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            size_bytes = sum(file.stat().st_size for file in files)
            unused_s = now_s - path.stat().st_mtime
        except FileNotFoundError:  # the race: another driver removes it
            continue
        yield CacheEntry(
            path=path, size_bytes=size_bytes, unused_s=unused_s, may_be_in_use=unused_s < in_use_s
        )
