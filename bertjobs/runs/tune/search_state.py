"""The state of a search in its driver: its trials in memory, each change written to a file at once.

Knows no Ray: the callbacks of Ray Tune call it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bertjobs.config.dimensions import Values
from bertjobs.runs.tune.trial_records import (
    Search,
    Trial,
    TrialEvaluation,
    TrialState,
    best_trial,
    counts,
    folder_of,
    rank,
    write_trial,
)
from bertjobs.storage import JobDir

log = logging.getLogger(__name__)

MAX_ROWS = 40
"""Most trials in a progress report; `bertjobs trials` shows all."""


class SearchState:
    """The trials that have begun, those of earlier attempts included."""

    def __init__(self, job_dir: JobDir, *, search: Search, trials: Sequence[Trial] = ()) -> None:
        self._job_dir, self.search = job_dir, search
        self._trials = {trial.number: trial for trial in trials}
        self._steps = dict.fromkeys(self._trials, 0)
        # An attempt that was killed between a trial's end and the cleanup has left some.
        self._drop_checkpoints(self.ended)

    @property
    def trials(self) -> list[Trial]:
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.has_ended]

    def remaining(self) -> list[int]:
        """Return the numbers of the trials still to run; those that were interrupted come first.

        Where no trial has a result, those that failed run again: the cause may have been fixed.
        """
        numbers = range(1, self.search.num_trials + 1)
        # A failed trial counts as done only beside one that has a result.
        kept = {trial.number for trial in self.ended if self.best() is not None or trial.state != "failed"}
        begun = [n for n in numbers if n in self._trials and n not in kept]
        return begun + [n for n in numbers if n not in self._trials]

    def values_of(self, number: int) -> Values | None:
        """Return the values of a trial that was interrupted."""
        return self._trials[number].values if number in self._trials else None

    def begin(self, number: int, values: Values, config: dict[str, Any]) -> None:
        """Record that a trial begins, or resumes."""
        trial = self._trials.setdefault(number, Trial(number=number, values=values, config=config))
        # A trial that resumes keeps its history; only how it ended last is cleared.
        self._save(replace(trial, state="running", reason="", message=""))

    def set_history(self, number: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Record all evaluations of a trial, given as JSON."""
        evaluations = tuple(TrialEvaluation.from_json(evaluation) for evaluation in history)
        self._save(replace(self._trials[number], history=evaluations))

    def end(
        self,
        number: int,
        state: TrialState,
        *,
        reason: str = "",
        message: str = "",
        train_s: float = 0.0,
        by_length: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Record how a trial ended, and remove checkpoints that are no longer needed."""
        trial = replace(
            self._trials[number],
            state=state, reason=reason, message=message, train_s=train_s, by_length=tuple(by_length),
        )  # fmt: skip
        # Before the cleanup: a trial whose checkpoints are gone must not look interrupted.
        self._save(trial)
        log.info("trial %d %s: %s", number, f"{state} {reason}".rstrip(), trial.values)
        self._drop_checkpoints(self.ended)

    def best(self) -> Trial | None:
        """Return the best of the trials that have ended."""
        return best_trial(self.ended, self.search.metric)

    def progress(self, latest: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the search's progress report.

        latest: the last progress of each trial, as the step loop reports it. `step` counts the steps of all
        trials, so that the first one makes the job RUNNING.
        """
        metric = self.search.metric
        # The last known step of each trial; those of ended trials stay in the sum.
        self._steps |= {number: int(values["step"]) for number, values in latest.items()}
        # A trial whose process is still starting has reported nothing yet.
        running = [t.number for t in self.trials if not t.has_ended and t.number in latest]
        best = best_trial(self.trials, metric)
        return {
            "step": sum(self._steps.values()),
            "num_trials": self.search.num_trials,
            **counts(self.trials),
            "metric": metric,
            "best": None if best is None else {"number": best.number, "value": _value(best, metric)},
            "examples_per_s": sum(float(latest[number]["examples_per_s"]) for number in running),
            "trials": [
                _row(trial, metric, float(latest[trial.number]["epoch"]) if trial.number in running else None)
                for trial in self._shown()
            ],
        }

    def _shown(self) -> list[Trial]:
        """Return the running trials and the best of the others, by number."""
        running = [trial for trial in self.trials if not trial.has_ended]
        failed = [trial for trial in self.ended if trial.state == "failed"]
        others = [*rank(self.ended, self.search.metric), *failed]
        # In order of interest first, so that MAX_ROWS cuts the failed and the worst, then by number.
        return sorted([*running, *others][:MAX_ROWS], key=lambda trial: trial.number)

    def _save(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        write_trial(self._job_dir, trial)

    def _drop_checkpoints(self, ended: Sequence[Trial]) -> None:
        """Remove the checkpoints of all ended trials but the best one's, which become the job's model."""
        # Over all ended trials, not the newest only: it may have taken the first place from another.
        best = self.best()
        for trial in ended:
            if best is None or trial.number != best.number:
                folder_of(self._job_dir, trial.number).remove("checkpoints")


def _row(trial: Trial, metric: str, epoch: float | None) -> dict[str, Any]:
    """Return a row of the table. epoch: how far the trial is; None for the epoch of its last evaluation."""
    last = trial.history[-1].epoch if trial.history else 0.0
    return {
        "number": trial.number,
        "values": trial.values,
        "epoch": round(last if epoch is None else epoch, 2),
        "value": _value(trial, metric),
        "state": trial.state,
    }


def _value(trial: Trial, metric: str) -> float | None:
    best = trial.best(metric)
    return None if best is None else round(best.value_of(metric), 6)
