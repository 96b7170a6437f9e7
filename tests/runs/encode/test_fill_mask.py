"""Masks of a few texts filled in one process."""

import pytest

from bertjobs.errors import ConfigError, DataError, ModelError
from bertjobs.modeling import BertConfig, build_classifier, save_pretrained
from bertjobs.text.tokenizer_files import load_tokenizer


def test_each_mask_is_filled_with_either_name_of_the_mask(fill):
    by_bert, by_d2l = fill("a [MASK] is [MASK]", "a <mask> is <mask>", top_k=3)
    assert [mask.position for mask in by_bert.masks] == [2, 4]
    assert by_bert.masks == by_d2l.masks
    for mask in by_bert.masks:
        probabilities = [p.probability for p in mask.predictions]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1


def test_the_probabilities_of_the_whole_vocabulary_add_up_to_one(fill, model):
    size = len((model / "vocab.txt").read_text().splitlines())
    (mask,) = fill("a [MASK] is flying", top_k=size)[0].masks
    assert sum(p.probability for p in mask.predictions) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match=f"--top-k {size + 1}: the vocabulary has {size} tokens"):
        fill("a [MASK] is flying", top_k=size + 1)


def test_a_text_without_a_mask_to_fill_is_refused(fill, model, tmp_path):
    with pytest.raises(DataError, match="No text was given"):
        fill()
    with pytest.raises(DataError, match="The text 'a crane' has no mask"):
        fill("a crane")
    with pytest.raises(DataError, match="a mask is beyond the 8 tokens"):
        fill("a crane is flying a crane is [MASK]", **{"text.max_len": 8})
    assert len(fill.said) == 1
    assert fill("a [MASK] is flying a crane is flying", **{"text.max_len": 8})[0].masks[0].position == 2
    tokenizer = load_tokenizer(model)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    save_pretrained(build_classifier(config, num_labels=2, seed=0), tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(ModelError, match="has no masked-language-model head"):
        fill("a [MASK]", source=tmp_path)
