"""A space is read from text, and whatever is wrong with it is said before anything is queued."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.config import ConfigLayer, TuneConfig, load_config, parameter_paths
from bertjobs.config.dimensions import Choice, IntegerRange, LogRange, Range, merge_space, parse_space
from bertjobs.config.search_space import (
    NOT_SEARCHABLE,
    corner_configs,
    default_space,
    max_lens,
    search_space,
    trial_config,
    workers_per_trial,
)
from bertjobs.config.tune import SEARCHABLE_PATHS
from bertjobs.errors import ConfigError


def tune_config(**values: Any) -> TuneConfig:
    """Return the configuration of a search; `search__trials=3` gives `search.trials`."""
    given_values = {name.replace("__", "."): value for name, value in values.items()}
    config = load_config("tune", ConfigLayer(given_values, {}, is_given=False))
    assert isinstance(config, TuneConfig)
    return config


def space_of(texts: dict[str, Any], *, is_pair: bool = True, **values: Any) -> dict[str, Any]:
    return search_space(tune_config(search__space=texts, **values), is_large=False, is_pair=is_pair)


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
    chance = random.Random(0)
    assert {dimension.draw(chance) for _ in range(100)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"optim.lr": "gauss:1,2"}, "expected choice:, uniform:, loguniform:, randint: and values"),
        ({"optim.lr": "1e-3"}, "expected choice:, uniform:, loguniform:, randint: and values"),
        ({"optim.lr": "choice:"}, "there is no value to choose from"),
        ({"optim.lr": "choice:1e-3,,1e-4"}, "there is no value to choose from"),
        ({"optim.lr": "choice:1e-3,1e-3"}, "a value was given twice"),
        ({"optim.lr": "uniform:1e-3"}, "a range has two ends, but there are 1 values"),
        ({"optim.lr": "uniform:1e-3,1e-4"}, "the ends are in the wrong order, 0.001 is more than 0.0001"),
        ({"optim.lr": "uniform:1e-3,1e-3"}, "the range is empty, both ends are 0.001"),
        ({"optim.lr": "loguniform:0,1e-3"}, "loguniform needs ends above 0, but the first is 0"),
        ({"optim.lr": "loguniform:-1,1e-3"}, "loguniform needs ends above 0, but the first is -1"),
        ({"optim.lr": "uniform:a,1e-3"}, "a is not a number"),
        ({"optim.lr": "uniform:nan,1e-3"}, "nan is not a number"),
        ({"train.seed": "randint:0,1.5"}, "1.5 is not a whole number"),
        ({"optim.lr": "loguniform:1e-5,1e-3,1"}, "1 is not a number of points"),
        ({"train.seed": "randint:0,2,9"}, "there are fewer than 9 whole numbers from 0 to 2"),
        ({"optim.lr": "uniform:0,1e-3"}, "0.0 is not allowed; expected a number > 0 and <= 1"),
        ({"optim.lr": "uniform:1e-3,2"}, "2.0 is not allowed; expected a number > 0 and <= 1"),
        (
            {"text.truncation": "choice:ratio,shortest"},
            "shortest is not allowed; choose one of longest_first",
        ),
        ({"train.batch_size": "uniform:16,64"}, "train.batch_size takes whole numbers"),
        ({"optim.lrr": "uniform:0,1"}, "finetune has no parameter optim.lrr"),
        ({"optim.decay_ratio": "uniform:0.1,0.2"}, "has no effect: only the wsd schedule uses it"),
        (
            {"data.path": "choice:a,b"},
            "cannot be searched: the data is read and encoded once, for all trials",
        ),
        ({"task.name": "choice:snli,cola"}, "cannot be searched: the trials of a search learn one task"),
        ({"resources.gpus": "choice:1,2"}, "cannot be searched: a search divides one grant of resources"),
        ({"model.vocab_size": "choice:64,128"}, "cannot be searched: all trials start from the same weights"),
        ({"train.accumulation": "choice:1,2"}, "cannot be searched: it does not change what a trial learns"),
    ],
)
def test_a_wrong_dimension_is_named_with_its_fault(texts: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        space_of(texts)
    ((path, text),) = texts.items()
    assert e.value.message.startswith(f"--space {path}={text}")
    assert message in e.value.message


def test_an_unknown_path_is_answered_with_the_close_one() -> None:
    for given_path in ("optim.lrr", "lr"):
        with pytest.raises(ConfigError) as e:
            space_of({given_path: "choice:1e-3,1e-4"})
        assert e.value.hint == "Did you mean optim.lr?"


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="--space: the space is empty"):
        space_of({})


def test_values_that_contradict_each_other_somewhere_are_refused_with_the_trial() -> None:
    texts = {"optim.schedule": "choice:linear,wsd", "optim.warmup_ratio": "uniform:0,0.9"}
    with pytest.raises(ConfigError) as e:
        space_of(texts)
    assert "--space: a trial could have optim.schedule=wsd and optim.warmup_ratio=0.9." in e.value.message
    assert "take more than all steps" in e.value.message


def test_three_values_that_contradict_each_other_only_together_are_found() -> None:
    texts = {
        "optim.schedule": "choice:linear,wsd",
        "optim.warmup_ratio": "uniform:0,0.7",
        "optim.decay_ratio": "uniform:0.1,0.5",
    }
    with pytest.raises(
        ConfigError, match=r"schedule=wsd and optim\.warmup_ratio=0\.7 and optim\.decay_ratio=0\.5"
    ):
        space_of(texts)


def test_a_dimension_that_has_an_effect_beside_one_value_of_another_is_kept() -> None:
    texts = {"optim.schedule": "choice:linear,wsd", "optim.decay_ratio": "uniform:0.1,0.2"}
    assert set(space_of(texts)) == set(texts)


def test_strategies_that_cut_single_texts_alike_are_refused_for_them() -> None:
    texts = {"text.truncation": "choice:ratio,only_first"}
    assert space_of(texts)
    with pytest.raises(ConfigError, match="has no effect: --task cola has single texts"):
        space_of(texts, is_pair=False, task__name="cola")
    assert space_of({"text.truncation": "choice:ratio,head_tail"}, is_pair=False)


def test_every_parameter_of_a_trial_can_be_varied_or_says_why_not() -> None:
    every = parameter_paths("finetune")
    refused = [p for p in every if p in NOT_SEARCHABLE or p.partition(".")[0] in NOT_SEARCHABLE]
    assert sorted([*refused, *SEARCHABLE_PATHS]) == sorted(every)
    assert len(SEARCHABLE_PATHS) > 20


def test_the_default_space_follows_the_size_of_the_model_and_the_task() -> None:
    config = tune_config()
    small = default_space(config, is_large=False, is_pair=True)
    assert small["optim.lr"] == "loguniform:1e-5,1e-3"
    assert small["train.batch_size"] == "choice:16,32,64,128"
    assert small["text.truncation"] == "choice:longest_first,only_first,only_second,ratio,head_tail"
    assert default_space(config, is_large=True, is_pair=True)["optim.lr"] == "loguniform:1e-5,1e-4"
    assert default_space(config, is_large=True, is_pair=False)["text.truncation"].count(",") == 1
    for is_pair in (False, True):
        for algorithm in ("random", "grid", "bayesian"):
            searched = tune_config(search__algorithm=algorithm, search__trials=100)
            assert len(search_space(searched, is_large=False, is_pair=is_pair)) == 3


def test_a_grid_asks_for_points_and_for_as_many_trials() -> None:
    grid = {"search__algorithm": "grid"}
    with pytest.raises(ConfigError, match="a grid needs the number of points of this range"):
        space_of({"optim.lr": "loguniform:1e-5,1e-3"}, **grid)
    with pytest.raises(ConfigError) as e:
        space_of({"optim.lr": "loguniform:1e-5,1e-3,10", "train.batch_size": [16, 32, 64, 128]}, **grid)
    assert (e.value.message, e.value.hint) == (
        "--trials 32: the grid has 40 points", "Give --trials 40, or fewer values in --space.",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="only a grid uses the number of points of a range"):
        space_of({"optim.lr": "loguniform:1e-5,1e-3,10"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search.trials": 0}, "search.trials: 0 is not allowed; expected a whole number >= 1"),
        (
            {"search.metric": "bleu"},
            "search.metric: bleu is not allowed; choose one of accuracy, mcc, f1, loss",
        ),
        (
            {"search.gpus_per_trial": 2.0, "resources.gpus": 1},
            "a trial needs 2 GPU(s), but the search has 1 in all",
        ),
        ({"search.gpus_per_trial": 0.5}, "a trial needs 0.5 GPU(s), but the search has 0 in all"),
        ({"search.gpus_per_trial": 1.5, "resources.gpus": 8}, "1.5 GPU(s) cannot be shared evenly among"),
        (
            {"search.gpus_per_trial": 0.5, "search.workers_per_trial": 2, "resources.gpus": 8},
            "0.5 GPU(s) cannot be shared evenly among the 2 worker(s) of a trial",
        ),
        ({"search.workers_per_trial": 2}, "a trial has 2 workers, but the search has 1 in all"),
        ({"optim.lr": 1e-4}, "optim.lr has no effect: the search varies it"),
        ({"search.grace_examples": 10, "search.stopper": "none"}, "no trial is stopped early"),
        ({"search.reduction_factor": 2.0, "search.stopper": "median"}, "only asha uses it"),
        ({"search.search_seed": 2, "search.algorithm": "grid"}, "a grid tries every point"),
        ({"search.space": "x"}, "search.space: x is not allowed; expected a mapping"),
    ],
)
def test_what_contradicts_itself_or_has_no_effect_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_config("tune", ConfigLayer(values, {path: path for path in values}))
    assert message in e.value.message


def test_a_value_that_is_not_varied_may_be_given() -> None:
    texts = {"optim.weight_decay": "uniform:0,0.1"}
    config = load_config("tune", ConfigLayer({"search.space": texts, "optim.lr": 1e-4}, {}))
    assert isinstance(config, TuneConfig)
    assert config.optim.lr == 1e-4


def test_the_configuration_of_a_trial_is_a_fine_tuning() -> None:
    config = tune_config(resources__gpus=8, search__gpus_per_trial=0.5, train__epochs=2)
    trial = trial_config(config, {"optim.lr": 1e-4, "train.batch_size": "64"})
    assert (trial.optim.lr, trial.train.batch_size, trial.train.epochs) == (1e-4, 64, 2)
    assert (trial.resources.gpus, trial.resources.workers) == (1, None)
    assert workers_per_trial(tune_config(resources__gpus=8, search__gpus_per_trial=4.0)) == 4
    assert workers_per_trial(tune_config()) == 1


def test_the_extreme_lengths_are_found_among_the_ends() -> None:
    config = tune_config(search__space={"text.max_len": "randint:16,40", "optim.lr": "choice:1e-4,1e-3"})
    space = search_space(config, is_large=False, is_pair=True)
    assert max_lens(config, space) == (16, 40)
    assert len(list(corner_configs(config, space))) == 4


def test_lines_and_files_of_a_space_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("train.batch_size: [16, 32]\noptim.warmup_ratio: uniform:0,0.2\n")
    merged = merge_space(("optim.lr=loguniform:1e-5,1e-4", str(path)))
    assert tune_config(search__space=merged).search.space == {
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
