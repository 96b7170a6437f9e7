"""The published data sets: where they are, what they hash to, and what to do without them."""

from dataclasses import dataclass
from pathlib import Path

from bertjobs.fetch import Checksum, Progress, Remote, fetch_file
from bertjobs.text.locate import DOWNLOADS, downloads_dir


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set at its official address."""

    url: str
    checksum: Checksum


PUBLISHED = {
    # The authors publish no checksums. SNLI's is the one that ParlAI and NLIDatasets.jl hold downloads
    # against; CoLA's, an MD5, is torchtext's. Both archives have not changed for years.
    "snli": Published(
        url="https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
        checksum=Checksum(
            algorithm="sha256", digest="afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e"
        ),
    ),
    "cola": Published(
        url="https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",
        checksum=Checksum(algorithm="md5", digest="9f6d88c3558ec424cd9d66ea03589aba"),
    ),
}


def get(name: str, *, cache: Path, base_url: str | None = None, progress: Progress | None = None) -> Path:
    """Return the archive of `snli` or `cola`, downloaded unless it is in the cache already.

    `base_url` is a mirror that has the file under the same name; the checksum holds for it too.

    Raises: DownloadError: no network, cut short, or not the published file; says what to put where.
        StorageError: the cache cannot be written.
    """
    published = PUBLISHED[name]
    file_name = published.url.rpartition("/")[2]
    target = downloads_dir(cache) / DOWNLOADS[name]
    remote = Remote(
        url=published.url if base_url is None else f"{base_url.rstrip('/')}/{file_name}",
        checksum=published.checksum,
        otherwise=f"put the file at {target} yourself, or give its folder or zip with --data",
    )
    return fetch_file(remote, target, progress=progress)
