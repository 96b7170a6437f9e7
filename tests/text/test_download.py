"""Downloads against a real server on this machine: whole, resumed, cut short, forged, absent."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bertjobs.errors import DownloadError, StorageError
from bertjobs.text import download
from bertjobs.text.download import PUBLISHED, Published, fetch, get

CONTENT = bytes(range(256)) * 9000


class Server(ThreadingHTTPServer):
    """Serves CONTENT, as well or badly as a test says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges_asked: list[str | None] = []
        self.num_bytes_sent = len(CONTENT)
        """Bytes of an answer after which the connection breaks off."""
        self.knows_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges_asked.append(asked)
        if not self.path.endswith(".zip"):
            self.send_error(404)
            return
        start = 0
        if asked and self.server.knows_ranges:
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            assert found
            start = int(found[1])
            if start >= len(CONTENT):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + self.server.num_bytes_sent])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def published(server: Server) -> Published:
    return Published(
        url=f"{server.url}/snli_1.0.zip", algorithm="sha256", digest=hashlib.sha256(CONTENT).hexdigest()
    )


def test_a_file_is_fetched_with_progress_and_only_once(
    server: Server, published: Published, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "snli_1.0.zip"
    assert fetch(published, target, progress=lambda have, total: seen.append((have, total))) == target
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)
    assert fetch(published, target) == target
    assert len(server.ranges_asked) == 1
    assert list(target.parent.iterdir()) == [target]


def test_a_download_that_broke_off_goes_on_where_it_was(
    server: Server, published: Published, tmp_path: Path
) -> None:
    target = tmp_path / "snli_1.0.zip"
    server.num_bytes_sent = 1_000_000
    with pytest.raises(DownloadError) as e:
        fetch(published, target)
    assert str(e.value) == (
        f"{published.url} cannot be downloaded: the connection broke off after 1000000 of {len(CONTENT)} "
        f"bytes. Try again (what is there is continued), or put the file at {target} yourself, "
        "or give its folder or zip with --data."
    )
    assert not target.exists()
    server.num_bytes_sent = len(CONTENT)
    fetch(published, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=1000000-"]


def test_a_server_without_ranges_starts_again(server: Server, published: Published, tmp_path: Path) -> None:
    target = tmp_path / "snli_1.0.zip"
    target.with_name("snli_1.0.zip.part").write_bytes(CONTENT[:500])
    server.knows_ranges = False
    fetch(published, target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_is_moved_into_place(
    server: Server, published: Published, tmp_path: Path
) -> None:
    target = tmp_path / "snli_1.0.zip"
    target.with_name("snli_1.0.zip.part").write_bytes(CONTENT)
    fetch(published, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={len(CONTENT)}-"]


def test_another_content_is_refused_and_forgotten(
    server: Server, published: Published, tmp_path: Path
) -> None:
    target = tmp_path / "snli_1.0.zip"
    target.with_name("snli_1.0.zip.part").write_bytes(b"forged")
    with pytest.raises(DownloadError) as e:
        fetch(published, target)
    found = hashlib.sha256(b"forged" + CONTENT[6:]).hexdigest()
    assert str(e.value) == (
        f"{published.url} is not the published file: its sha256 is {found}, not {published.digest}. "
        "Try again, or give the folder or zip that you have with --data."
    )
    assert list(tmp_path.iterdir()) == []
    fetch(published, target)
    assert target.read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_fetched_anew(
    server: Server, published: Published, tmp_path: Path
) -> None:
    target = tmp_path / "snli_1.0.zip"
    target.write_bytes(CONTENT[:-1])
    fetch(published, target)
    assert target.read_bytes() == CONTENT


def test_an_absent_file_says_what_the_server_says(server: Server, tmp_path: Path) -> None:
    absent = Published(url=f"{server.url}/none", algorithm="sha256", digest="0")
    with pytest.raises(DownloadError) as e:
        fetch(absent, tmp_path / "x.zip")
    assert str(e.value).startswith(
        f"{server.url}/none cannot be downloaded: the server says 404 Not Found. Try again"
    )


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url  # nobody listens there once it is closed
    with pytest.raises(DownloadError) as e:
        get("snli", cache=tmp_path, base_url=url)
    assert f"{url}/snli_1.0.zip cannot be downloaded: [Errno 111] Connection refused." in str(e.value)
    assert f"put the file at {tmp_path}/downloads/snli_1.0.zip yourself" in str(e.value)


@pytest.mark.parametrize("url", ["not an address", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        get("cola", cache=tmp_path, base_url=url)


def test_a_mirror_must_have_the_published_content(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="is not the published file: its md5 is "):
        get("cola", cache=tmp_path, base_url=f"{server.url}/mirror/")
    own = Published(url=PUBLISHED["cola"].url, algorithm="md5", digest=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(download.PUBLISHED, "cola", own)
    path = get("cola", cache=tmp_path, base_url=f"{server.url}/mirror/")
    assert path == tmp_path / "downloads" / "cola_public_1.1.zip"
    assert path.read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_says_so(published: Published, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as e:
        fetch(published, tmp_path / "file" / "x.zip")
    assert str(e.value).endswith("or set BERTJOBS_CACHE to another place.")


def test_what_is_published_is_named_by_https_and_a_checksum() -> None:
    assert set(PUBLISHED) == {"snli", "cola"}
    for published in PUBLISHED.values():
        assert published.url.startswith("https://")
        assert len(published.digest) == hashlib.new(published.algorithm).digest_size * 2
