"""A search with all its trials, read from the files in its job's folder, and as JSON with stable keys."""

from collections.abc import Sequence
from typing import Any

from bertjobs.errors import DataError
from bertjobs.jobs.job import Job
from bertjobs.runs.tune.trial_records import Search, Trial, best_trial, counts, read_search, read_trials


def read_trials_of(job: Job) -> tuple[Search, list[Trial]]:
    """Read the search and the trials that have started.

    Raises: DataError: the job is not a search, or has not started.
    """
    if job.kind != "tune":
        raise DataError(
            f"{job.id} is a {job.kind} job, not a search",
            hint="`bertjobs list` shows the kind of each job.",
        )
    search = read_search(job.job_dir)
    if search is None:
        raise DataError(
            f"{job.id} is {job.state} and has no trials yet",
            hint=f"`bertjobs watch {job.id}` shows when the first one starts.",
        )
    return search, read_trials(job.job_dir)


def search_document(job: Job, search: Search, started: Sequence[Trial]) -> dict[str, Any]:
    """Return what `trials --json` and the page show of a search."""
    metric = search.metric
    best = best_trial(started, metric)
    return {
        "id": job.id,
        "state": str(job.state),
        "metric": metric,
        "space": search.space,
        "algorithm": search.algorithm,
        "stopper": search.stopper,
        "num_trials": search.num_trials,
        **counts(started),
        "best": None if best is None else best.number,
        "trials": [
            {**trial.to_json(), "value": None if (e := trial.best(metric)) is None else e.value_of(metric)}
            for trial in started
        ],
    }
