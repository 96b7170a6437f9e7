"""d2l's archives: golden outputs, and every way in which an archive can be wrong."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertjobs.errors import DownloadError, ModelError
from bertjobs.modeling import (
    build_classifier,
    build_pretraining,
    d2l,
    load_weights,
    pack_rows,
    save_pretrained,
)
from padded_rows import packed

D, F, V, LAYERS, POSITIONS = 16, 24, 40, 2, 12


def params(num_words: int = V) -> dict[str, torch.Tensor]:
    """Random parameters under the names of d2l's BERTModel."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "encoder.pos_embedding": (1, POSITIONS, D),
        "encoder.token_embedding.weight": (num_words, D),
        "encoder.segment_embedding.weight": (2, D),
        "hidden.0.weight": (D, D),
        "hidden.0.bias": (D,),
        "mlm.mlp.0.weight": (D, D),
        "mlm.mlp.0.bias": (D,),
        "mlm.mlp.2.weight": (D,),
        "mlm.mlp.2.bias": (D,),
        "mlm.mlp.3.weight": (num_words, D),
        "mlm.mlp.3.bias": (num_words,),
        "nsp.output.weight": (2, D),
        "nsp.output.bias": (2,),
    }
    for i in range(LAYERS):
        for name in "qkvo":
            shapes[f"encoder.blks.{i}.attention.W_{name}.weight"] = (D, D)
            shapes[f"encoder.blks.{i}.attention.W_{name}.bias"] = (D,)
        for name, shape in (("dense1", (F, D)), ("dense2", (D, F))):
            shapes[f"encoder.blks.{i}.ffn.{name}.weight"] = shape
            shapes[f"encoder.blks.{i}.ffn.{name}.bias"] = shape[:1]
        for name in ("addnorm1", "addnorm2"):
            shapes[f"encoder.blks.{i}.{name}.ln.weight"] = (D,)
            shapes[f"encoder.blks.{i}.{name}.ln.bias"] = (D,)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "mine.torch"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps([f"w{i}" for i in range(V)]))
    torch.save(params(), folder / "pretrained.params")
    return folder


@pytest.fixture
def archive(folder, tmp_path) -> Path:
    path = tmp_path / "mine.torch.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in sorted(folder.iterdir()):
            zipped.write(file, f"{folder.name}/{file.name}")
    return path


def rewrite(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)


@pytest.mark.real_data
def test_the_golden_archive_gives_d2ls_outputs(d2l_golden, tmp_path):
    expected = load_file(d2l_golden / "expected.safetensors")
    num_heads = json.loads((d2l_golden / "config.json").read_text())["num_heads"]
    loaded = load_weights(d2l_golden / "bert.tiny.torch.zip", cache=tmp_path, num_heads=num_heads)
    model = build_pretraining(loaded, seed=0).eval()
    lengths_B = expected["valid_lens"].long()
    rows, segments = (
        [row[:n].tolist() for row, n in zip(expected[name], lengths_B, strict=True)]
        for name in ("tokens", "segments")
    )
    inputs = pack_rows(rows, segments=segments)
    masked_BP = expected["pred_positions"] + inputs.starts_B[:, None]
    with torch.no_grad():
        mlm_PV, nsp_B2 = model(inputs, masked_P=masked_BP.flatten())
        hidden_ND = model.bert(inputs)
    assert len(hidden_ND) == 43
    torch.testing.assert_close(hidden_ND, packed(expected["encoded"], inputs), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mlm_PV.view_as(expected["mlm_logits"]), expected["mlm_logits"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(nsp_B2, expected["nsp_logits"], atol=1e-5, rtol=0)


def test_zip_and_folder_are_the_same_model_with_a_vocabulary_beside_it(archive, folder, tmp_path):
    zipped = load_weights(archive, cache=tmp_path / "cache", num_heads=4)
    unpacked = load_weights(folder, cache=tmp_path / "cache", num_heads=4)
    assert zipped.config == unpacked.config
    assert (zipped.config.num_hidden_layers, zipped.config.max_position_embeddings) == (LAYERS, POSITIONS)
    assert zipped.state_dict.keys() == unpacked.state_dict.keys()
    assert all(torch.equal(zipped.state_dict[name], unpacked.state_dict[name]) for name in zipped.state_dict)
    assert len(json.loads(zipped.tokenizer_path.read_text())) == V
    assert zipped.tokenizer_path.is_relative_to(tmp_path / "cache")


def test_a_zip_is_unpacked_once(archive, tmp_path):
    first = load_weights(archive, cache=tmp_path / "cache", num_heads=4)
    stamp = first.tokenizer_path.stat().st_mtime_ns
    assert (
        load_weights(archive, cache=tmp_path / "cache", num_heads=4).tokenizer_path.stat().st_mtime_ns
        == stamp
    )


def test_a_fine_tuned_d2l_model_reopens_here_and_is_refused_by_transformers(folder, tmp_path):
    import transformers

    model = build_classifier(load_weights(folder, cache=tmp_path, num_heads=4), num_labels=3, seed=0).eval()
    save_pretrained(model, tmp_path / "tuned", labels=("a", "b", "c"))
    (tmp_path / "tuned" / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    again = load_weights(tmp_path / "tuned", cache=tmp_path)
    assert again.config == model.config
    assert again.tokenizer_path == tmp_path / "tuned" / "vocab.json"
    inputs = pack_rows([[3, 4, 5], [3, 5]], segments=[[0, 0, 0], [0, 0]])
    with torch.no_grad():
        reopened = build_classifier(again, num_labels=3, seed=1, keep_head=True).eval()
        assert torch.equal(reopened(inputs), model(inputs))
    with pytest.raises(ValueError, match="bertjobs-bert"):
        transformers.AutoConfig.from_pretrained(tmp_path / "tuned")


def test_an_unknown_head_count_is_asked_for(archive, folder, tmp_path):
    for source in (archive, folder):
        with pytest.raises(ModelError, match=r"do not say how many attention heads .* --num-heads N"):
            load_weights(source, cache=tmp_path)
    with pytest.raises(ModelError, match=r"hidden_size 16 cannot be divided among 3 heads.*--num-heads"):
        load_weights(archive, cache=tmp_path, num_heads=3)


def test_a_registered_archive_brings_its_heads_and_refuses_others(archive, tmp_path, monkeypatch):
    known = d2l.D2lArchive(
        name=archive.name, sha1=hashlib.sha1(archive.read_bytes()).hexdigest(), num_heads=8
    )
    monkeypatch.setitem(d2l.REGISTRY, archive.name, known)
    assert load_weights(archive, cache=tmp_path).config.num_attention_heads == 8
    with pytest.raises(ModelError, match=r"has 8 attention heads, not 4\. Leave model\.num_heads out"):
        load_weights(archive, cache=tmp_path, num_heads=4)


def test_a_registered_archive_with_other_bytes_is_refused(archive, tmp_path, monkeypatch):
    known = d2l.D2lArchive(name=archive.name, sha1="0" * 40, num_heads=8)
    monkeypatch.setitem(d2l.REGISTRY, archive.name, known)
    with pytest.raises(
        ModelError, match=r"tampered with: its sha1 is .*, not 0{40}\. Delete it and download"
    ):
        load_weights(archive, cache=tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_zip_cut_short_is_refused_and_leaves_nothing(archive, tmp_path, keep):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match=r"cut short or tampered with .* Delete it and download it again"):
        load_weights(archive, cache=tmp_path / "cache", num_heads=4)
    assert not list((tmp_path / "cache").rglob("*.params"))


def test_a_zip_with_a_changed_byte_is_refused(archive, tmp_path):
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="cut short or tampered with"):
        load_weights(archive, cache=tmp_path / "cache", num_heads=4)


@pytest.mark.parametrize(
    "evil", ["../escaped/vocab.json", "/escaped/vocab.json", "a/../../vocab.json", "..\\vocab.json"]
)
def test_a_zip_that_would_write_outside_is_refused_and_writes_nothing(archive, tmp_path, evil):
    rewrite(archive, **{evil: b"[]", "pretrained.params": b"x"})
    with pytest.raises(ModelError, match="which points outside of the archive"):
        load_weights(archive, cache=tmp_path / "cache", num_heads=4)
    assert not (tmp_path / "escaped").exists()
    assert not list((tmp_path / "cache").rglob("vocab.json"))


def test_a_zip_with_a_link_is_refused(archive, tmp_path):
    link = zipfile.ZipInfo("vocab.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(ModelError, match="which points outside of the archive"):
        load_weights(archive, cache=tmp_path, num_heads=4)


def test_a_zip_of_something_else_and_one_that_is_too_large_are_refused(archive, tmp_path, monkeypatch):
    rewrite(archive, **{"readme.txt": b"hello"})
    with pytest.raises(ModelError, match=r"holds no vocab\.json: it is not a d2l BERT archive"):
        load_weights(archive, cache=tmp_path, num_heads=4)
    rewrite(archive, **{"vocab.json": b"[]", "pretrained.params": b"x" * 100})
    monkeypatch.setattr(d2l, "_MOST_BYTES", 50)
    with pytest.raises(ModelError, match="would unpack to"):
        load_weights(archive, cache=tmp_path, num_heads=4)


def test_a_vocabulary_that_does_not_match_the_weights_is_refused(folder, tmp_path):
    (folder / "vocab.json").write_text(json.dumps(["a", "b"]))
    with pytest.raises(ModelError, match=r"vocab\.json has 2 entries, but the weights have 40"):
        load_weights(folder, cache=tmp_path, num_heads=4)


def test_parameters_cut_short_missing_or_unknown_are_refused(folder, tmp_path):
    path = folder / "pretrained.params"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cut short or holds more than tensors"):
        load_weights(folder, cache=tmp_path, num_heads=4)
    torch.save({name: t for name, t in params().items() if name != "encoder.pos_embedding"}, path)
    with pytest.raises(ModelError, match=r"lacks encoder\.pos_embedding"):
        load_weights(folder, cache=tmp_path, num_heads=4)
    torch.save({**params(), "encoder.blks.0.surprise": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"holds encoder\.blks\.0\.surprise, which d2l's BERT has not"):
        load_weights(folder, cache=tmp_path, num_heads=4)


def test_the_configuration_says_what_d2l_does_otherwise(folder, tmp_path):
    config = load_weights(folder, cache=tmp_path, num_heads=4).config
    assert not config.embedding_layer_norm and not config.tie_word_embeddings
    assert (config.hidden_act, config.layer_norm_eps) == ("relu", 1e-5)
    assert not replace(config, num_attention_heads=2).is_plain_bert


def test_without_network_the_message_says_what_to_put_where(tmp_path, monkeypatch):
    unreachable = d2l.D2lArchive(name="bert.small.torch.zip", sha1="0" * 40, num_heads=4)
    monkeypatch.setattr(d2l.D2lArchive, "url", "http://127.0.0.1:9/bert.small.torch.zip")
    monkeypatch.setitem(d2l.REGISTRY, unreachable.name, unreachable)
    with pytest.raises(DownloadError) as caught:
        d2l.fetch(unreachable.name, cache=tmp_path)
    assert "cannot be downloaded: [Errno 111] Connection refused" in str(caught.value)
    assert f"put bert.small.torch.zip at {tmp_path / 'downloads' / 'bert.small.torch.zip'}" in str(
        caught.value
    )
