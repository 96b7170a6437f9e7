"""The configuration that `--from-trial` takes from a trial of a search."""

from bertjobs.cli.context import open_queue
from bertjobs.config import ConfigLayer, JobConfig, stored_layer
from bertjobs.config.finetune import FinetuneConfig
from bertjobs.errors import ConfigError
from bertjobs.runs.tune.search_document import read_trials_of
from bertjobs.runs.tune.trial_records import find_trial


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
