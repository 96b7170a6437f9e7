"""Fetch one file over HTTP: continued where it broke off, checked, and only then moved into place.

Knows addresses, bytes and checksums; which files there are and where they belong, the rooms above know.
"""

import errno
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from bertjobs.errors import DownloadError, StorageError

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and, where the server says it, the bytes of the whole file."""

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """What a file must hash to."""

    algorithm: str
    """As `hashlib` calls it."""
    digest: str

    def of(self, path: Path) -> str:
        """Return what the file hashes to."""
        with path.open("rb") as f:
            return hashlib.file_digest(f, self.algorithm).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file at its address."""

    url: str
    checksum: Checksum | None = None
    """None where the publisher gives none: then only the length is checked."""
    otherwise: str
    """Completes "Try again, or ..." in an error: what to put where without a network, which flag."""


def fetch_file(remote: Remote, target: Path, *, progress: Progress | None = None) -> Path:
    """Return `target`, downloaded unless the right file is there; what an earlier try left is continued.

    Raises: DownloadError: no network, no such file, cut short, or not the published file.
        StorageError: the place cannot be written, or is full.
    """
    with _disk_errors(target):
        if target.is_file():
            if _is_right(target, remote.checksum):
                return target
            log.warning("%s is not the published file: it is downloaded anew.", target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        _receive(remote, part, progress)
        _check(part, remote)
        return part.replace(target)


def exists(remote: Remote) -> bool:
    """Return whether the server has this file. Raises: DownloadError: it cannot be asked, or refuses."""
    with _network_errors(remote):
        try:
            _open(urllib.request.Request(remote.url, method="HEAD")).close()
        except urllib.error.HTTPError as e:
            if e.code == HTTPStatus.NOT_FOUND:
                return False
            raise
    return True


def _receive(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Append to `part` what is missing of the file."""
    have = part.stat().st_size if part.exists() else 0
    response = _ask(remote, have=have)
    if response is None:  # nothing lies beyond what is there: it is whole, or is another file
        if remote.checksum is None or not _is_right(part, remote.checksum):
            part.unlink()
            _receive(remote, part, progress)
        return
    is_rest = response.status == HTTPStatus.PARTIAL_CONTENT
    have = have if is_rest else 0
    total = None if response.length is None else have + response.length
    with response, part.open("ab" if is_rest else "wb") as f:
        for chunk in _chunks(response, remote):
            f.write(chunk)
            have += len(chunk)
            if progress is not None:
                progress(have, total)
        f.flush()
        os.fsync(f.fileno())
    if total is not None and have < total:
        with _network_errors(remote):
            raise ConnectionError(f"the connection broke off after {have} of {total} bytes")


def _ask(remote: Remote, *, have: int) -> http.client.HTTPResponse | None:
    """Ask for the file, or its rest; None says that there is no rest."""
    with _network_errors(remote):
        request = urllib.request.Request(remote.url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            return _open(request)
        except urllib.error.HTTPError as e:
            if e.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return None
            raise


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as e:
        e.close()  # it is an open answer as well as an error
        raise
    return response


def _chunks(response: http.client.HTTPResponse, remote: Remote) -> Iterator[bytes]:
    with _network_errors(remote):
        while chunk := response.read(_CHUNK_BYTES):
            yield chunk


def _is_right(path: Path, checksum: Checksum | None) -> bool:
    return checksum is None or checksum.of(path) == checksum.digest


def _check(part: Path, remote: Remote) -> None:
    if remote.checksum is None:
        return
    found = remote.checksum.of(part)
    if found != remote.checksum.digest:
        part.unlink()  # continuing it would never end well
        raise DownloadError(
            f"{remote.url} is not the published file: its {remote.checksum.algorithm} is {found}, "
            f"not {remote.checksum.digest}.",
            hint=f"Try again, or {remote.otherwise}.",
        )


@contextmanager
def _network_errors(remote: Remote) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as e:  # ValueError: the address is none
        raise DownloadError(
            f"{remote.url} cannot be downloaded: {_reason(e)}.",
            hint=f"Try again (what is there is continued), or {remote.otherwise}.",
        ) from e


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Tell the disk's errors from the network's: both are `OSError`, the network's are ours by now."""
    try:
        yield
    except OSError as e:
        remedy = "Free room there" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "Make it writable"
        raise StorageError(
            f"{target} cannot be written: {e.strerror or e}.",
            hint=f"{remedy}, or set BERTJOBS_CACHE to another place.",
        ) from e


def _reason(e: Exception) -> str:
    if isinstance(e, urllib.error.HTTPError):
        return f"the server says {e.code} {e.reason}"
    return str(e.reason) if isinstance(e, urllib.error.URLError) else str(e) or type(e).__name__
