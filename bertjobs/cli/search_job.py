"""The search that a command names: its trials, and the configuration that `--from-trial` takes from one."""

from bertjobs.cli.context import open_queue
from bertjobs.config import ConfigLayer, JobConfig, stored_layer
from bertjobs.config.finetune import FinetuneConfig
from bertjobs.errors import ConfigError, DataError
from bertjobs.jobs.job import Job
from bertjobs.runs.tune.trial_records import Search, Trial, find_trial, read_search, read_trials


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


def trial_layer(named: str) -> tuple[ConfigLayer, str]:
    """Return the configuration that `--from-trial` names, without its resources, and its full name `JOB:N`.

    Raises: ConfigError: there is no such trial. QueueError: there is no such job. DataError: the job is not a
        search, or has not started.
    """
    given = f"--from-trial {named}"
    job, colon, number = named.partition(":")
    if colon and not number.isdecimal():
        raise ConfigError(
            f"{given}: {number or 'nothing'} is not the number of a trial",
            hint="Give it as in `JOB` or `JOB:3`.",
        )
    found = open_queue().get(job)
    search, trials = read_trials_of(found)
    trial = find_trial(trials, search.metric, number=int(number) if colon else None, named=given)
    config = {section: values for section, values in trial.config.items() if section != "resources"}
    return stored_layer(config), f"{found.id}:{trial.number}"


def from_trial_of(config: JobConfig) -> str | None:
    """Return the trial that a configuration starts from, as the user named it."""
    return config.origin.from_trial if isinstance(config, FinetuneConfig) else None
