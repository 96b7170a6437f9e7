"""The size presets are the published models, and the text side must fit them."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from bertjobs.config.presets import configs_dir, size_names
from bertjobs.errors import ModelError
from bertjobs.modeling import BertConfig, BertForPreTraining, BertForSequenceClassification, BertModel

PUBLISHED = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "d2l-small": (2, 256, 4),
    "d2l-small-wikitext": (2, 128, 2),
}


def num_parameters(make) -> int:
    with torch.device("meta"):
        model: nn.Module = make()
    return sum(p.numel() for p in model.parameters())


def test_every_size_is_the_published_one_and_says_its_source():
    assert set(size_names()) == set(PUBLISHED)
    for name, (num_layers, hidden_size, num_heads) in PUBLISHED.items():
        config = BertConfig.of_size(name, vocab_size=1000)
        assert config.vocab_size == 1000
        assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
            num_layers,
            hidden_size,
            num_heads,
        )
        text = (configs_dir() / "models" / f"{name}.yaml").read_text()
        assert text.startswith("#") and "Source:" in text.split("vocab_size")[0]


def test_base_has_110_million_parameters_with_its_pooler():
    base = BertConfig.of_size("base", vocab_size=30522)
    assert num_parameters(lambda: BertModel(base)) == 109_482_240
    assert num_parameters(lambda: BertForPreTraining(base)) == pytest.approx(110e6, rel=0.01)
    assert num_parameters(lambda: BertForSequenceClassification(base, 3)) == pytest.approx(110e6, rel=0.01)


def test_large_has_the_335_million_parameters_that_the_paper_rounds_to_340():
    large = BertConfig.of_size("large", vocab_size=30522)
    assert num_parameters(lambda: BertModel(large)) == 335_141_888
    assert num_parameters(lambda: BertForPreTraining(large)) == 336_226_108
    assert num_parameters(lambda: BertForPreTraining(large)) == pytest.approx(340e6, rel=0.012)


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7), ("base", 110.1)],
)
def test_small_sizes_have_the_parameters_of_their_table(size: str, millions: float):
    """Turc et al. 2019, table 1, which counts both heads, to a tenth of a million."""
    config = BertConfig.of_size(size, vocab_size=30522)
    assert round(num_parameters(lambda: BertForPreTraining(config)) / 1e6, 1) == millions


def test_the_wikitext_model_is_d2ls_with_its_untied_decoder():
    """20,256 words of WikiText-2 that occur 5 times or more, and five special tokens, as d2l counts them."""
    V, D, F, L = 20256, 128, 256, 64
    config = BertConfig.of_size("d2l-small-wikitext", vocab_size=V)
    layer = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D
    embeddings = V * D + 2 * D + config.max_position_embeddings * D
    masked_head = (D * D + D) + 2 * D + (D * V + V)
    pair_head = (D * D + D) + (D * 2 + 2)
    expected = embeddings + 2 * layer + masked_head + pair_head
    assert num_parameters(lambda: BertForPreTraining(config)) == expected
    assert config.max_position_embeddings >= L


def test_a_vocabulary_may_lack_only_the_rows_that_round_the_table_up():
    config = BertConfig(vocab_size=30528)
    config.check_fits(vocab_size=30522, max_len=512)
    for vocab_size in (28996, 30529):
        message = f"The vocabulary has {vocab_size} entries, but the weights have 30528"
        with pytest.raises(ModelError, match=message) as caught:
            config.check_fits(vocab_size=vocab_size, max_len=128)
        assert "vocab.txt" in caught.value.hint and "--model" in caught.value.hint


def test_more_tokens_than_positions_names_the_flag():
    with pytest.raises(
        ModelError, match=re.escape("--max-len 513 is more than the model's 512 positions.")
    ) as caught:
        BertConfig().check_fits(vocab_size=30522, max_len=513)
    assert caught.value.hint.startswith("Give --max-len 512 or less")


def test_rates_that_are_given_replace_the_checkpoints_and_others_stay():
    config = replace(BertConfig(), hidden_dropout_prob=0.2).with_dropout(attention=0.0, classifier=0.3)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.0)
    assert config.classifier_dropout == 0.3
