"""Values of an encode job that are in conflict, or without effect, are refused."""

import pytest

from bertjobs.config import load_config, set_layer
from bertjobs.errors import ConfigError

NEEDED = ("model.source=m", "data.path=lines.txt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("data.column=body",), "--set data.column has no effect: plain text has no columns"),
        (
            ("text.truncation=only_second",),
            "--set text.truncation has no effect: it cuts the two texts of a pair differently, and "
            "without --pair-separator there are no pairs",
        ),
        (
            ("resources.gpus=4", "resources.workers=2"),
            "--set resources.workers and --set resources.gpus: a worker uses one GPU, so 2 worker(s) would "
            "leave some of 4 idle",
        ),
        (("text.pair_separator=''",), "--set text.pair_separator: '' is not allowed"),
    ],
)
def test_what_would_have_no_effect_or_contradict_is_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("encode", set_layer((*NEEDED, *given)))
    assert message in caught.value.message


def test_the_same_values_are_taken_where_they_count() -> None:
    given = ("model.source=m", "data.path=lines.jsonl", "data.column=body", "text.truncation=head_tail")
    assert load_config("encode", set_layer(given)).resources.gpus == 0
    pairs = ("text.truncation=ratio", "text.pair_separator='|'", "resources.gpus=4", "resources.workers=4")
    assert load_config("encode", set_layer((*NEEDED, *pairs))).resources.workers == 4
