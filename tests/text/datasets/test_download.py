"""The published data sets: named by checksum, fetched from a mirror, and what to do without a network."""

import hashlib
import io
import zipfile
from itertools import chain
from pathlib import Path

import pytest

from bertjobs.errors import DataError, DownloadError
from bertjobs.fetch import Checksum
from bertjobs.text.corpus.files import find_files
from bertjobs.text.datasets import download
from bertjobs.text.datasets.download import PUBLISHED, PUBLISHED_FILES, Published, get
from bertjobs.text.datasets.splits import find_split
from bertjobs.text.datasets.squad import SQUAD
from file_server import FileServer

CONTENT = b"as good as any archive"


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    with FileServer() as gone:
        url = gone.url  # nobody listens there once it is closed
    with pytest.raises(DownloadError) as e:
        get("snli", cache=tmp_path, base_url=url)
    assert str(e.value) == (
        f"{url}/snli_1.0.zip cannot be downloaded: [Errno 111] Connection refused. Try again (the download "
        f"resumes), or put the file at {tmp_path}/downloads/snli_1.0.zip yourself, "
        "or give its folder or zip with --data."
    )


@pytest.mark.parametrize("url", ["not an address", "http://127.0.0.1:99999"])
def test_a_mirror_that_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        get("cola", cache=tmp_path, base_url=url)


def test_a_mirror_must_have_the_published_content(
    file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_server.files["/mirror/cola_public_1.1.zip"] = CONTENT
    with pytest.raises(DownloadError, match="is not the published file: its md5 is ") as e:
        get("cola", cache=tmp_path, base_url=f"{file_server.url}/mirror/")
    assert str(e.value).endswith("or give its folder or zip with --data.")
    checksum = Checksum(algorithm="md5", digest=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(download.PUBLISHED, "cola", Published(url=PUBLISHED["cola"].url, checksum=checksum))
    path = get("cola", cache=tmp_path, base_url=f"{file_server.url}/mirror/")
    assert path == tmp_path / "downloads" / "cola_public_1.1.zip"
    assert path.read_bytes() == CONTENT


def test_what_is_published_is_named_by_https_and_a_checksum() -> None:
    glue = {"sst2", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"}  # of MRPC there is no archive
    assert set(PUBLISHED) == {"snli", "cola", "wikitext-2", "wikitext-103", *glue}
    assert set(PUBLISHED_FILES) == {"squad", "squad_v2"}
    for published in (*PUBLISHED.values(), *chain(*PUBLISHED_FILES.values())):
        assert published.url.startswith("https://")
        checksum = published.checksum
        assert len(checksum.digest) == hashlib.new(checksum.algorithm).digest_size * 2


def test_files_beside_each_other_are_downloaded_into_a_folder_that_the_task_is_read_from(
    file_server: FileServer, tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = []
    for official in PUBLISHED_FILES["squad"]:
        name = official.url.rpartition("/")[2]
        content = (sample / "squad" / name).read_bytes()
        file_server.files[f"/mirror/{name}"] = content
        checksum = Checksum(algorithm="sha256", digest=hashlib.sha256(content).hexdigest())
        published.append(Published(url=official.url, checksum=checksum))
    with pytest.raises(DownloadError, match=r"train-v1\.1\.json is not the published file: its sha256 is "):
        get("squad", cache=tmp_path / "strict", base_url=f"{file_server.url}/mirror/")
    monkeypatch.setitem(download.PUBLISHED_FILES, "squad", tuple(published))
    folder = get("squad", cache=tmp_path, base_url=f"{file_server.url}/mirror/")
    assert {path.name for path in folder.iterdir()} == {"train-v1.1.json", "dev-v1.1.json"}
    assert find_split(SQUAD, None, split="dev", cache=tmp_path).path == folder / "dev-v1.1.json"


def archive_of(names: tuple[str, ...]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, f"text of {name}")
    return content.getvalue()


def publish(
    content: bytes, server: FileServer, monkeypatch: pytest.MonkeyPatch, *, name: str = "wikitext-2"
) -> None:
    server.files[f"/{name}-v1.zip"] = content
    checksum = Checksum(algorithm="sha256", digest=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(download.PUBLISHED, name, Published(url=PUBLISHED[name].url, checksum=checksum))


def test_a_corpus_is_unpacked_and_found_then(
    file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"wikitext-2/wiki.{split}.tokens" for split in ("train", "valid", "test"))
    publish(archive_of((*names, "wikitext-2/more")), file_server, monkeypatch)
    folder = get("wikitext-2", cache=tmp_path, base_url=file_server.url)
    assert folder == tmp_path / "downloads" / "wikitext-2"
    assert sorted(path.name for path in folder.iterdir()) == sorted(name.rpartition("/")[2] for name in names)
    (found,) = find_files("wikitext-2", None, split="valid", cache=tmp_path)
    assert found.path.read_text() == "text of wikitext-2/wiki.valid.tokens"
    file_server.files.clear()
    assert get("wikitext-2", cache=tmp_path, base_url=file_server.url) == folder
    assert [path.name for path in (tmp_path / "downloads").iterdir() if path.name.startswith(".")] == []


def test_a_corpus_whose_archive_was_put_there_needs_no_network(
    file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive_of(tuple(f"wiki.{split}.tokens" for split in ("train", "valid", "test")))
    publish(content, file_server, monkeypatch)
    file_server.files.clear()
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "wikitext-2-v1.zip").write_bytes(content)
    assert (get("wikitext-2", cache=tmp_path, base_url=file_server.url) / "wiki.train.tokens").is_file()


def test_an_archive_with_members_that_point_elsewhere_is_refused(
    file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(archive_of(("../wiki.train.tokens",)), file_server, monkeypatch)
    with pytest.raises(DataError, match="points outside of the archive"):
        get("wikitext-2", cache=tmp_path, base_url=file_server.url)
    assert not (tmp_path / "downloads" / "wikitext-2").exists()
