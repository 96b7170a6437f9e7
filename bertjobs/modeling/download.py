"""Fetch one file over HTTP into a cache: resumed where it broke off, checked, and then moved into place."""

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bertjobs.errors import DownloadError

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and, where the server says it, the bytes of the whole file."""

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


def fetch_file(
    url: str, target: Path, *, remedy: str, sha1: str | None = None, progress: Progress | None = None
) -> Path:
    """Download to `target` unless it is there already; a file that broke off is continued.

    Raises: DownloadError: no network, no such file, cut short, or another checksum; says the remedy.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        num_bytes = _receive(url, part, progress=progress)
    except (OSError, http.client.HTTPException) as e:
        raise DownloadError(f"{url} cannot be downloaded: {_reason(e)}.", hint=remedy) from e
    if num_bytes is not None and part.stat().st_size != num_bytes:
        have = part.stat().st_size
        raise DownloadError(
            f"{url} broke off after {have} of {num_bytes} bytes.", hint="Try again: it goes on there."
        )
    _check(part, sha1=sha1, url=url)
    part.replace(target)
    return target


def exists(url: str, *, remedy: str) -> bool:
    """Return whether the server has this file. Raises: DownloadError: it cannot be asked, or refuses."""
    try:
        with _open(urllib.request.Request(url, method="HEAD")):
            return True
    except urllib.error.HTTPError as e:
        if e.code == 404:
            return False
        raise DownloadError(f"{url} cannot be downloaded: {_reason(e)}.", hint=remedy) from e
    except (OSError, http.client.HTTPException) as e:
        raise DownloadError(f"{url} cannot be downloaded: {_reason(e)}.", hint=remedy) from e


def _receive(url: str, part: Path, *, progress: Progress | None) -> int | None:
    """Append what is missing to the part; return the size of the whole file where the server says it."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = _open(request)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:  # nothing lies beyond what is there: it is whole, or is another file
            part.unlink()
            return _receive(url, part, progress=progress)
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as f:
        have = have if response.status == 206 else 0
        length = response.headers["Content-Length"]
        total = have + int(length) if length is not None else None
        while chunk := response.read(_CHUNK_BYTES):
            f.write(chunk)
            have += len(chunk)
            if progress is not None:
                progress(have, total)
        f.flush()
        os.fsync(f.fileno())
    return total


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as e:
        e.close()  # it is an open answer as well as an error
        raise


def _check(part: Path, *, sha1: str | None, url: str) -> None:
    if sha1 is None:
        return
    with part.open("rb") as f:
        found = hashlib.file_digest(f, "sha1").hexdigest()
    if found != sha1:
        part.unlink()  # continuing it would never end well
        raise DownloadError(
            f"{url} is not the published file: its sha1 is {found}, not {sha1}.",
            hint="Try again, or give --model a copy that you have.",
        )


def _reason(e: Exception) -> str:
    if isinstance(e, urllib.error.HTTPError):
        return f"the server says {e.code} {e.reason}"
    if isinstance(e, urllib.error.URLError):
        return str(e.reason)
    return str(e) or type(e).__name__
