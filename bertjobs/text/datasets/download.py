"""The published data sets: their addresses, their checksums, and how they are downloaded and unpacked."""

import os
import shutil
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bertjobs.errors import StorageError
from bertjobs.fetch import Checksum, DownloadProgress, Remote, fetch_file
from bertjobs.text.corpus.files import PUBLISHED_CORPORA, SPLITS, member_name
from bertjobs.text.datasets.splits import downloads_dir
from bertjobs.text.source_file import open_archive


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published data set."""

    url: str
    checksum: Checksum


PUBLISHED = {
    # The authors publish no checksums. SNLI's is that of ParlAI and NLIDatasets.jl; CoLA's, an MD5, is
    # that of torchtext. Both archives have not changed for years.
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
    # GLUE's archives, at the addresses of its download script; the checksums are those of Hugging Face's
    # `glue` data set and of others. MRPC has no archive.
    **{
        task: Published(
            url=f"https://dl.fbaipublicfiles.com/glue/data/{name}",
            checksum=Checksum(algorithm="sha256", digest=digest),
        )
        for task, name, digest in (
            ("sst2", "SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
            ("qqp", "QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
            ("stsb", "STS-B.zip", "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
            ("mnli", "MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
            ("qnli", "QNLIv2.zip", "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
            ("rte", "RTE.zip", "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
            ("wnli", "WNLI.zip", "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46"),
        )
    },
    # The first address, research.metamind.io on S3, answers 403 by now; WikiText's author serves the same
    # archives. The checksums are those of CorpusLoaders.jl and others, for the files of both addresses.
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


_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
PUBLISHED_FILES: dict[str, tuple[Published, ...]] = {
    # Not archives but files beside each other. The checksums are those of ParlAI and of `datasets`.
    name: tuple(
        Published(url=f"{_SQUAD}/{file}", checksum=Checksum(algorithm="sha256", digest=digest))
        for file, digest in digests.items()
    )
    for name, digests in {
        "squad": {
            "train-v1.1.json": "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
            "dev-v1.1.json": "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
        },
        "squad_v2": {
            "train-v2.0.json": "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
            "dev-v2.0.json": "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
        },
    }.items()
}


def get(
    name: str, *, cache: Path, base_url: str | None = None, progress: DownloadProgress | None = None
) -> Path:
    """Return the archive of a task, or the folder of its files or of a corpus, downloaded unless it is there.

    `base_url` is a mirror with a file of the same name; the checksum is verified all the same. A corpus is
    unpacked, because its spans are read by seeking.

    Raises: DownloadError: no network, interrupted, or not the published file; says what to put where.
        StorageError: the cache cannot be written.
    """
    if name in PUBLISHED_FILES:
        folder = downloads_dir(cache) / name
        for published in PUBLISHED_FILES[name]:
            file_name = published.url.rpartition("/")[2]
            fetch_file(
                _remote(published, folder / file_name, base_url), folder / file_name, progress=progress
            )
        return folder
    published = PUBLISHED[name]
    file_name = published.url.rpartition("/")[2]
    target = downloads_dir(cache) / file_name
    folder = downloads_dir(cache) / name
    if name in PUBLISHED_CORPORA and folder.is_dir():
        return folder
    archive = fetch_file(_remote(published, target, base_url), target, progress=progress)
    return _unpacked(archive, folder) if name in PUBLISHED_CORPORA else archive


def _remote(published: Published, target: Path, base_url: str | None) -> Remote:
    return Remote(
        url=published.url if base_url is None else f"{base_url.rstrip('/')}/{target.name}",
        checksum=published.checksum,
        otherwise=f"put the file at {target} yourself, or give its folder or zip with --data",
    )


def _unpacked(archive: Path, folder: Path) -> Path:
    """Unpack the files of a corpus into a folder, which appears when it is complete."""
    with open_archive(archive) as opened:  # which refuses members with a path outside of the archive
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
            f"{folder} cannot be written: {e.strerror or e}",
            hint="Free room there, or set BERTJOBS_CACHE to another place.",
        ) from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
