"""The trials of a search as files in its job's folder, which the next driver and `bertjobs trials` read.

    trials/search.json      the search: metric, space, algorithm, number of trials
    trials/<n>.json         one trial, replaced as a whole after each evaluation
    trials/<n>/             its checkpoints and series, as a fine-tuning job has them

Knows neither Ray nor torch: the command line reads these files too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bertjobs.config.dimensions import Values
from bertjobs.errors import ConfigError
from bertjobs.storage import JobDir

TrialState = Literal["running", "finished", "stopped", "failed"]
"""`stopped`: ended early by the scheduler, which is not a failure."""


_PLACE = ("num_examples", "step", "epoch")


@dataclass(frozen=True, kw_only=True)
class TrialEvaluation:
    """The metrics of a trial at one point of its training."""

    num_examples: int
    """Examples seen, over all epochs."""
    step: int
    epoch: float
    """Passes over the training rows."""
    scores: Mapping[str, float]
    """The metrics of the task and `loss`, by name."""

    def value_of(self, metric: str) -> float:
        """Return one of the metrics that a search can optimise."""
        return self.scores[metric]

    def to_json(self) -> dict[str, Any]:
        """Return all of it flat."""
        place = {"num_examples": self.num_examples, "step": self.step, "epoch": self.epoch}
        return place | dict(self.scores)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrialEvaluation":
        scores = {name: float(value) for name, value in content.items() if name not in _PLACE}
        return cls(**{name: content[name] for name in _PLACE}, scores=scores)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration, and its result."""

    number: int
    """From 1, in the order of the search."""
    values: Values
    """What was varied, by dotted path."""
    config: dict[str, Any]
    """The whole configuration, as of `submit finetune`."""
    state: TrialState = "running"
    reason: str = ""
    """Failure class, or the name of the stopper."""
    message: str = ""
    history: tuple[TrialEvaluation, ...] = ()
    train_s: float = 0.0
    """Seconds it ran, in the last attempt."""
    by_length: tuple[dict[str, Any], ...] = ()
    """Correct answers by length of the example, where any was truncated; see `trial_worker.count_correct`."""

    @property
    def has_ended(self) -> bool:
        return self.state != "running"

    def best(self, metric: str) -> TrialEvaluation | None:
        """Return the evaluation with the best value; the first of equals, whose checkpoint is kept."""
        if not self.history:
            return None
        return max(self.history, key=lambda e: score_of(e, metric))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "history": [evaluation.to_json() for evaluation in self.history]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Trial":
        history = tuple(TrialEvaluation.from_json(evaluation) for evaluation in content["history"])
        return cls(**{**content, "history": history, "by_length": tuple(content["by_length"])})


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search optimises and how, as resolved when it began."""

    metric: str
    space: dict[str, str]
    algorithm: str
    stopper: str
    num_trials: int

    def write(self, job_dir: JobDir) -> None:
        job_dir.write_json("trials/search.json", asdict(self))


def read_search(job_dir: JobDir) -> Search | None:
    """Read it; None where the search has not begun."""
    if not job_dir.exists("trials/search.json"):
        return None
    return Search(**job_dir.read_json("trials/search.json"))


def write_trial(job_dir: JobDir, trial: Trial) -> None:
    """Replace a trial's file. Raises: StorageError."""
    job_dir.write_json(f"trials/{trial.number}.json", trial.to_json())


def read_trials(job_dir: JobDir) -> list[Trial]:
    """Read all trials that have begun, by number."""
    names = [name.removesuffix(".json") for name in job_dir.list("trials") if name.endswith(".json")]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return [Trial.from_json(job_dir.read_json(f"trials/{number}.json")) for number in numbers]


def folder_of(job_dir: JobDir, number: int) -> JobDir:
    """Return a trial's own folder."""
    return JobDir(job_dir.uri, f"trials/{number}")


def best_trial(trials: Iterable[Trial], metric: str) -> Trial | None:
    """Return the trial with the best evaluation, the first of equals; never one that failed."""
    ranked = rank(trials, metric)
    return ranked[0] if ranked else None


def rank(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """Return the trials that have a value and did not fail, best first."""
    scored = [
        (-score_of(best, metric), trial.number, trial)
        for trial in trials
        if trial.state != "failed" and (best := trial.best(metric)) is not None
    ]
    return [trial for _, _, trial in sorted(scored, key=lambda item: item[:2])]


def find_trial(trials: list[Trial], metric: str, *, number: int | None, named: str) -> Trial:
    """Return the trial of that number, or the best. Raises: ConfigError: there is none."""
    if number is None:
        best = best_trial(trials, metric)
        if best is None:
            raise ConfigError(f"{named}: that search has no trial with a result yet")
        return best
    found = [trial for trial in trials if trial.number == number]
    if not found:
        known = f"It has the trials 1 to {max(t.number for t in trials)}." if trials else "It has none yet."
        raise ConfigError(f"{named}: that search has no trial {number}", hint=known)
    return found[0]


def counts(trials: Iterable[Trial]) -> dict[str, int]:
    """Count the trials by how they ended."""
    states = [trial.state for trial in trials]
    return {
        "num_ended": sum(state != "running" for state in states),
        "num_stopped_early": states.count("stopped"),
        "num_failed": states.count("failed"),
    }


def score_of(evaluation: TrialEvaluation, metric: str) -> float:
    """Return a value that is better when it is higher."""
    value = evaluation.value_of(metric)
    return -value if metric == "loss" else value
