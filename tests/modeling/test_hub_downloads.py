"""Downloads against a server of our own: whole, resumed, wrong, and absent."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bertjobs.errors import DownloadError
from bertjobs.modeling import build_classifier, hub, load_weights, save_pretrained
from bertjobs.modeling.download import fetch_file


class Server:
    """Serves files from memory, with ranges; may hang up early. Records what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.hang_up_after: int | None = None
        self.takes_ranges = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                asked = self.headers["Range"]
                outer.requests.append((self.command, self.path, asked))
                if self.path not in outer.files:
                    self.send_error(404)
                    return
                data, status = outer.files[self.path], 200
                if asked and outer.takes_ranges:
                    begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                    if begin >= len(data):
                        self.send_error(416)
                        return
                    data, status = data[begin:], 206
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data[: outer.hang_up_after])

            def log_message(self, *_: object) -> None:
                pass

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._httpd.server_port}"
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


DATA = bytes(range(256)) * 4096
SHA1 = hashlib.sha1(DATA).hexdigest()


def fetch(server: Server, target: Path, **more) -> Path:
    return fetch_file(f"{server.url}/file", target, remedy="Do this instead.", **more)


def test_a_file_arrives_once_with_progress(server, tmp_path):
    server.files["/file"] = DATA
    seen = []
    target = fetch(
        server, tmp_path / "a" / "file", sha1=SHA1, progress=lambda have, total: seen.append((have, total))
    )
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert fetch(server, target) == target
    assert len(server.requests) == 1


def test_a_download_that_broke_off_goes_on_where_it_stopped(server, tmp_path):
    server.files["/file"] = DATA
    server.hang_up_after = 1000
    with pytest.raises(DownloadError, match=r"broke off after 1000 of 1048576 bytes\. Try again"):
        fetch(server, tmp_path / "file", sha1=SHA1)
    assert not (tmp_path / "file").exists()
    server.hang_up_after = None
    assert fetch(server, tmp_path / "file", sha1=SHA1).read_bytes() == DATA
    assert server.requests[-1] == ("GET", "/file", "bytes=1000-")


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.files["/file"] = DATA
    (tmp_path / "file.part").write_bytes(DATA[:500])
    server.takes_ranges = False
    assert fetch(server, tmp_path / "file", sha1=SHA1).read_bytes() == DATA


def test_a_part_that_is_already_as_long_as_the_file_starts_again(server, tmp_path):
    server.files["/file"] = DATA
    (tmp_path / "file.part").write_bytes(b"x" * len(DATA))
    assert fetch(server, tmp_path / "file", sha1=SHA1).read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    server.files["/file"] = DATA[::-1]
    with pytest.raises(DownloadError, match=rf"is not the published file: its sha1 is .*, not {SHA1}"):
        fetch(server, tmp_path / "file", sha1=SHA1)
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_file_name_the_remedy(server, tmp_path):
    with pytest.raises(DownloadError, match=r"the server says 404 Not Found\. Do this instead\."):
        fetch(server, tmp_path / "file")
    with pytest.raises(DownloadError, match=r"Connection refused\. Do this instead\."):
        fetch_file("http://127.0.0.1:9/file", tmp_path / "file", remedy="Do this instead.")


@pytest.fixture
def published(server, small_config, tmp_path) -> Server:
    """A model on the hub: someone/bert, with a vocabulary."""
    save_pretrained(build_classifier(small_config, num_labels=2, seed=0), tmp_path / "origin")
    (tmp_path / "origin" / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    for file in (tmp_path / "origin").iterdir():
        server.files[f"/someone/bert/resolve/main/{file.name}"] = file.read_bytes()
    return server


def test_a_hub_model_is_fetched_once_and_opens(published, tmp_path):
    folder = hub.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url)
    assert sorted(f.name for f in folder.iterdir() if not f.name.startswith(".")) == [
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    loaded = load_weights(folder, cache=tmp_path)
    assert loaded.tokenizer_path == folder
    build_classifier(loaded, num_labels=2, seed=0)
    num_requests = len(published.requests)
    assert hub.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url) == folder
    assert len(published.requests) == num_requests


def test_a_hub_fetch_that_broke_off_goes_on(published, tmp_path):
    published.hang_up_after = 2000
    with pytest.raises(DownloadError):
        hub.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url)
    published.hang_up_after = None
    folder = hub.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url)
    published_bytes = published.files["/someone/bert/resolve/main/model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == published_bytes
    assert ("GET", "/someone/bert/resolve/main/model.safetensors", "bytes=2000-") in published.requests


def test_sharded_and_pickled_models_are_found(published, tmp_path):
    address = "/someone/bert/resolve/main"
    whole = published.files.pop(f"{address}/model.safetensors")
    published.files[f"{address}/model-1.safetensors"] = whole
    published.files[f"{address}/model.safetensors.index.json"] = (
        b'{"weight_map": {"classifier.bias": "model-1.safetensors"}}'
    )
    folder = hub.fetch("someone/bert", cache=tmp_path / "sharded", base_url=published.url)
    assert torch.equal(load_weights(folder, cache=tmp_path).state_dict["classifier.bias"], torch.zeros(2))
    del published.files[f"{address}/model.safetensors.index.json"]
    published.files[f"{address}/pytorch_model.bin"] = b"..."
    folder = hub.fetch("someone/bert", cache=tmp_path / "pickled", base_url=published.url)
    assert (folder / "pytorch_model.bin").is_file()


def test_an_unknown_name_and_a_model_without_weights_say_what_to_put_where(published, tmp_path):
    with pytest.raises(DownloadError) as caught:
        hub.fetch("someone/else", cache=tmp_path, base_url=published.url)
    assert "404" in str(caught.value)
    assert f"give that to --model (or into {tmp_path / 'models' / 'hub-someone--else'})" in str(caught.value)
    del published.files["/someone/bert/resolve/main/model.safetensors"]
    with pytest.raises(DownloadError, match=r"has none of model\.safetensors, .*pytorch_model\.bin"):
        hub.fetch("someone/bert", cache=tmp_path, base_url=published.url)
