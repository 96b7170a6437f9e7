"""The parameters of pretraining: a value without effect on its corpus is refused."""

import pytest

from bertjobs.config import load_config, set_layer
from bertjobs.errors import ConfigError


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ("data.corpus=wikitext-103", "data.valid_ratio=0.1"),
            "--set data.valid_ratio has no effect: a published corpus has a validation file, so no documents "
            "are held out",
        ),
        (
            ("data.corpus=c/*.jsonl", "data.valid=v.txt", "data.valid_ratio=0.1"),
            "--set data.valid_ratio has no effect: --valid gives the validation corpus, so no documents are "
            "held out",
        ),
        (("data.column=body",), "--set data.column has no effect: plain text has no columns"),
        (
            ("data.corpus=a.txt", "data.column=body"),
            "--set data.column has no effect: plain text has no columns",
        ),
    ],
)
def test_a_value_without_effect_on_a_corpus_is_refused(assignments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_config("pretrain", set_layer(assignments))
    assert e.value.message == message


@pytest.mark.parametrize(
    "assignments",
    [
        ("data.corpus=c.jsonl", "data.valid_ratio=0.1", "data.column=body"),
        ("data.corpus=folder", "data.column=body"),
        ("data.corpus=a.txt", "data.valid=v.parquet", "data.column=body"),
    ],
)
def test_a_value_with_effect_on_a_corpus_is_accepted(assignments: tuple[str, ...]) -> None:
    load_config("pretrain", set_layer(assignments))
