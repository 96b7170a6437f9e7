"""The space of a search, and the configurations of its trials, are validated before anything is queued."""

from typing import Any

import pytest

from bertjobs.config import ConfigLayer, TuneConfig, load_config, parameter_paths
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


def space_of(
    texts: dict[str, Any], *, is_pair: bool = True, has_windows: bool = False, **values: Any
) -> dict[str, Any]:
    config = tune_config(search__space=texts, **values)
    return search_space(config, is_large=False, is_pair=is_pair, has_windows=has_windows)


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
def test_a_wrong_dimension_is_named_with_what_is_wrong(texts: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        space_of(texts)
    ((path, text),) = texts.items()
    assert e.value.message.startswith(f"--space {path}={text}")
    assert message in e.value.message


def test_an_unknown_path_is_refused_with_a_close_one() -> None:
    for given_path in ("optim.lrr", "lr"):
        with pytest.raises(ConfigError) as e:
            space_of({given_path: "choice:1e-3,1e-4"})
        assert e.value.hint == "Did you mean optim.lr?"


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="--space: the space is empty"):
        space_of({})


def test_values_in_conflict_in_some_trial_are_refused_with_that_trial() -> None:
    texts = {"optim.schedule": "choice:linear,wsd", "optim.warmup_ratio": "uniform:0,0.9"}
    with pytest.raises(ConfigError) as e:
        space_of(texts)
    assert "--space: a trial could have optim.schedule=wsd and optim.warmup_ratio=0.9." in e.value.message
    assert "take more than all steps" in e.value.message


def test_three_values_that_are_in_conflict_only_together_are_found() -> None:
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


def test_strategies_that_cut_single_texts_in_the_same_way_are_refused_for_them() -> None:
    texts = {"text.truncation": "choice:ratio,only_first"}
    assert space_of(texts)
    with pytest.raises(ConfigError, match="has no effect: --task cola has single texts"):
        space_of(texts, is_pair=False, task__name="cola")
    assert space_of({"text.truncation": "choice:ratio,head_tail"}, is_pair=False)


def test_a_task_with_windows_searches_their_overlap_and_no_truncation() -> None:
    config = tune_config()
    space = default_space(config, is_large=False, is_pair=True, has_windows=True)
    assert set(space) == {"optim.lr", "train.batch_size"}
    stride = {"text.doc_stride": "choice:8,16"}
    assert space_of(stride, has_windows=True)
    with pytest.raises(ConfigError, match=r"has no effect: --task snli has no contexts to cut into windows"):
        space_of(stride)
    with pytest.raises(ConfigError, match=r"has no effect: --task squad cuts its contexts into windows"):
        space_of({"text.truncation": "choice:ratio,head_tail"}, has_windows=True, task__name="squad")


def test_every_parameter_of_a_trial_can_be_searched_or_has_a_reason_why_not() -> None:
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


def test_a_grid_needs_numbers_of_points_and_as_many_trials() -> None:
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


def test_a_trial_has_the_configuration_of_a_fine_tuning_job() -> None:
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
