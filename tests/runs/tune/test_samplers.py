"""What each sampler tries, trial after trial."""

from typing import Any

import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.config.search_space import search_space
from bertjobs.errors import ConfigError
from bertjobs.runs.tune.samplers import sampler_for
from bertjobs.runs.tune.trial_records import Trial
from runs.tune.trials import evaluation


def proposed(algorithm: str, *, seed: int = 0, space: Any = None, trials: int = 6) -> list[dict[str, Any]]:
    """Return what a search tries one after the other, each trial better at higher learning rates."""
    space = space or {"optim.lr": "loguniform:1e-5,1e-3", "train.batch_size": "choice:16,32"}
    values = {"search.space": space, "search.algorithm": algorithm, "search.trials": trials}
    config = load_config("tune", ConfigLayer({**values, "search.search_seed": seed}, {}, is_given=False))
    sampler = sampler_for(config, search_space(config, is_large=False, is_pair=True), metric="accuracy")  # type: ignore[arg-type]
    ended: list[Trial] = []
    for number in range(1, sampler.num_trials + 1):
        tried = sampler.sample(number, ended)
        ended.append(
            Trial(number=number, values=tried, config={}, state="finished", history=(evaluation(0.5),))
        )
    return [t.values for t in ended]


@pytest.mark.parametrize("algorithm", ["random", "bayesian"])
def test_the_same_seed_tries_the_same_configurations_and_another_seed_others(algorithm: str) -> None:
    if algorithm == "bayesian":
        pytest.importorskip("optuna", reason="the extra tune-bayesian is not installed")
    assert proposed(algorithm, seed=1) == proposed(algorithm, seed=1)
    assert proposed(algorithm, seed=1) != proposed(algorithm, seed=2)
    for values in proposed(algorithm):
        assert 1e-5 <= values["optim.lr"] <= 1e-3
        assert values["train.batch_size"] in ("16", "32")


def test_a_longer_random_search_begins_with_the_shorter_one() -> None:
    assert proposed("random", trials=12)[:6] == proposed("random", trials=6)


def test_random_tries_nothing_twice_while_there_is_something_else() -> None:
    space = {"train.batch_size": "choice:16,32,64", "train.seed": "randint:0,1"}
    tried = proposed("random", space=space, trials=6)
    assert len({tuple(values.items()) for values in tried}) == 6
    assert len(proposed("random", space=space, trials=8)) == 8


def test_a_grid_tries_every_point_once() -> None:
    space = {"optim.lr": "loguniform:1e-5,1e-3,3", "train.batch_size": "choice:16,32"}
    assert [tuple(values.values()) for values in proposed("grid", space=space)] == [
        (lr, size) for lr in (1e-5, 1e-4, 1e-3) for size in ("16", "32")
    ]


def test_bayesian_learns_from_the_trials_before() -> None:
    pytest.importorskip("optuna", reason="the extra tune-bayesian is not installed")
    config = load_config("tune", ConfigLayer({"search.algorithm": "bayesian"}, {}, is_given=False))
    sampler = sampler_for(config, search_space(config, is_large=False, is_pair=True), metric="accuracy")  # type: ignore[arg-type]
    ended = [
        Trial(number=n, values=v, config={}, state="finished", history=(evaluation(0.9 if is_good else 0.3),))
        for n in range(1, 25)
        for v in [sampler.sample(n, [])]
        for is_good in [v["text.truncation"] == "ratio"]
    ]
    tried = [sampler.sample(n, ended)["text.truncation"] for n in range(25, 45)]
    assert tried.count("ratio") > 8  # one in five by chance


def test_bayesian_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    config = load_config("tune", ConfigLayer({"search.algorithm": "bayesian"}, {}, is_given=False))
    with pytest.raises(ConfigError) as e:
        sampler_for(config, {}, metric="accuracy")  # type: ignore[arg-type]
    assert "needs Optuna, which is not installed here" in e.value.message
    assert "tune-bayesian" in e.value.hint
