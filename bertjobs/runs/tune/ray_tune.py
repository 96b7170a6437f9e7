"""Ray Tune, and all that is known of it: which trial is next, when one is stopped, what became of each.

Tune decides and runs; what counts is in the ledger. Its own experiment files are not used to go on after a
fault: rungs of ASHA are not in them, and trials begin from our checkpoints, which it does not know.
"""

import logging
import os
import shutil
import time
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
from bertjobs.runs.tune.samplers import Proposals
from bertjobs.runs.tune.schedulers import VALUE, Course, stopper_for
from bertjobs.runs.tune.search_state import Ledger
from bertjobs.runs.tune.trial_worker import TrialWork, run_trial

log = logging.getLogger(__name__)

LIVE_INTERVAL_S = 0.5
"""Least time between two reports of the whole table."""

# Read by Ray Tune in the driver. Its loggers write files per trial that nobody reads; Ctrl-C must end a run,
# not conclude it; the working directory of an actor must not change under the paths of a configuration.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

_GANG_STARTER = {"CPU": 0.001}
"""What starts a gang and listens: no placement group may be empty, and the workers have one of their own."""


def search(
    run: Run[TuneConfig], *, work: TrialWork, ledger: Ledger, proposals: Proposals, course: Course
) -> None:
    """Run the trials that remain; what becomes of them is in the ledger.

    Raises: Cancelled, DriverStopped, LeaseLost: the search is to end before that.
    """
    remaining = ledger.remaining()
    if not remaining:
        return
    for name, value in _TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(
        logging.ERROR
    )  # it misses those files
    slots = work.slots
    scheduler = stopper_for(run.config.search, course, ended=ledger.ended, metric=work.metric)
    bundle = {"CPU": slots.cpus_per_worker} | (
        {"GPU": slots.gpus_per_worker} if slots.gpus_per_worker else {}
    )
    is_gang = slots.workers_per_trial > 1
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, work=work),
        _GANG_STARTER if is_gang else bundle,
    )
    storage, name = run.settings.cache / "ray", f"{run.id}-a{run.attempt}"
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=_Next(run.config, ledger=ledger, proposals=proposals, remaining=remaining),
            num_samples=len(remaining),
            max_concurrent_trials=slots.num_concurrent,
            reuse_actors=not is_gang,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Listener(run, work=work, ledger=ledger)],
        ),
    ).fit()
    _forget(storage / name)


def _name_of(trial: TuneTrial) -> str:
    return f"trial-{trial.config['number']}"


class _Next(Searcher):
    """Hands Tune the remaining trials, one by one."""

    def __init__(
        self, config: TuneConfig, *, ledger: Ledger, proposals: Proposals, remaining: list[int]
    ) -> None:
        super().__init__(metric=VALUE, mode="max")
        self._config, self._ledger, self._proposals = config, ledger, proposals
        self._remaining = list(remaining)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self._remaining:
            return Searcher.FINISHED
        number = self._remaining.pop(0)
        values = self._ledger.values_of(number) or self._proposals.values(number, self._ledger.ended)
        config = trial_config(self._config, values).model_dump(mode="json")
        self._ledger.begin(number, values, config)
        return {"number": number, "config": config}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn here: proposals are made from the ledger."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger's files say what remains."""


class _Listener(tune.Callback):
    """Takes what Tune says of the trials into the ledger, and from there into the queue."""

    def __init__(self, run: Run[TuneConfig], *, work: TrialWork, ledger: Ledger) -> None:
        self._run, self._work, self._ledger = run, work, ledger
        self._stopper = run.config.search.stopper
        self._next_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its callbacks into files that nobody reads; a session under a lease has no copy."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: TuneTrial, result: Any, **info: Any
    ) -> None:
        self._ledger.evaluated(trial.config["number"], result["history"])

    def on_trial_complete(self, iteration: int, trials: Any, trial: TuneTrial, **info: Any) -> None:
        number, last = trial.config["number"], trial.last_result
        if "has_finished" in last:
            self._ledger.end(number, "finished", train_s=last["train_s"], by_length=last["by_length"])
        else:
            self._ledger.end(number, "stopped", reason=self._stopper, train_s=last["time_total_s"])
        self._end_workers(number)
        self._publish()

    def on_trial_error(self, iteration: int, trials: Any, trial: TuneTrial, **info: Any) -> None:
        number = trial.config["number"]
        word, message = self._work.board.failure(number) or _why(trial)
        self._ledger.end(number, "failed", reason=word, message=message)
        self._end_workers(number)
        self._publish()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Called several times a second, whatever happens."""
        if (command := self._run.reporter.command()) is not None:
            raise stop_reason(command)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LIVE_INTERVAL_S
            self._run.reporter.progress(self._ledger.live(self._work.board.progress()))

    def _end_workers(self, number: int) -> None:
        """Remove the placement group of a trial's workers, and with it the workers.

        Ray removes it where the trial ends by itself. Where Tune stops the trial, or its actor or its
        controller is killed, it would keep its resources until the whole search ends.
        """
        if (placement := self._work.board.placement(number)) is not None:
            remove_placement_group(placement)

    def _publish(self) -> None:
        """Make what has ended what a next attempt goes on from; faults are counted between two of these."""
        ended = [trial.number for trial in self._ledger.ended]
        self._run.job_dir.write_json(f"checkpoints/{ENDED}", {"ended": ended})
        self._run.reporter.publish_checkpoint(ENDED, len(ended))


ENDED = "trials.json"
"""The checkpoint of a search: the numbers of the trials that need not be run again."""


def _why(trial: TuneTrial) -> tuple[str, str]:
    """Say in a word and a sentence why an actor ended that said nothing itself."""
    text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    if "OutOfMemoryError" in text:
        return "OutOfMemory", "Ray killed the trial's process, because the node ran out of memory."
    if "ActorDiedError" in text or "RayActorError" in text or "The actor" in text:
        return "WorkerLost", "The process that ran the trial was killed."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "TrainingError", f"The training code raised: {lines[-1] if lines else 'nothing that is known'}"


def _forget(folder: Path) -> None:
    """Remove what Tune wrote about a search that is over; all of it is in the ledger."""
    shutil.rmtree(folder, ignore_errors=True)
