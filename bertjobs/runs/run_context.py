"""What every kind of run has: its config, its folder, its grant, and whom it reports to."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from bertjobs.config import JobConfig
from bertjobs.jobs.job import Grant
from bertjobs.settings import Settings
from bertjobs.storage import JobDir

log = logging.getLogger(__name__)

Config = TypeVar("Config", bound=JobConfig)


class Reporter(Protocol):
    """Whom a run reports to, in any of its processes: the queue under a lease, or files in a run's folder.

    Each call may raise LeaseLost: another attempt owns the job, and this one publishes nothing more.
    """

    def set_phase(self, text: str) -> None:
        """Say what goes on before and after training: reading data, encoding, starting workers."""

    def report_nodes(self, node_ids: list[str]) -> None:
        """Say on which Ray node each rank runs."""

    def progress(self, values: dict[str, Any]) -> None:
        """Replace the live values: step, loss, examples/s, ETA."""

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append to the series that curves are drawn from."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Make the checkpoint the one that a next attempt goes on from."""

    def command(self) -> str | None:
        """Return what the run is asked to do: `cancel`, `checkpoint`, or nothing."""


class OpenReporter(Protocol):
    """How a worker, perhaps on another node, opens its own reporter: picklable, holds no secret."""

    def __call__(self) -> Reporter: ...


@dataclass(frozen=True, kw_only=True)
class Run(Generic[Config]):
    """One attempt at one job, as its driver sees it."""

    id: str
    attempt: int
    config: Config
    job_dir: JobDir
    settings: Settings
    grant: Grant
    reporter: Reporter
    open_reporter: OpenReporter
    checkpoint: str | None
    """Name of the published checkpoint to go on from."""
    resources: ExitStack
    """What is to be given back when the run ends: downloaded folders."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run that ended well leaves behind."""

    metrics: dict[str, Any]
    artifacts: dict[str, Any]


def remaining_checkpoint(job_dir: JobDir, name: str | None) -> str | None:
    """Return the published checkpoint's name; None, and work from the start, where its folder was removed:
    that is what to do about one that was cut short."""
    if name is None or job_dir.exists(f"checkpoints/{name}"):
        return name
    log.warning("checkpoint %s is not in %s any more: starting from the beginning", name, job_dir.uri)
    return None
