"""Vectors and predictions are those of `transformers` in fp32, whatever the batches."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.modeling import BertConfig, build_classifier, build_pretraining, load_weights, save_pretrained
from bertjobs.text.text_pairs import encode_singles_and_pairs, singles_and_pairs
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.text.vocabulary import train_wordpiece
from bertjobs.training import inference
from bertjobs.training.inference import (
    TextEmbedder,
    build_masked_language_model,
    mask_probabilities,
)

SENTENCES = [
    "a crane is flying",
    "a crane driver came",
    "the tower fell",
    "birds fly over a very high tower of the old city",
    "he just left",
]
PAIRS = [(text, None) for text in SENTENCES] + list(zip(SENTENCES, reversed(SENTENCES), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights as our own jobs write it, with its vocabulary."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_wordpiece(SENTENCES, vocab_size=90)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.3,  # so that places and neighbours matter
    )
    save_pretrained(build_pretraining(config, seed=0), folder)
    tokenizer.save(folder)
    return folder


def represented(folder, pairs, *, max_len=40, **given):
    """Return our vector of each text."""
    loaded, tokenizer = load_weights(folder, cache=folder), load_tokenizer(folder)
    representer = TextEmbedder(
        build_pretraining(loaded, seed=0).bert,
        text=TextSection(max_len=max_len),
        tokenizer=tokenizer,
        **({"pooling": "cls", "batch_size": 3, "precision": "fp32"} | given),
    )
    vectors = np.full((len(pairs), loaded.config.hidden_size), np.nan, dtype=np.float32)
    tokens = {}
    for rows, table in singles_and_pairs(encode_singles_and_pairs(pairs, tokenizer)):
        vectors[rows] = representer.vectors(table)
        for row, ids, hidden in representer.tokens(table):
            assert len(ids) == len(hidden) == representer.lengths(table)[row]
            tokens[int(rows[row])] = hidden
    return vectors, tokens


def theirs(folder, pairs):
    """Return the last hidden states of `transformers`, text by text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        encoded = [tokenizer(*[t for t in pair if t is not None], return_tensors="pt") for pair in pairs]
        return [model(**one).last_hidden_state[0].numpy() for one in encoded]


def check_against_transformers(folder, pairs):
    expected = theirs(folder, pairs)
    vectors, tokens = represented(folder, pairs)
    for i, hidden in enumerate(expected):
        assert np.abs(tokens[i] - hidden).max() < 1e-5
        assert np.abs(vectors[i] - hidden[0]).max() < 1e-5
    means, _ = represented(folder, pairs, pooling="mean")
    assert np.abs(means - np.stack([hidden.mean(axis=0) for hidden in expected])).max() < 1e-5


def test_a_model_that_we_saved_represents_as_in_transformers(folder):
    check_against_transformers(folder, PAIRS)


@pytest.mark.minilm
def test_minilm_represents_as_in_transformers(minilm):
    check_against_transformers(minilm, PAIRS)


@pytest.mark.parametrize("forced", ["bf16", "fp32"])
def test_the_vector_of_a_text_does_not_depend_on_its_batch_on_any_processor(folder, monkeypatch, forced):
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", forced)
    alone = np.concatenate([represented(folder, [pair], precision="auto")[0] for pair in PAIRS])
    monkeypatch.setitem(inference.MAX_MICROBATCH_TOKENS, "cpu", 20)
    together, _ = represented(folder, PAIRS, batch_size=100, precision="auto")
    assert np.abs(alone - together).max() < 1e-5


def test_vectors_in_bf16_stay_near_those_in_fp32(folder, monkeypatch):
    monkeypatch.setenv("BERTJOBS_TEST_PRECISION", "bf16")
    exact, _ = represented(folder, PAIRS, precision="fp32")
    rounded, _ = represented(folder, PAIRS, precision="bf16")
    errors = np.linalg.norm(rounded - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert errors.min() > 0
    assert errors.max() < 8 * 2.0**-8


def test_a_long_text_is_cut_as_it_was_in_training(folder):
    tokenizer = load_tokenizer(folder)
    (part,) = [p for _, p in singles_and_pairs(encode_singles_and_pairs([(SENTENCES[3], None)], tokenizer))]
    assert uncut_sequence_lengths(part.lengths_a, part.lengths_b)[0] > 8
    vectors, tokens = represented(folder, [(SENTENCES[3], None)], max_len=8)
    assert tokens[0].shape == (8, 32)
    words = tokenizer.token_strings(tokenizer.encode(SENTENCES[3])[:6])
    text = " ".join(words).replace(" ##", "")
    assert np.abs(vectors - represented(folder, [(text, None)])[0]).max() < 1e-5


def test_the_filled_mask_has_the_probabilities_of_transformers(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(tmp_path)
    ids, masks = [2, 7, 4, 8, 4, 3], [2, 4]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, masks].softmax(dim=1)
    ours = build_masked_language_model(load_weights(tmp_path, cache=tmp_path))
    assert (mask_probabilities(ours, ids, masks=masks) - expected).abs().max() < 1e-5


def test_a_model_without_the_head_fills_no_mask(folder, tmp_path):
    classifier = build_classifier(load_weights(folder, cache=folder), num_labels=2, seed=0)
    save_pretrained(classifier, tmp_path)
    with pytest.raises(
        ModelError, match=r"cannot fill masks: it has no masked-language-model head"
    ) as caught:
        build_masked_language_model(load_weights(tmp_path, cache=tmp_path))
    assert "fine-tuned has lost its head" in caught.value.hint


@pytest.mark.real_data
def test_d2l_weights_represent_the_golden_texts_as_d2l_does(data_root, tmp_path):
    golden = data_root / "golden" / "d2l"
    expected = load_file(golden / "expected.safetensors")
    loaded = load_weights(golden / "bert.tiny.torch.zip", cache=tmp_path, num_heads=4)
    representer = TextEmbedder(
        build_pretraining(loaded, seed=0).bert,
        text=TextSection(max_len=64),
        tokenizer=load_tokenizer(loaded.tokenizer_path),
        pooling="cls",
        batch_size=8,
        precision="fp32",
    )
    texts = [tuple(text) for text in json.loads((golden / "config.json").read_text())["texts"]]
    table = encode_singles_and_pairs(texts, load_tokenizer(loaded.tokenizer_path))
    num_compared = 0
    for rows, part in singles_and_pairs(table):
        for row, ids, hidden in representer.tokens(part):
            number, length = rows[row], len(ids)
            assert ids == expected["tokens"][number, :length].tolist()
            assert length == int(expected["valid_lens"][number])
            assert np.abs(hidden - expected["encoded"][number, :length].numpy()).max() < 1e-5
            num_compared += 1
    assert num_compared == 4
