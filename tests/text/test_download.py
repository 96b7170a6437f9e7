"""The published data sets: named by checksum, fetched from a mirror, and what to do without a network."""

import hashlib
from pathlib import Path

import pytest

from bertjobs.errors import DownloadError
from bertjobs.fetch import Checksum
from bertjobs.text import download
from bertjobs.text.download import PUBLISHED, Published, get
from file_server import FileServer

CONTENT = b"as good as any archive"


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    with FileServer() as gone:
        url = gone.url  # nobody listens there once it is closed
    with pytest.raises(DownloadError) as e:
        get("snli", cache=tmp_path, base_url=url)
    assert str(e.value) == (
        f"{url}/snli_1.0.zip cannot be downloaded: [Errno 111] Connection refused. Try again (what is there "
        f"is continued), or put the file at {tmp_path}/downloads/snli_1.0.zip yourself, "
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
    assert set(PUBLISHED) == {"snli", "cola"}
    for published in PUBLISHED.values():
        assert published.url.startswith("https://")
        checksum = published.checksum
        assert len(checksum.digest) == hashlib.new(checksum.algorithm).digest_size * 2
