"""A small model of random weights, and commands that encode with it."""

import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.modeling import BertConfig, build_pretraining, save_pretrained
from bertjobs.runs.encode.embed_texts import embed_texts
from bertjobs.runs.encode.fill_mask import fill_masks
from bertjobs.settings import load_settings
from bertjobs.text.vocabulary import train_wordpiece

CORPUS = ["a crane is flying", "a crane driver came", "he just left", "flying is a joy", "cranes fly"]


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
def embed(model, settings):
    """Embed texts with the model; warnings are in `embed.said`."""

    def run(*texts, words=(), source=model, **given):
        values = {"model.source": str(source), "data.path": "-", "text.pair_separator": "|", **given}
        config = load_config("encode", ConfigLayer(values, {}))
        return embed_texts(texts, words=words, config=config, settings=settings, warn=run.said.append)

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
