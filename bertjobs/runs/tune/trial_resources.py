"""Divide a grant into trials: how many run at a time, and what each of their workers gets. Pure."""

import math
from dataclasses import dataclass

from bertjobs.config.search_space import gpus_per_trial, workers_per_trial
from bertjobs.config.tune import TuneConfig
from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_resources import QUANTUM
from bertjobs.jobs.scheduling.sizing import describe_gang


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """A grant, divided into trials that run at the same time."""

    num_concurrent: int
    """Trials at a time."""
    workers_per_trial: int
    gpus_per_worker: float
    cpus_per_worker: float
    data_cpus: float
    """CPU cores for reading data, of the whole grant; they idle while trials train."""

    @property
    def grant(self) -> Grant:
        """What one trial may use."""
        return Grant(
            workers=self.workers_per_trial,
            gpus_per_worker=self.gpus_per_worker,
            cpus_per_worker=self.cpus_per_worker,
            data_cpus=self.data_cpus / self.num_concurrent,
        )

    @property
    def has_worker_groups(self) -> bool:
        """Whether a trial has several workers, which Ray Train starts."""
        return self.workers_per_trial > 1


def divide_grant(grant: Grant, config: TuneConfig) -> TrialResources:
    """Divide the granted workers into trials; a worker that is larger than a trial's runs several trials.

    Raises: ConfigError: not one trial fits.
    """
    search = config.search
    workers = workers_per_trial(config)
    gpus = gpus_per_trial(config) / workers
    cpus = _cpus_per_worker(
        grant, gpus=gpus, asked=None if search.cpus_per_trial is None else search.cpus_per_trial / workers
    )
    per_granted = math.floor((grant.cpus_per_worker + QUANTUM) / cpus)
    if gpus:
        per_granted = min(per_granted, math.floor((grant.gpus_per_worker + QUANTUM) / gpus))
    num_concurrent = grant.workers * per_granted // workers
    if num_concurrent == 0:
        raise ConfigError(
            f"--cpus-per-trial, --gpus-per-trial: a trial of {workers} worker(s) with {cpus:g} CPUs and "
            f"{gpus:g} GPUs each does not fit into what was granted, {describe_gang(grant)}",
            hint="Ask for less per trial, or for more --gpus, --workers or --cpus-per-worker.",
        )
    return TrialResources(
        num_concurrent=min(num_concurrent, search.max_concurrent or num_concurrent, search.trials),
        workers_per_trial=workers,
        gpus_per_worker=gpus,
        cpus_per_worker=cpus,
        data_cpus=grant.data_cpus,
    )


def _cpus_per_worker(grant: Grant, *, gpus: float, asked: float | None) -> float:
    """Return the cores of one worker of a trial: as asked, or its part of a granted worker's."""
    if asked is not None:
        return asked
    return grant.cpus_per_worker * (min(gpus / grant.gpus_per_worker, 1.0) if gpus else 1.0)
