"""Fetch a published data set into the cache: resumed where it broke off, checked, then moved into place."""

import errno
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import DownloadError, StorageError
from bertjobs.text.locate import DOWNLOADS, downloads_dir

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and, where the server says it, the bytes of the whole file."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file at its official address."""

    url: str
    algorithm: str
    """Of the checksum, as `hashlib` calls it."""
    digest: str


PUBLISHED = {
    # The authors publish no checksums. SNLI's is the one that ParlAI and NLIDatasets.jl hold downloads
    # against; CoLA's, an MD5, is torchtext's. Both archives have not changed for years.
    "snli": Published(
        url="https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
        algorithm="sha256",
        digest="afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
    ),
    "cola": Published(
        url="https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",
        algorithm="md5",
        digest="9f6d88c3558ec424cd9d66ea03589aba",
    ),
}

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


def get(name: str, *, cache: Path, base_url: str | None = None, progress: Progress | None = None) -> Path:
    """Return the archive of `snli` or `cola`, downloaded unless it is in the cache already.

    `base_url` is a mirror that has the file under the same name; the checksum holds for it too.

    Raises: DownloadError: no network, cut short, or not the published file; says what to put where.
        StorageError: the cache cannot be written.
    """
    published = PUBLISHED[name]
    if base_url is not None:
        file_name = published.url.rpartition("/")[2]
        published = Published(
            url=f"{base_url.rstrip('/')}/{file_name}", algorithm=published.algorithm, digest=published.digest
        )
    target = downloads_dir(cache) / DOWNLOADS[name]
    return fetch(published, target, progress=progress)


def fetch(published: Published, target: Path, *, progress: Progress | None = None) -> Path:
    """Download to `target` unless the right file is there; what an earlier try left is continued.

    Raises: DownloadError, StorageError: as `get`.
    """
    try:
        if target.is_file() and _digest(target, published.algorithm) == published.digest:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        _receive(published.url, part, progress)
        _check(part, published)
        return part.replace(target)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as e:
        raise DownloadError(
            f"{published.url} cannot be downloaded: {_reason(e)}.",
            hint=f"Try again (what is there is continued), or put the file at {target} yourself, "
            "or give its folder or zip with --data.",
        ) from e
    except OSError as e:
        remedy = "Free room there" if e.errno == errno.ENOSPC else "Make it writable"
        raise StorageError(
            f"{target} cannot be written: {e.strerror or e}.",
            hint=f"{remedy}, or set BERTJOBS_CACHE to another place.",
        ) from e


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what is missing of the file."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing lies beyond what is there: the checksum says whether it is whole
        raise
    with response:
        is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if is_rest else 0
        length = response.headers["Content-Length"]
        total = None if length is None else have + int(length)
        with part.open("ab" if is_rest else "wb") as f:
            while chunk := response.read(_CHUNK_BYTES):
                f.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke off after {have} of {total} bytes")


def _check(part: Path, published: Published) -> None:
    found = _digest(part, published.algorithm)
    if found != published.digest:
        part.unlink()  # continuing it would never end well
        raise DownloadError(
            f"{published.url} is not the published file: its {published.algorithm} is {found}, "
            f"not {published.digest}.",
            hint="Try again, or give the folder or zip that you have with --data.",
        )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


def _reason(e: Exception) -> str:
    if isinstance(e, urllib.error.HTTPError):
        return f"the server says {e.code} {e.reason}"
    return str(e.reason) if isinstance(e, urllib.error.URLError) else str(e) or type(e).__name__
