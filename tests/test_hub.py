"""Models of the hub, from a server of our own: whole, interrupted, sharded, damaged, missing, private."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.errors import DownloadError
from bertjobs.hub import fetch_model, is_hub_name
from file_server import FileServer

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "README.md": b"# A model",
}
Publish = Callable[[dict[str, bytes]], None]


@pytest.fixture
def publish(file_server: FileServer) -> Publish:
    """Put the model someone/bert on the hub: `publish({"config.json": b"..."})`; weights have checksums."""

    def publish(files: dict[str, bytes]) -> None:
        siblings = []
        for name, content in files.items():
            file_server.files[f"/someone/bert/resolve/{SHA}/{name}"] = content
            described: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "b"}
            if name.endswith((".safetensors", ".bin")):
                digest = hashlib.sha256(content).hexdigest()
                described["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(described)
        described_model = {"id": "someone/bert", "sha": SHA, "siblings": siblings}
        file_server.files["/api/models/someone/bert"] = json.dumps(described_model).encode()

    return publish


@pytest.fixture
def hub(file_server: FileServer, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    publish(FILES)
    return file_server


@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "a/b.c_d-e"])
def test_an_owner_and_a_name_can_be_on_the_hub(name: str) -> None:
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["bert", "a/b/c", "/a/b", "./a", "../a", "a b/c", "a/", "~/a", "", "a/-b"])
def test_any_other_name_cannot(name: str) -> None:
    assert not is_hub_name(name)


def test_a_model_is_downloaded_once_without_what_it_does_not_need(hub: FileServer, tmp_path: Path) -> None:
    folder = fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)
    found = {f.name: f.read_bytes() for f in folder.iterdir() if not f.name.startswith(".")}
    assert found == {name: content for name, content in FILES.items() if name != "README.md"}
    num_requests = len(hub.asked)
    assert fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url) == folder
    assert len(hub.asked) == num_requests


def test_an_interrupted_download_is_resumed(hub: FileServer, tmp_path: Path) -> None:
    hub.hangs_up_after = 2000
    with pytest.raises(DownloadError, match="the connection was closed after 2000 of 7000 bytes"):
        fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)
    hub.hangs_up_after = None
    folder = fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert ("GET", f"/someone/bert/resolve/{SHA}/model.safetensors", "bytes=2000-") in hub.asked


def test_weights_with_another_checksum_are_refused(hub: FileServer, tmp_path: Path) -> None:
    hub.files[f"/someone/bert/resolve/{SHA}/model.safetensors"] = b"another"
    with pytest.raises(DownloadError, match=r"model\.safetensors is not the published file: its sha256 is"):
        fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)


def test_shards_are_downloaded_with_their_index(publish: Publish, hub: FileServer, tmp_path: Path) -> None:
    shards = {"model-1.safetensors": b"one", "model-2.safetensors": b"two", "other/x.safetensors": b"no"}
    publish({"config.json": b"{}", "model.safetensors.index.json": b"{}", **shards})
    folder = fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert found == [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ]


def test_pickled_weights_are_downloaded_where_there_are_no_others(
    publish: Publish, hub: FileServer, tmp_path: Path
) -> None:
    publish({"config.json": b"{}", "pytorch_model.bin": b"..."})
    assert (fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url) / "pytorch_model.bin").is_file()


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (
            "model.safetensors",
            r"has no weights \(model\.safetensors, .*pytorch_model\.bin\)\. Give",
        ),
        ("config.json", r"has no config\.json\. Give"),
    ],
)
def test_a_model_without_weights_or_configuration_is_refused(
    publish: Publish, hub: FileServer, tmp_path: Path, lacking: str, message: str
) -> None:
    publish({name: content for name, content in FILES.items() if name != lacking})
    with pytest.raises(DownloadError, match=message):
        fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)


def test_an_unknown_name_is_reported_with_what_to_do(hub: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_model("someone/else", cache=tmp_path, endpoint=hub.url)
    assert "someone/else" in caught.value.message
    assert "check the name, set HF_TOKEN" in caught.value.hint
    assert caught.value.hint.endswith("into a folder and give that to --model.")


def test_without_a_network_the_error_says_which_files_to_put_where(tmp_path: Path) -> None:
    with FileServer() as gone:
        address = gone.url  # nobody listens once it is closed
    with pytest.raises(DownloadError) as caught:
        fetch_model("someone/bert", cache=tmp_path, endpoint=address)
    assert caught.value.message.startswith("The files of someone/bert on the hub cannot be listed: ")
    assert (
        "copy the model's config.json, model.safetensors and vocab.txt or tokenizer.json" in caught.value.hint
    )


def test_a_token_is_sent(hub: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_model("someone/bert", cache=tmp_path, endpoint=hub.url)
    assert set(hub.authorizations) == {"Bearer hf_secret"}
