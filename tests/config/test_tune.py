"""The parameters of a search: values in conflict or without effect are refused."""

from typing import Any

import pytest

from bertjobs.config import ConfigLayer, TuneConfig, load_config
from bertjobs.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search.trials": 0}, "search.trials: 0 is not allowed; expected a whole number >= 1"),
        (
            {"search.metric": "bleu"},
            "search.metric: bleu is not allowed; choose one of accuracy, mcc, f1, f1_micro, f1_macro, "
            "pearson, spearman, exact, loss",
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
        (
            {"train.keep_weights": "last"},
            "train.keep_weights has no effect: a search compares the best weights of its trials",
        ),
        ({"train.profile": 5}, "train.profile has no effect: a search runs many trainings"),
        ({"search.grace_examples": 10, "search.stopper": "none"}, "no trial is stopped early"),
        ({"search.reduction_factor": 2.0, "search.stopper": "median"}, "only asha uses it"),
        ({"search.search_seed": 2, "search.algorithm": "grid"}, "a grid tries every point"),
        ({"search.space": "x"}, "search.space: x is not allowed; expected a mapping"),
    ],
)
def test_values_in_conflict_or_without_effect_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_config("tune", ConfigLayer(values, {path: path for path in values}))
    assert message in e.value.message


def test_a_value_that_is_not_varied_may_be_given() -> None:
    texts = {"optim.weight_decay": "uniform:0,0.1"}
    config = load_config("tune", ConfigLayer({"search.space": texts, "optim.lr": 1e-4}, {}))
    assert isinstance(config, TuneConfig)
    assert config.optim.lr == 1e-4
