"""Input files that `submit` has sent into the storage of jobs: which uploads are whole, which may be removed.

    inputs/<content key>/<name>                 the file or folder
    inputs/<content key>/.bertjobs-upload.json  size and SHA-256 of each file; written last

An upload without that list was interrupted, or is of a version before it. Knows no configuration of a job.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import StorageError
from bertjobs.storage import JobDir, sha256_of

logger = logging.getLogger(__name__)

INPUTS = "inputs"
"""The folder of the storage that contains them."""
MANIFEST = ".bertjobs-upload.json"
_KEY = re.compile(rf"/{INPUTS}/([0-9a-f]{{32}})/")
INTERRUPTED_AFTER_S = 24 * 3600.0
"""Age from which an upload without a manifest is no longer under way: a limit for the slowest one."""


def uploads_of(storage: str) -> JobDir:
    """Return the folder of the uploads, which all users write to."""
    return JobDir(storage, INPUTS, is_shared=True)


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the list of the files that a complete upload has."""
    files = {
        str(path.relative_to(folder)): {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {"files": files}


def is_whole(uploads: JobDir, key: str) -> bool:
    """Return whether an upload need not be sent again. Raises: StorageError: it cannot be determined."""
    if uploads.is_remote:
        return uploads.exists(f"{key}/{MANIFEST}")
    folder = Path(uploads.path_of(key))
    if not (folder / MANIFEST).exists():
        return folder.exists()  # of an earlier version, which moved the whole folder into place
    try:
        check_upload(folder, where=str(folder), reads_content=False)
    except StorageError as e:
        logger.warning("%s", e.message)
        return False
    return True


def check_upload(folder: Path, *, where: str, reads_content: bool) -> None:
    """Compare the local copy of an upload, or the upload where it is a local folder, with its list.

    reads_content: compare checksums as well as sizes.

    Raises: StorageError: no list, a missing file, or another size or checksum.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError as e:
        raise _damaged(where, "the upload was interrupted") from e
    except (ValueError, KeyError, TypeError) as e:
        raise _damaged(where, f"its list of files, {MANIFEST}, cannot be read") from e
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(where, f"{name} is missing")
        found_bytes, expected_bytes = path.stat().st_size, expected["size_bytes"]
        if found_bytes != expected_bytes:
            raise _damaged(where, f"{name} has {found_bytes} bytes of {expected_bytes}")
        if reads_content and sha256_of(path) != expected["sha256"]:
            raise _damaged(where, f"{name} has another SHA-256 than the file that was sent")


def _damaged(where: str, cause: str) -> StorageError:
    return StorageError(
        f"{where} is not whole: {cause}",
        hint="Submit the job again from the machine that has the files: what is not whole is sent again.",
    )


def note_use(uploads: JobDir, key: str) -> None:
    """Renew the age of an upload, which another job is submitted with. Raises: StorageError."""
    name = f"{key}/{MANIFEST}"
    if uploads.exists(name):
        uploads.write_bytes(name, uploads.read_bytes(name))


def clean_uploads(
    storage: str, *, used: Callable[[], Collection[str]], keep_s: float | None, max_bytes: float | None
) -> list[str]:
    """Remove the uploads that `removable` names from a storage. Returns their keys.

    `used` is asked only where there is something to remove. Raises: StorageError, RedisDown.
    """
    uploads = uploads_of(storage)
    found = list_uploads(uploads, now_s=time.time())
    limits: Any = {"keep_s": keep_s, "max_bytes": max_bytes}
    if not any(removable(found, used=(), **limits)):
        return []
    gone = [upload.key for upload in removable(found, used=used(), **limits)]
    for key in gone:
        uploads.remove(f"{key}/{MANIFEST}")  # first: what is left of it if we are killed is not whole
        uploads.remove(key)
    return gone


def keys_in(config: str) -> set[str]:
    """Return the keys of the uploads that the text of a configuration names."""
    return set(_KEY.findall(config))


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One folder of `inputs/`."""

    key: str
    is_complete: bool
    age_s: float
    """Since it was written, or since a job was last submitted with it."""
    size_bytes: int


def list_uploads(uploads: JobDir, *, now_s: float) -> list[Upload]:
    """Return the uploads in a storage, unsorted. Raises: StorageError."""
    found = []
    for key in uploads.list(""):
        files = uploads.list_files(key)
        newest_s = max((file.modified_at_s for file in files), default=now_s)
        found.append(
            Upload(
                key=key,
                is_complete=any(file.name == MANIFEST for file in files),
                age_s=now_s - newest_s,
                size_bytes=sum(file.size_bytes for file in files),
            )
        )
    return found


def removable(
    found: Collection[Upload], *, used: Collection[str], keep_s: float | None, max_bytes: float | None
) -> Iterator[Upload]:
    """Yield the uploads to remove: interrupted ones, those not used for `keep_s`, and of the others the
    oldest, until the rest is within `max_bytes`. None is no limit.

    `used` are the keys of jobs that have not ended; they are never removed.
    """
    rest = []
    for upload in sorted(found, key=lambda upload: -upload.age_s):
        limit_s = keep_s if upload.is_complete else INTERRUPTED_AFTER_S
        if upload.key in used:
            continue
        if limit_s is not None and upload.age_s > limit_s:
            yield upload
        elif upload.is_complete:
            rest.append(upload)
    if max_bytes is None:
        return
    total_bytes = sum(upload.size_bytes for upload in rest) + sum(
        u.size_bytes for u in found if u.key in used
    )
    for upload in rest:
        if total_bytes <= max_bytes:
            return
        total_bytes -= upload.size_bytes
        yield upload
