"""Run the trials of a search with Ray Tune: which one is next, when one is stopped, how each ended.

Tune decides and runs; the result is in the search state. Tune's own experiment files are not used to resume
after a fault: the rungs of ASHA are not in them, and trials start from our checkpoints, unknown to Tune.
"""

import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher
from ray.util.placement_group import remove_placement_group

from bertjobs.config.search_space import trial_config
from bertjobs.config.tune import TuneConfig
from bertjobs.runs.reporting import stop_reason
from bertjobs.runs.run_context import Run
from bertjobs.runs.tune.samplers import Sampler
from bertjobs.runs.tune.schedulers import VALUE, SchedulerBounds, scheduler_for
from bertjobs.runs.tune.search_state import SearchState
from bertjobs.runs.tune.trial_resources import TrialResources
from bertjobs.runs.tune.trial_worker import NUM_SIGNS, TrialWork, run_trial

log = logging.getLogger(__name__)

LIVE_INTERVAL_S = 0.5
"""Least time between two reports of all trials."""

# Read by Ray Tune in the driver. Its loggers write files per trial that nobody reads; Ctrl-C must interrupt a
# run, not end it well; the working directory of an actor must not change, or relative paths would break.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

CHECKPOINT = "trials.json"
"""The checkpoint of a search: the numbers of the trials that need not run again."""

_GROUP_LAUNCHER = {"CPU": 0.001}
"""For the actor that starts a worker group. Tune must reserve something; the workers reserve their own."""


def run_trials(
    run: Run[TuneConfig], *, work: TrialWork, state: SearchState, sampler: Sampler, bounds: SchedulerBounds
) -> None:
    """Run the trials that remain; their results are in `state`.

    Raises: Cancelled, DriverStopped, LeaseLost: the search must end before all of them have.
    """
    remaining = state.remaining()
    if not remaining:
        return
    # What is set already stays.
    for name, value in _TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It warns that it does not find the files of the loggers switched off above.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    storage = run.settings.cache / "ray"
    tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, work=work), _resources_of_actor(work.resources)),
        tune_config=tune.TuneConfig(
            scheduler=scheduler_for(run.config.search, bounds, ended=state.ended, metric=work.metric),
            search_alg=_RemainingTrials(run.config, state=state, sampler=sampler, remaining=remaining),
            num_samples=len(remaining),
            max_concurrent_trials=work.resources.num_concurrent,
            # An actor without worker groups trains itself: reused, it need not import torch for each trial.
            reuse_actors=not work.resources.has_worker_groups,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=run.attempt_name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_TrialCallback(run, work=work, state=state)],
        ),
    ).fit()
    shutil.rmtree(storage / run.attempt_name, ignore_errors=True)  # all of it is in the search state


def _resources_of_actor(resources: TrialResources) -> dict[str, float]:
    if resources.has_worker_groups:
        return _GROUP_LAUNCHER
    gpus = resources.gpus_per_worker
    return {"CPU": resources.cpus_per_worker} | ({"GPU": gpus} if gpus else {})


def _trial_name(trial: TuneTrial) -> str:
    return f"trial-{trial.config['number']}"


class _RemainingTrials(Searcher):
    """Gives Tune the remaining trials, one by one."""

    def __init__(
        self, config: TuneConfig, *, state: SearchState, sampler: Sampler, remaining: list[int]
    ) -> None:
        super().__init__(metric=VALUE, mode="max")
        self._config, self._state, self._sampler = config, state, sampler
        self._remaining = list(remaining)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self._remaining:
            return str(Searcher.FINISHED)
        number = self._remaining.pop(0)
        # An interrupted trial goes on with the values that it began with: its checkpoint belongs to them.
        values = self._state.values_of(number) or self._sampler.sample(number, self._state.ended)
        trial = trial_config(self._config, values)
        # Recorded before Tune starts it, so that the next attempt finds the values after any fault.
        self._state.begin(number, values, trial.model_dump(mode="json"))
        return {"number": number, "trial": trial}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: the sampler reads the results from the search state."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the files of the search state say what remains."""


class _TrialCallback(tune.Callback):
    """Records in the search state what Tune reports of the trials, and reports the state to the queue."""

    def __init__(self, run: Run[TuneConfig], *, work: TrialWork, state: SearchState) -> None:
        self._run, self._work, self._state = run, work, state
        self._stopper = run.config.search.stopper
        self._next_s = 0.0
        self._reported: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything: Tune pickles its callbacks into files that nobody reads."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: TuneTrial, result: Any, **info: Any
    ) -> None:
        # Each report has the whole history, so a lost one does no harm.
        self._state.set_history(trial.config["number"], result["history"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: TuneTrial, **info: Any) -> None:
        number, last = trial.config["number"], trial.last_result
        # Tune calls this for stopped trials too. Only one that ran to its end returns `has_finished`.
        if "has_finished" in last:
            self._state.end(number, "finished", train_s=last["train_s"], by_length=last["by_length"])
        else:
            self._state.end(number, "stopped", reason=self._stopper, train_s=last["time_total_s"])
        self._end_workers(number)
        self._publish()

    def on_trial_error(self, iteration: int, trials: Any, trial: TuneTrial, **info: Any) -> None:
        number = trial.config["number"]
        # What the trial recorded itself is exact; Tune only has the text of an error.
        failure, message = self._work.progress.take_failure(number) or _failure_of(trial)
        self._state.end(number, "failed", reason=failure, message=message)
        self._end_workers(number)
        self._publish()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Called several times a second, whatever happens."""
        self._run.reporter.confirm_lease()  # trials write into folders that attempts share
        if (command := self._run.reporter.command()) is not None:
            # Raised through `fit`: the search ends at once, whatever its trials do.
            raise stop_reason(command)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LIVE_INTERVAL_S
            self._report(self._work.progress.progress())

    def _report(self, latest: Mapping[int, Mapping[str, Any]]) -> None:
        """Report what has changed. Nothing is reported of trials that have all stopped moving, so that the
        search counts as stalled: a report is a sign of life."""
        values = self._state.progress(latest)
        signs = (values, {number: found.get(NUM_SIGNS) for number, found in latest.items()})
        if signs != self._reported:
            self._reported = signs
            self._run.reporter.progress(values)

    def _end_workers(self, number: int) -> None:
        """Remove the placement group of a trial's workers, and with it the workers.

        Ray removes it where the trial ends by itself. Where Tune stops the trial, or its actor or its
        controller is killed, it would keep its resources until the whole search ends.
        """
        if (placement := self._work.progress.take_placement(number)) is not None:
            remove_placement_group(placement)

    def _publish(self) -> None:
        """Publish which trials have ended, for the next attempt; faults are counted between two of these."""
        ended = [trial.number for trial in self._state.ended]
        self._run.job_dir.write_json(f"checkpoints/{CHECKPOINT}", {"ended": ended})
        self._run.reporter.publish_checkpoint(CHECKPOINT, len(ended))


def _failure_of(trial: TuneTrial) -> tuple[str, str]:
    """Return failure class and message of an actor that ended without recording one itself."""
    text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    if "OutOfMemoryError" in text:
        return "HostOutOfMemory", "Ray killed the trial's process, because the node ran out of memory"
    if "ActorDiedError" in text or "RayActorError" in text or "The actor" in text:
        return "WorkerLost", "The process that ran the trial was killed"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "TrainingError", f"The training code raised: {lines[-1] if lines else 'an unknown error'}"
