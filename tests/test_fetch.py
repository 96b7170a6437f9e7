"""Downloads from a server on this machine: whole, resumed, cut short, forged, absent; a full disk."""

import errno
import hashlib
import logging
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

from bertjobs.errors import DownloadError, StorageError
from bertjobs.fetch import Checksum, Remote, fetch_file
from file_server import FileServer

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHERWISE = "do something else"


@pytest.fixture
def server(file_server: FileServer) -> FileServer:
    file_server.files["/data.zip"] = CONTENT
    return file_server


@pytest.fixture
def remote(server: FileServer) -> Remote:
    checksum = Checksum(algorithm="sha256", digest=DIGEST)
    return Remote(url=f"{server.url}/data.zip", checksum=checksum, otherwise=OTHERWISE)


@pytest.fixture
def unchecked(remote: Remote) -> Remote:
    return Remote(url=remote.url, otherwise=OTHERWISE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data.zip"


@pytest.fixture
def leave(target: Path) -> Callable[[bytes], Path]:
    """Leave what an earlier try got: `leave(b"...")`."""

    def leave(content: bytes) -> Path:
        part = target.with_name("data.zip.part")
        part.parent.mkdir()
        part.write_bytes(content)
        return part

    return leave


def test_a_file_is_fetched_with_progress_and_only_once(
    server: FileServer, remote: Remote, target: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    assert fetch_file(remote, target, progress=lambda have, total: seen.append((have, total))) == target
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)
    assert fetch_file(remote, target) == target
    assert len(server.asked) == 1
    assert list(target.parent.iterdir()) == [target]


def test_a_file_without_a_checksum_is_fetched_only_once(
    server: FileServer, unchecked: Remote, target: Path
) -> None:
    for _ in range(2):
        assert fetch_file(unchecked, target).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_server_that_does_not_tell_the_length_is_read_to_its_end(
    server: FileServer, remote: Remote, target: Path
) -> None:
    server.tells_length = False
    seen: list[tuple[int, int | None]] = []
    fetch_file(remote, target, progress=lambda have, total: seen.append((have, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), None)


@pytest.mark.parametrize("is_checked", [True, False])
def test_an_interrupted_download_is_resumed(
    server: FileServer, remote: Remote, unchecked: Remote, target: Path, is_checked: bool
) -> None:
    wanted = remote if is_checked else unchecked
    server.hangs_up_after = 1_000_000
    with pytest.raises(DownloadError) as e:
        fetch_file(wanted, target)
    assert str(e.value) == (
        f"{remote.url} cannot be downloaded: the connection was closed after 1000000 of "
        f"{len(CONTENT)} bytes. Try again (the download resumes), or do something else."
    )
    assert not target.exists()
    server.hangs_up_after = None
    fetch_file(wanted, target)
    assert target.read_bytes() == CONTENT
    assert [asked for _, _, asked in server.asked] == [None, "bytes=1000000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(
    server: FileServer, remote: Remote, target: Path, leave: Callable[[bytes], Path]
) -> None:
    leave(CONTENT[:500])
    server.knows_ranges = False
    seen: list[int] = []
    fetch_file(remote, target, progress=lambda have, total: seen.append(have))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)


def test_a_complete_part_is_moved_into_place(
    server: FileServer, remote: Remote, target: Path, leave: Callable[[bytes], Path]
) -> None:
    leave(CONTENT)
    fetch_file(remote, target)
    assert target.read_bytes() == CONTENT
    assert [asked for _, _, asked in server.asked] == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_part_as_long_as_the_file_but_of_another_content_is_downloaded_again(
    remote: Remote, unchecked: Remote, target: Path, leave: Callable[[bytes], Path], is_checked: bool
) -> None:
    leave(b"x" * len(CONTENT))
    assert fetch_file(remote if is_checked else unchecked, target).read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_refused_and_removed(
    remote: Remote, target: Path, leave: Callable[[bytes], Path]
) -> None:
    leave(b"forged")
    with pytest.raises(DownloadError) as e:
        fetch_file(remote, target)
    found = hashlib.sha256(b"forged" + CONTENT[6:]).hexdigest()
    assert str(e.value) == (
        f"{remote.url} is not the published file: its sha256 is {found}, not {DIGEST}. "
        "Try again, or do something else."
    )
    assert list(target.parent.iterdir()) == []
    fetch_file(remote, target)
    assert target.read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_downloaded_again_with_a_warning(
    remote: Remote, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT[:-1])
    with caplog.at_level(logging.WARNING, logger="bertjobs.fetch"):
        fetch_file(remote, target)
    assert target.read_bytes() == CONTENT
    assert caplog.messages == [f"{target} does not have the published checksum, so it is downloaded again"]


def test_a_missing_file_is_reported_with_the_servers_answer(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError) as e:
        fetch_file(Remote(url=f"{server.url}/none", otherwise=OTHERWISE), target)
    assert str(e.value) == (
        f"{server.url}/none cannot be downloaded: the server answered 404 Not Found. "
        "Check the address and your access to it, or do something else."
    )


def test_without_a_server_the_error_names_an_alternative(target: Path) -> None:
    with FileServer() as gone:
        nowhere = Remote(url=f"{gone.url}/data.zip", otherwise=OTHERWISE)  # nobody listens once it is closed
    with pytest.raises(DownloadError) as e:
        fetch_file(nowhere, target)
    assert str(e.value) == (
        f"{nowhere.url} cannot be downloaded: [Errno 111] Connection refused. "
        "Try again (the download resumes), or do something else."
    )


@pytest.mark.parametrize("url", ["not an address", "http://127.0.0.1:99999/data.zip"])
def test_what_is_not_an_address_is_refused(target: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        fetch_file(Remote(url=url, otherwise=OTHERWISE), target)


def test_headers_are_sent_but_not_to_where_the_server_redirects(server: FileServer, target: Path) -> None:
    server.redirects["/gated.zip"] = "/data.zip"
    headers = {"Authorization": "Bearer secret"}
    remote = Remote(url=f"{server.url}/gated.zip", otherwise=OTHERWISE, headers=headers)
    assert fetch_file(remote, target).read_bytes() == CONTENT
    assert server.authorizations == ["Bearer secret", None]
    assert "secret" not in repr(remote)


def test_a_cache_that_cannot_be_written_is_reported(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as e:
        fetch_file(remote, tmp_path / "file" / "data.zip")
    assert str(e.value).endswith("Make it writable, or set BERTJOBS_CACHE to another place.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_an_error_of_storage_and_not_of_the_network(remote: Remote, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("data.zip.part").symlink_to("/dev/full")
    with pytest.raises(StorageError) as e:
        fetch_file(remote, target)
    assert str(e.value) == (
        f"{target} cannot be written: No space left on device. "
        "Free room there, or set BERTJOBS_CACHE to another place."
    )
    assert not target.exists()


@pytest.mark.parametrize(
    ("code", "may_pass"),
    [(404, False), (403, False), (410, False), (408, True), (429, True), (500, True), (503, True)],
)
def test_what_a_server_refuses_for_good_is_not_retried(tmp_path, monkeypatch, code, may_pass):
    def refuse(*_args, **_options):
        raise urllib.error.HTTPError("http://x/f", code, "Because", Message(), None)

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DownloadError) as raised:
        fetch_file(Remote(url="http://x/f", otherwise="take it along"), tmp_path / "f")
    assert raised.value.message == f"http://x/f cannot be downloaded: the server answered {code} Because"
    assert raised.value.may_pass is may_pass
    assert raised.value.hint.startswith(
        "Try again" if may_pass else "Check the address and your access to it"
    )


@pytest.mark.parametrize(
    ("number", "may_pass"), [(errno.ENOSPC, False), (errno.EACCES, False), (errno.EIO, True)]
)
def test_a_cache_that_cannot_be_written_for_now_is_tried_again(tmp_path, monkeypatch, number, may_pass):
    def fail(*_args, **_options):
        raise OSError(number, "no")

    monkeypatch.setattr("pathlib.Path.mkdir", fail)
    with pytest.raises(StorageError) as raised:
        fetch_file(Remote(url="http://x/f", otherwise="take it along"), tmp_path / "a" / "f")
    assert raised.value.may_pass is may_pass
