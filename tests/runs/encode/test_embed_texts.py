"""The vectors of a few texts, in one process."""

import numpy as np
import pytest

from bertjobs.config.sections import TextSection
from bertjobs.errors import DataError, ModelError
from bertjobs.runs.artefacts import Artefact
from bertjobs.storage import JobDir

FLYING, DRIVER = "a crane is flying", "a crane driver came|he just left"


def test_a_word_has_a_different_vector_in_each_text(embed):
    flying, driver = embed(FLYING, DRIVER, words=["crane"])
    assert flying.tokens[0] == "[CLS]"
    assert [driver.tokens.count("[SEP]"), driver.text] == [2, DRIVER]
    for one in (flying, driver):
        assert [(v.token, v.position) for v in one.vectors][:1] == [("[CLS]", 0)]
        assert one.vectors[1].token == "crane"
    assert np.abs(flying.vectors[1].vector[:3] - driver.vectors[1].vector[:3]).min() > 1e-3


def test_each_occurrence_of_a_word_has_a_vector_and_several_wordpieces_have_their_mean(embed):
    (one,) = embed("a crane is a crane", words=["crane", "[SEP]"])
    assert [v.token for v in one.vectors] == ["[CLS]", "crane", "crane", "[SEP]"]
    pieces = embed("a lefty", words=["lefty"])[0]
    assert len(pieces.tokens) > 4  # it is no word of the vocabulary
    each = embed("a lefty", words=pieces.tokens[2:-1])[0].vectors[1:]
    assert np.allclose(pieces.vectors[1].vector, np.mean([v.vector for v in each], axis=0), atol=1e-6)


def test_the_mean_over_all_tokens_has_no_position(embed):
    (one,) = embed(FLYING, **{"model.pooling": "mean"})
    assert [(v.token, v.position) for v in one.vectors] == [("mean", None)]


def test_a_text_over_max_len_is_truncated_with_a_warning(embed):
    (one,) = embed("a crane " * 20, **{"text.max_len": 12})
    assert len(one.tokens) == 12
    assert len(embed.said) == 1
    assert "tokens and is truncated to 12 (--max-len)" in embed.said[0]
    assert len(embed("a crane " * 40)[0].tokens) == 32  # all positions, where nothing else is known


def test_texts_are_truncated_as_in_training_unless_max_len_is_given(embed, model, tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    Artefact(task=None, text=TextSection(max_len=10), trained_by="j-1").write(folder)
    assert len(embed("a crane " * 40, source=folder)[0].tokens) == 10
    assert len(embed("a crane " * 40, source=folder, **{"text.max_len": 14})[0].tokens) == 14


def test_a_job_id_names_the_model_in_storage(embed, model, settings):
    with JobDir(settings.storage, "j-7f3k2").new_dir("model") as folder:
        for file in model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    ours, theirs = embed(FLYING, source="j-7f3k2")[0], embed(FLYING)[0]
    assert np.array_equal(ours.vectors[0].vector, theirs.vectors[0].vector)


def test_texts_and_words_that_cannot_be_encoded_are_refused_by_name(embed):
    with pytest.raises(DataError, match="No text was given"):
        embed()
    with pytest.raises(DataError, match="The text '' is empty"):
        embed(FLYING, "")
    with pytest.raises(DataError, match=r"The text 'a\|b\|c' has 2 separators"):
        embed("a|b|c")
    with pytest.raises(DataError, match="--token crane does not occur in the text 'he just left'") as caught:
        embed(FLYING, "he just left", words=["crane"])
    assert "Its tokens are: '[CLS]" in caught.value.hint


def test_a_model_that_cannot_encode_is_refused(embed):
    with pytest.raises(ModelError, match="--model tiny names a size with random weights, not"):
        embed(FLYING, source="tiny")
    with pytest.raises(ModelError, match="that job has no model"):
        embed(FLYING, source="j-none")
    with pytest.raises(ModelError, match="--max-len 512 is more than the model's 32 positions"):
        embed(FLYING, **{"text.max_len": 512})
