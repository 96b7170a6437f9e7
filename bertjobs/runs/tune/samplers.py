"""Which configuration a trial tries: a sampler per `--algorithm`.

Random and grid search are functions of (seed, number) alone, Bayesian search also of the trials that have
ended before. So a search that resumes after a fault, or runs again with its seed, tries the same ones.
"""

import itertools
import random
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from bertjobs.config.dimensions import Choice, Dimension, IntegerRange, LogRange, Space, Value, Values
from bertjobs.config.tune import TuneConfig
from bertjobs.errors import ConfigError
from bertjobs.runs.tune.trial_records import Trial


class Sampler(Protocol):
    """Chooses the configuration of each trial."""

    num_trials: int

    def sample(self, number: int, ended: Sequence[Trial]) -> Values:
        """Return the values that a trial, counted from 1, tries, given the trials that have ended."""


def sampler_for(config: TuneConfig, space: Space, *, metric: str) -> Sampler:
    """Return the sampler that `--algorithm` names. Raises: ConfigError: its package is not installed."""
    search = config.search
    if search.algorithm == "grid":
        return GridSampler(space)
    if search.algorithm == "bayesian":
        return BayesianSampler(space, seed=search.search_seed, num_trials=search.trials, metric=metric)
    return RandomSampler(space, seed=search.search_seed, num_trials=search.trials)


class RandomSampler:
    """Draws each dimension independently; what was drawn before is drawn again, up to `_MAX_DRAWS` times."""

    _MAX_DRAWS = 100

    def __init__(self, space: Space, *, seed: int, num_trials: int) -> None:
        self.num_trials = num_trials
        self._all: list[Values] = []
        for number in range(1, num_trials + 1):
            self._all.append(self._draw(space, random.Random(f"{seed}/{number}")))

    def sample(self, number: int, ended: Sequence[Trial] = ()) -> Values:
        return dict(self._all[number - 1])

    def _draw(self, space: Space, rng: random.Random) -> Values:
        for _ in range(self._MAX_DRAWS):
            values = {path: dimension.draw(rng) for path, dimension in space.items()}
            if values not in self._all:
                break
        return values


class GridSampler:
    """Tries every combination of the dimensions' points, the last dimension varied first."""

    def __init__(self, space: Space) -> None:
        points = itertools.product(*(dimension.grid for dimension in space.values()))
        self._all = [dict(zip(space, point, strict=True)) for point in points]
        self.num_trials = len(self._all)

    def sample(self, number: int, ended: Sequence[Trial] = ()) -> Values:
        return dict(self._all[number - 1])


class BayesianSampler:
    """Asks Optuna's tree-structured Parzen estimator, built anew for each trial, so that it keeps no state.

    Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization.
    """

    def __init__(self, space: Space, *, seed: int, num_trials: int, metric: str) -> None:
        try:
            import optuna
        except ImportError as e:
            raise ConfigError(
                "--algorithm bayesian needs Optuna, which is not installed here",
                hint="Run `pip install 'bertjobs[tune-bayesian]'`, or give `--algorithm random`.",
            ) from e
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._seed, self._metric = optuna, space, seed, metric
        self.num_trials = num_trials

    def sample(self, number: int, ended: Sequence[Trial]) -> Values:
        optuna = self._optuna
        distributions = {path: self._distribution(dimension) for path, dimension in self._space.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=random.Random(f"{self._seed}/{number}").randrange(2**31),
                multivariate=True,
            )
        study = optuna.create_study(direction=self._direction, sampler=sampler)
        for trial in sorted(ended, key=lambda t: t.number):
            if (best := trial.best(self._metric)) is not None and trial.state != "failed":
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(trial.values),
                        distributions=distributions,
                        value=best.value_of(self._metric),
                    )
                )
        asked = study.ask(distributions).params
        return {path: _rounded(self._space[path], value) for path, value in asked.items()}

    @property
    def _direction(self) -> str:
        return "minimize" if self._metric == "loss" else "maximize"

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if isinstance(dimension, Choice):
            return kinds.CategoricalDistribution(dimension.values)
        if isinstance(dimension, IntegerRange):
            return kinds.IntDistribution(int(dimension.low), int(dimension.high))
        is_log = isinstance(dimension, LogRange)
        return kinds.FloatDistribution(dimension.low, dimension.high, log=is_log)


def _rounded(dimension: Dimension, value: Value) -> Value:
    """Round a value as the other samplers do."""
    return value if isinstance(dimension, Choice | IntegerRange) else dimension.rounded(float(value))
