"""What every kind of run is given: its configuration, its folder, its grant, and whom it reports to.

Knows neither how the work is done nor whether there is a queue.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from bertjobs.config.load import Config
from bertjobs.jobs.job import Grant
from bertjobs.settings import Settings
from bertjobs.storage import JobDir
from bertjobs.training.checkpoints.checkpoint_names import last_checkpoint

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Whom a run reports to, in any of its processes: the queue under a lease, or files in a run's folder.

    Each call may raise LeaseLost: another attempt owns the job, and this one publishes nothing more.
    """

    def set_phase(self, text: str) -> None:
        """Report what happens before and after training: reading data, encoding, starting workers."""

    def report_nodes(self, node_ids: list[str]) -> None:
        """Report on which Ray node each rank runs."""

    def progress(self, values: dict[str, Any]) -> None:
        """Replace the live values: step, loss, examples/s, ETA. Values that come too soon after others are
        kept, and sent with the next ones, the next phase or `close`."""

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append to the series that curves are drawn from."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Make the checkpoint the one that the next attempt resumes from."""

    def confirm_lease(self) -> None:
        """Make sure, before files are written, that no other attempt owns the job; may wait for Redis."""

    def command(self) -> str | None:
        """Return what the run is asked to do: `cancel`, `drain`, `stalled`, or nothing.

        It stays asked for until the attempt ends, so that it is not lost with an answer.
        """

    def close(self) -> None:
        """Send the last progress and release the connection."""


OpenReporter = Callable[[], Reporter]
"""How a worker, perhaps on another node, opens its own reporter: picklable, without a secret."""


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
    """Name of the published checkpoint to resume from."""
    resources: ExitStack
    """What is released when the run ends: downloaded folders."""

    @property
    def attempt_name(self) -> str:
        """Name of what Ray writes for this attempt; two writers under one name would overwrite each other."""
        return f"{self.id}-a{self.attempt}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run that ended well leaves."""

    metrics: dict[str, Any]
    artifacts: dict[str, Any]


def remaining_checkpoint(job_dir: JobDir, name: str | None) -> str | None:
    """Return the published checkpoint's name; where its folder was removed, that of the last one that
    remains, or None.

    Removing a damaged checkpoint is what its error message tells the user to do. A Redis that has lost its
    last minute names one that was removed when later ones were published. Each is a state of the same run.
    """
    if name is None or job_dir.exists(f"checkpoints/{name}"):
        return name
    remaining = last_checkpoint(job_dir.list("checkpoints"))
    log.warning(
        "checkpoint %s is no longer in %s: %s",
        name,
        job_dir.uri,
        f"resuming from {remaining}" if remaining else "starting from the beginning",
    )
    return remaining
