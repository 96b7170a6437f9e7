"""The published data sets: where they are, what they hash to, and what to do without them."""

import os
import shutil
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bertjobs.errors import StorageError
from bertjobs.fetch import Checksum, Progress, Remote, fetch_file
from bertjobs.text.corpus.files import PUBLISHED_CORPORA, SPLITS, member_name
from bertjobs.text.datasets.splits import downloads_dir
from bertjobs.text.source_file import open_archive


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
    # The first address, research.metamind.io on S3, answers 403 by now; WikiText's author keeps the same
    # archives. The digests are those by which CorpusLoaders.jl and others know the files of both places.
    "wikitext-2": Published(
        url="https://wikitext.smerity.com/wikitext-2-v1.zip",
        checksum=Checksum(
            algorithm="sha256", digest="92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"
        ),
    ),
    "wikitext-103": Published(
        url="https://wikitext.smerity.com/wikitext-103-v1.zip",
        checksum=Checksum(
            algorithm="sha256", digest="242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"
        ),
    ),
}


def get(name: str, *, cache: Path, base_url: str | None = None, progress: Progress | None = None) -> Path:
    """Return the archive of a task, or the folder of a corpus, downloaded unless it is in the cache already.

    `base_url` is a mirror that has the file under the same name; the checksum holds for it too. A corpus is
    unpacked, because its spans are read by seeking.

    Raises: DownloadError: no network, cut short, or not the published file; says what to put where.
        StorageError: the cache cannot be written.
    """
    published = PUBLISHED[name]
    file_name = published.url.rpartition("/")[2]
    target = downloads_dir(cache) / file_name
    folder = downloads_dir(cache) / name
    if name in PUBLISHED_CORPORA and folder.is_dir():
        return folder
    remote = Remote(
        url=published.url if base_url is None else f"{base_url.rstrip('/')}/{file_name}",
        checksum=published.checksum,
        otherwise=f"put the file at {target} yourself, or give its folder or zip with --data",
    )
    archive = fetch_file(remote, target, progress=progress)
    return _unpacked(archive, folder) if name in PUBLISHED_CORPORA else archive


def _unpacked(archive: Path, folder: Path) -> Path:
    """Unpack a corpus's files into a folder that appears when all are there."""
    with open_archive(archive) as opened:  # it refuses members that point elsewhere
        members = {PurePosixPath(name).name: name for name in opened.namelist()}
    scratch = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        scratch.mkdir()
        with zipfile.ZipFile(archive) as opened:
            for name in map(member_name, SPLITS):
                with opened.open(members[name]) as stream, (scratch / name).open("wb") as f:
                    shutil.copyfileobj(stream, f, 1 << 20)
                    os.fsync(f.fileno())
        if not folder.is_dir():  # else another process was faster
            scratch.replace(folder)
    except OSError as e:
        raise StorageError(
            f"{folder} cannot be written: {e.strerror or e}.",
            hint="Free room there, or set BERTJOBS_CACHE to another place.",
        ) from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
