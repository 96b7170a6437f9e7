"""Represent a few texts and fill masks in one process, and the files that vectors are written to."""

import json
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.config.sections import TextSection
from bertjobs.errors import ConfigError, DataError, ModelError, StorageError
from bertjobs.modeling import BertConfig, build_classifier, build_pretraining, save_pretrained
from bertjobs.runs.artefacts import Artefact
from bertjobs.runs.encode.embeddings import PartWriter, embeddings_table
from bertjobs.runs.encode.fill_mask import fill_masks
from bertjobs.runs.encode.represent_texts import represent_texts
from bertjobs.runs.encode.vector_files import check_vector_file, to_json, write_vector_file
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir
from bertjobs.text.vocabulary import train_wordpiece

CORPUS = ["a crane is flying", "a crane driver came", "he just left", "flying is a joy", "cranes fly"]
FLYING, DRIVER = "a crane is flying", "a crane driver came|he just left"


@pytest.fixture
def settings(tmp_path):
    return load_settings({"BERTJOBS_HOME": str(tmp_path / "home")})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights as a pretraining job leaves them."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_wordpiece(CORPUS, vocab_size=80)
    save_pretrained(build_pretraining(small(tokenizer), seed=0), folder)
    tokenizer.save(folder)
    return folder


def small(tokenizer) -> BertConfig:
    return BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip


@pytest.fixture
def represent(model, settings):
    """Represent texts with the model; what is said besides is in `represent.said`."""

    def run(*texts, words=(), source=model, **given):
        values = {"model.source": str(source), "data.path": "-", "text.pair_separator": "|", **given}
        config = load_config("encode", ConfigLayer(values, {}))
        return represent_texts(texts, words=words, config=config, settings=settings, warn=run.said.append)

    run.said = []
    return run


@pytest.fixture
def fill(model, settings):
    def run(*texts, top_k=5, source=model, **given):
        config = load_config(
            "encode", ConfigLayer({"model.source": str(source), "data.path": "-", **given}, {})
        )
        return fill_masks(texts, top_k=top_k, config=config, settings=settings, warn=run.said.append)

    run.said = []
    return run


def test_the_same_word_has_another_vector_in_another_text(represent):
    flying, driver = represent(FLYING, DRIVER, words=["crane"])
    assert flying.tokens[0] == "[CLS]"
    assert [driver.tokens.count("[SEP]"), driver.text] == [2, DRIVER]
    for one in (flying, driver):
        assert [(v.token, v.position) for v in one.vectors][:1] == [("[CLS]", 0)]
        assert one.vectors[1].token == "crane"
    assert np.abs(flying.vectors[1].vector[:3] - driver.vectors[1].vector[:3]).min() > 1e-3


def test_every_place_of_a_word_is_represented_and_several_pieces_by_their_mean(represent):
    (one,) = represent("a crane is a crane", words=["crane", "[SEP]"])
    assert [v.token for v in one.vectors] == ["[CLS]", "crane", "crane", "[SEP]"]
    pieces = represent("a lefty", words=["lefty"])[0]
    assert len(pieces.tokens) > 4  # it is no word of the vocabulary
    each = represent("a lefty", words=pieces.tokens[2:-1])[0].vectors[1:]
    assert np.allclose(pieces.vectors[1].vector, np.mean([v.vector for v in each], axis=0), atol=1e-6)


def test_the_mean_over_all_tokens_has_no_place(represent):
    (one,) = represent(FLYING, **{"model.pooling": "mean"})
    assert [(v.token, v.position) for v in one.vectors] == [("mean", None)]


def test_a_text_over_max_len_is_cut_and_that_is_said(represent):
    (one,) = represent("a crane " * 20, **{"text.max_len": 12})
    assert len(one.tokens) == 12
    assert len(represent.said) == 1
    assert "tokens and is truncated to 12 (--max-len)" in represent.said[0]
    assert len(represent("a crane " * 40)[0].tokens) == 32  # all positions, where nothing else is known


def test_the_length_of_training_holds_unless_another_is_given(represent, model, tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    Artefact(task=None, text=TextSection(max_len=10), trained_by="j-1").write(folder)
    assert len(represent("a crane " * 40, source=folder)[0].tokens) == 10
    assert len(represent("a crane " * 40, source=folder, **{"text.max_len": 14})[0].tokens) == 14


def test_the_model_of_a_job_is_found_in_storage(represent, model, settings):
    with JobDir(settings.storage, "j-7f3k2").new_dir("model") as folder:
        for file in model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    ours, theirs = represent(FLYING, source="j-7f3k2")[0], represent(FLYING)[0]
    assert np.array_equal(ours.vectors[0].vector, theirs.vectors[0].vector)


def test_bad_texts_and_words_are_refused_by_name(represent):
    with pytest.raises(DataError, match="No text was given"):
        represent()
    with pytest.raises(DataError, match="The text '' is empty"):
        represent(FLYING, "")
    with pytest.raises(DataError, match=r"The text 'a\|b\|c' has 2 separators"):
        represent("a|b|c")
    with pytest.raises(DataError, match="--token crane does not occur in the text 'he just left'") as caught:
        represent(FLYING, "he just left", words=["crane"])
    assert "Its tokens are: '[CLS]" in caught.value.hint


def test_a_model_that_cannot_represent_is_refused(represent):
    with pytest.raises(ModelError, match="--model tiny names a size with random weights, not"):
        represent(FLYING, source="tiny")
    with pytest.raises(ModelError, match="that job has no model"):
        represent(FLYING, source="j-none")
    with pytest.raises(ModelError, match="--max-len 512 is more than the model's 32 positions"):
        represent(FLYING, **{"text.max_len": 512})


def test_each_mask_is_filled_whatever_it_is_called(fill):
    by_bert, by_d2l = fill("a [MASK] is [MASK]", "a <mask> is <mask>", top_k=3)
    assert [mask.position for mask in by_bert.masks] == [2, 4]
    assert by_bert.masks == by_d2l.masks
    for mask in by_bert.masks:
        probabilities = [p.probability for p in mask.predictions]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1


def test_all_of_the_vocabulary_has_probability_one(fill, model):
    size = len((model / "vocab.txt").read_text().splitlines())
    (mask,) = fill("a [MASK] is flying", top_k=size)[0].masks
    assert sum(p.probability for p in mask.predictions) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match=f"--top-k {size + 1}: the vocabulary has {size} tokens"):
        fill("a [MASK] is flying", top_k=size + 1)


def test_what_has_no_mask_to_fill_is_refused(fill, model, tmp_path):
    with pytest.raises(DataError, match="No text was given"):
        fill()
    with pytest.raises(DataError, match="The text 'a crane' has no mask"):
        fill("a crane")
    with pytest.raises(DataError, match="a mask is beyond the 8 tokens"):
        fill("a crane is flying a crane is [MASK]", **{"text.max_len": 8})
    assert len(fill.said) == 1
    assert fill("a [MASK] is flying a crane is flying", **{"text.max_len": 8})[0].masks[0].position == 2
    tokenizer = train_wordpiece(CORPUS, vocab_size=80)
    save_pretrained(build_classifier(small(tokenizer), num_labels=2, seed=0), tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(ModelError, match="has no masked-language-model head"):
        fill("a [MASK]", source=tmp_path)


def test_vectors_are_written_as_matrix_table_or_document(represent, tmp_path):
    found = represent(FLYING, DRIVER, words=["crane"])
    matrix = np.stack([v.vector for one in found for v in one.vectors])
    for suffix in (".npy", ".parquet", ".json"):
        check_vector_file(tmp_path / f"x{suffix}")
        write_vector_file(tmp_path / f"x{suffix}", found)
    assert np.array_equal(np.load(tmp_path / "x.npy"), matrix)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["vector"].type == pa.list_(pa.float32(), 16)
    assert table["token"].to_pylist() == ["[CLS]", "crane", "[CLS]", "crane"]
    assert table["number"].to_pylist() == [0, 0, 1, 1]
    document = json.loads((tmp_path / "x.json").read_text())
    assert document == json.loads(json.dumps(to_json(found)))
    assert document["dim"] == 16


def test_a_file_that_cannot_be_written_is_refused(represent, tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv is not a known format") as caught:
        check_vector_file(tmp_path / "x.csv")
    assert ".npy, .parquet, .json" in caught.value.hint
    with pytest.raises(StorageError, match="its folder does not exist"):
        check_vector_file(tmp_path / "none" / "x.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(StorageError, match="it is a folder"):
        check_vector_file(tmp_path / "folder.npy")
    with pytest.raises(StorageError, match="File name too long"):
        write_vector_file(tmp_path / f"{'x' * 250}.npy", represent(FLYING))


def test_embeddings_go_into_parts_of_bounded_size(tmp_path):
    writer = PartWriter(tmp_path, files=["a.txt", "b.txt"], part_bytes=2000)
    vectors = np.arange(60 * 8, dtype=np.float32).reshape(60, 8)
    for start in range(0, 60, 20):
        rows = np.arange(start, start + 20)
        lines = pa.table({"line": rows + 1, "text": [f"text {row}" for row in rows]})
        writer.add(
            embeddings_table(
                file=pa.chunked_array([pa.array((rows >= 30).astype(np.int32))]),
                lines=lines, num_tokens_R=rows, is_cut_R=rows % 2 == 0, vectors_RD=vectors[rows],
            )
        )  # fmt: skip
    writer.close()
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    table = pq.read_table(tmp_path)
    assert table["vector"].type == pa.list_(pa.float32(), 8)
    assert np.array_equal(np.stack(table["vector"].to_numpy()), vectors)
    assert table["line"].to_pylist() == list(range(1, 61))
    assert table["file"].to_pylist() == ["a.txt"] * 30 + ["b.txt"] * 30
    assert all(stat.S_ISREG(part.stat().st_mode) for part in parts)
