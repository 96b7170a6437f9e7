"""Dimensions of a search are read from text, and draw values inside their ends."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.config import ConfigLayer, TuneConfig, load_config
from bertjobs.config.dimensions import Choice, IntegerRange, LogRange, Range, merge_space, parse_space
from bertjobs.errors import ConfigError


def test_each_kind_of_dimension_is_read() -> None:
    space = parse_space(
        {
            "text.truncation": "choice:ratio, longest_first",
            "optim.weight_decay": "uniform:0,0.2",
            "optim.lr": "loguniform:1e-5,1e-4,3",
            "train.seed": "randint:0,2",
        }
    )
    assert space["text.truncation"] == Choice(values=("ratio", "longest_first"))
    assert space["optim.weight_decay"] == Range(low=0, high=0.2, num_points=None)
    assert space["optim.lr"] == LogRange(low=1e-5, high=1e-4, num_points=3)
    assert space["optim.lr"].grid == (1e-5, 3.162e-5, 1e-4)
    assert space["train.seed"] == IntegerRange(low=0, high=2, num_points=None)
    assert space["train.seed"].grid == (0, 1, 2)


@given(low=st.floats(1e-8, 1.0), factor=st.floats(1.001, 1e4), seed=st.integers(0, 2**31), log=st.booleans())
def test_what_is_drawn_lies_between_the_ends(low: float, factor: float, seed: int, log: bool) -> None:
    dimension = (LogRange if log else Range)(low=low, high=low * factor, num_points=None)
    value = dimension.draw(random.Random(seed))
    assert dimension.low <= float(value) <= dimension.high


def test_whole_numbers_are_drawn_with_both_ends() -> None:
    (dimension,) = parse_space({"train.seed": "randint:1,3"}).values()
    rng = random.Random(0)
    assert {dimension.draw(rng) for _ in range(100)} == {1, 2, 3}


def test_lines_and_files_of_a_space_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("train.batch_size: [16, 32]\noptim.warmup_ratio: uniform:0,0.2\n")
    merged = merge_space(("optim.lr=loguniform:1e-5,1e-4", str(path)))
    config = load_config("tune", ConfigLayer({"search.space": merged}, {}))
    assert isinstance(config, TuneConfig)
    assert config.search.space == {
        "optim.lr": "loguniform:1e-5,1e-4",
        "train.batch_size": "choice:16,32",
        "optim.warmup_ratio": "uniform:0,0.2",
    }
    with pytest.raises(ConfigError, match=r"train\.batch_size was given before"):
        merge_space((str(path), "train.batch_size=choice:1,2"))
    with pytest.raises(
        ConfigError, match=r"--space nosuch\.yaml: there is no such file, and it is not a dotted path"
    ):
        merge_space(("nosuch.yaml",))
    with pytest.raises(ConfigError, match=r"--space optim\.lr=: expected a dotted path and a dimension"):
        merge_space(("optim.lr=",))
