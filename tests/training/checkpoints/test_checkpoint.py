import json
from pathlib import Path

import pytest
import torch

from bertjobs.errors import ModelError
from bertjobs.training.checkpoints.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint = Checkpoint(
        model={"w": torch.arange(12.0).view(3, 4).t(), "b": torch.tensor([1.5])},
        optimizer={"w.exp_avg": torch.ones(4, 3)},
        state={"num_done": 7, "best": None},
    )
    write_checkpoint(tmp_path, checkpoint)
    return tmp_path


def test_what_is_read_is_what_was_written(folder: Path) -> None:
    read = read_checkpoint(folder)
    assert torch.equal(read.model["w"], torch.arange(12.0).view(3, 4).t())
    assert torch.equal(read.optimizer["w.exp_avg"], torch.ones(4, 3))
    assert read.state == {"num_done": 7, "best": None}
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])


def test_views_of_one_buffer_are_written_apart(tmp_path: Path) -> None:
    buffer = torch.arange(32.0)
    write_checkpoint(tmp_path, Checkpoint(model={"a": buffer[:16], "b": buffer[16:]}, optimizer={}, state={}))
    assert torch.equal(read_checkpoint(tmp_path).model["b"], torch.arange(16.0, 32.0))


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-5])
    with pytest.raises(ModelError, match=f"{name} was cut short or changed: it has {len(whole) - 5} bytes"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} was changed: its SHA-256 is not the one written"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        read_checkpoint(folder)


def test_without_its_manifest_it_was_not_finished(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"has no manifest.json: it is incomplete"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"version": 1, "fil', "manifest.json is not JSON"),
        (b"[]", "does not describe a checkpoint"),
        (b'{"version": 2, "files": {}}', "has version 2, this program reads 1"),
        (b'{"version": 1, "files": {"../x": {}}}', "does not describe a checkpoint"),
        (b'{"version": 1, "files": ["state.json"]}', "does not describe a checkpoint"),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_checkpoint(folder)


def test_a_manifest_without_digests_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["state.json"]["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="does not describe a checkpoint"):
        read_checkpoint(folder)
