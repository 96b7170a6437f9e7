"""Models of the hub, from a server of our own: whole, broken off, sharded, absent."""

import pytest
import torch

from bertjobs.errors import DownloadError
from bertjobs.modeling import build_classifier, load_weights, save_pretrained, weights
from file_server import FileServer


@pytest.fixture
def published(file_server, small_config, tmp_path) -> FileServer:
    """A model on the hub: someone/bert, with a vocabulary."""
    save_pretrained(build_classifier(small_config, num_labels=2, seed=0), tmp_path / "origin")
    (tmp_path / "origin" / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    for file in (tmp_path / "origin").iterdir():
        file_server.files[f"/someone/bert/resolve/main/{file.name}"] = file.read_bytes()
    return file_server


def test_a_hub_model_is_fetched_once_and_opens(published, tmp_path):
    folder = weights.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url)
    assert sorted(f.name for f in folder.iterdir() if not f.name.startswith(".")) == [
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    loaded = load_weights(folder, cache=tmp_path)
    assert loaded.tokenizer_path == folder
    build_classifier(loaded, num_labels=2, seed=0)
    num_requests = len(published.asked)
    assert weights.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url) == folder
    assert len(published.asked) == num_requests


def test_a_hub_fetch_that_broke_off_goes_on(published, tmp_path):
    published.hangs_up_after = 2000
    with pytest.raises(DownloadError):
        weights.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url)
    published.hangs_up_after = None
    folder = weights.fetch("someone/bert", cache=tmp_path / "cache", base_url=published.url)
    published_bytes = published.files["/someone/bert/resolve/main/model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == published_bytes
    assert ("GET", "/someone/bert/resolve/main/model.safetensors", "bytes=2000-") in published.asked


def test_sharded_and_pickled_models_are_found(published, tmp_path):
    address = "/someone/bert/resolve/main"
    whole = published.files.pop(f"{address}/model.safetensors")
    published.files[f"{address}/model-1.safetensors"] = whole
    published.files[f"{address}/model.safetensors.index.json"] = (
        b'{"weight_map": {"classifier.bias": "model-1.safetensors"}}'
    )
    folder = weights.fetch("someone/bert", cache=tmp_path / "sharded", base_url=published.url)
    assert torch.equal(load_weights(folder, cache=tmp_path).state_dict["classifier.bias"], torch.zeros(2))
    del published.files[f"{address}/model.safetensors.index.json"]
    published.files[f"{address}/pytorch_model.bin"] = b"..."
    folder = weights.fetch("someone/bert", cache=tmp_path / "pickled", base_url=published.url)
    assert (folder / "pytorch_model.bin").is_file()


def test_an_unknown_name_and_a_model_without_weights_say_what_to_put_where(published, tmp_path):
    with pytest.raises(DownloadError) as caught:
        weights.fetch("someone/else", cache=tmp_path, base_url=published.url)
    assert "404" in str(caught.value)
    assert "check the name" in str(caught.value)
    assert "into a folder and give that to --model." in str(caught.value)
    del published.files["/someone/bert/resolve/main/model.safetensors"]
    with pytest.raises(DownloadError, match=r"has none of model\.safetensors, .*pytorch_model\.bin\. Give"):
        weights.fetch("someone/bert", cache=tmp_path, base_url=published.url)
