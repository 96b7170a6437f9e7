"""Download one file over HTTP: resumed where it was interrupted, verified, and only then moved into place.

Knows addresses, bytes and checksums, but not which files there are and where they belong.
"""

import errno
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from bertjobs.errors import DownloadError, StorageError, os_error_may_pass

log = logging.getLogger(__name__)

DownloadProgress = Callable[[int, int | None], None]
"""Called with the number of bytes that are there and, if the server gives it, that of the whole file."""

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


def digest_of(path: Path, algorithm: str) -> str:
    """Return the digest of a file's content in hex; `algorithm` is a name of `hashlib`."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """The published checksum of a file."""

    algorithm: str
    """A name of `hashlib`."""
    digest: str

    def of(self, path: Path) -> str:
        """Return the checksum of a file by the same algorithm."""
        return digest_of(path, self.algorithm)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file at its address."""

    url: str
    checksum: Checksum | None = None
    """None where the publisher gives none: then only the length is checked."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with the request, but not to where the server redirects: they may carry a token."""
    otherwise: str
    """Completes "Try again, or ..." in an error: what to do without a network."""


def fetch_file(remote: Remote, target: Path, *, progress: DownloadProgress | None = None) -> Path:
    """Return `target`, downloaded unless it is there; a download that was interrupted is resumed.

    Raises: DownloadError: no network, no such file, interrupted, or not the published file.
        StorageError: the folder cannot be written, or the disk is full.
    """
    with _disk_errors(target):
        if target.is_file():
            if _is_right(target, remote.checksum):
                return target
            log.warning("%s does not have the published checksum, so it is downloaded again", target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        _receive(remote, part, progress)
        _check(part, remote)
        return part.replace(target)


def _receive(remote: Remote, part: Path, progress: DownloadProgress | None) -> None:
    """Append to `part` the bytes that it lacks."""
    have = part.stat().st_size if part.exists() else 0
    response = _ask(remote, have=have)
    if response is None:  # the server has no more bytes: the part is complete, or is of another file
        if remote.checksum is None or not _is_right(part, remote.checksum):
            part.unlink()
            _receive(remote, part, progress)
        return
    # A server without ranges answers 200 with the whole file: then the part is written anew.
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
            raise ConnectionError(f"the connection was closed after {have} of {total} bytes")


def _ask(remote: Remote, *, have: int) -> http.client.HTTPResponse | None:
    """Request the file, or its rest from byte `have` on; return None if there is no rest."""
    with _network_errors(remote):
        request = urllib.request.Request(remote.url, headers={"Range": f"bytes={have}-"} if have else {})
        for name, value in remote.headers.items():
            request.add_unredirected_header(name, value)
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
            return response
        except urllib.error.HTTPError as e:
            e.close()  # it is an open response as well as an error
            if e.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return None
            raise


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
        part.unlink()  # resuming it could not succeed
        raise DownloadError(
            f"{remote.url} is not the published file: its {remote.checksum.algorithm} is {found}, "
            f"not {remote.checksum.digest}",
            hint=f"Try again, or {remote.otherwise}.",
        )


@contextmanager
def _network_errors(remote: Remote) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as e:  # ValueError: not an address
        may_pass = not _is_refused(e)
        advice = "Try again (the download resumes)" if may_pass else "Check the address and your access to it"
        raise DownloadError(
            f"{remote.url} cannot be downloaded: {_reason(e)}",
            hint=f"{advice}, or {remote.otherwise}.",
            may_pass=may_pass,
        ) from e


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Report errors of the disk; those of the network, `OSError` as well, are `DownloadError` by now."""
    try:
        yield
    except OSError as e:
        remedy = "Free room there" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "Make it writable"
        raise StorageError(
            f"{target} cannot be written: {e.strerror or e}",
            hint=f"{remedy}, or set BERTJOBS_CACHE to another place.",
            may_pass=os_error_may_pass(e.errno or 0),
        ) from e


_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def _is_refused(e: Exception) -> bool:
    """Return whether the server answered that the request itself is wrong: it would answer so again."""
    return isinstance(e, urllib.error.HTTPError) and 400 <= e.code < 500 and e.code not in _PASSING


def _reason(e: Exception) -> str:
    if isinstance(e, urllib.error.HTTPError):
        return f"the server answered {e.code} {e.reason}"
    return str(e.reason) if isinstance(e, urllib.error.URLError) else str(e) or type(e).__name__
