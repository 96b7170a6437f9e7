"""What `bertjobs top` reads of the queue: the list, and of one job the details, the curve and the log.

The same calls as `list`, `status` and `logs` make. Knows no terminal; it is called from a thread, since
Redis or the storage may take seconds to answer, or be away.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bertjobs.errors import BertjobsError, QueueError
from bertjobs.jobs.job import Job, JobSummary
from bertjobs.jobs.queue import JobQueue, read_log
from bertjobs.jobs.store.connection import JobUnknown

MAX_JOBS = 500
"""The newest jobs are shown; `bertjobs list --all` prints all."""
LOG_BYTES = 16_384
_CURVE_INTERVAL_S = 5.0
"""A series has up to 20,000 points: it is read again this often at most."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The queue at one moment, as far as it could be read."""

    jobs: tuple[JobSummary, ...] = ()
    selected: Job | None = None
    losses: tuple[float, ...] = ()
    """Of the selected job, oldest first."""
    log: tuple[str, ...] = ()
    """Last lines of the selected job's log."""
    problem: str = ""
    """Why the queue cannot be read now; the other values are the last ones that could be."""


@dataclass(kw_only=True)
class QueueReader:
    """Reads snapshots; while Redis is away it returns the last one, with the problem."""

    open_store: Callable[[], JobQueue]
    clock: Callable[[], float] = time.monotonic
    _store: JobQueue | None = None
    _last: Snapshot = field(default_factory=Snapshot)
    _losses_of: str = ""
    _losses_at: float = 0.0

    @property
    def store(self) -> JobQueue:
        """The job store, opened on first use. Raises: QueueError, ConfigError."""
        if self._store is None:
            self._store = self.open_store()
        return self._store

    def read(self, job_id: str | None, *, with_log: bool) -> Snapshot:
        """Return the queue, and one job of it with its curve or its log."""
        try:
            jobs = tuple(self.store.list(limit=MAX_JOBS))
            selected = None if job_id is None else self._find(job_id)
            losses = () if selected is None or with_log else self._read_losses(selected)
            log = self._read_log(selected) if selected is not None and with_log else ()
            self._last = Snapshot(jobs=jobs, selected=selected, losses=losses, log=log)
        except QueueError as e:
            last = self._last
            return Snapshot(
                jobs=last.jobs, selected=last.selected, losses=last.losses, log=last.log, problem=e.message
            )
        return self._last

    def _find(self, job_id: str) -> Job | None:
        try:
            return self.store.get(job_id)
        except JobUnknown:
            return None  # it was cleaned up meanwhile

    def _read_losses(self, job: Job) -> tuple[float, ...]:
        is_fresh = self._losses_of == job.id and self.clock() - self._losses_at < _CURVE_INTERVAL_S
        if is_fresh:
            return self._last.losses
        try:
            series = self.store.metrics(job.id)
        except QueueError:
            raise
        except BertjobsError:
            series = []  # its storage is away: the rest can still be shown
        self._losses_of, self._losses_at = job.id, self.clock()
        return losses_of(series)

    def _read_log(self, job: Job) -> tuple[str, ...]:
        """Return the last lines of the log of the latest attempt; a word on why there are none."""
        try:
            content = read_log(self.store, job, max(1, job.num_attempts), start=-LOG_BYTES)
        except QueueError:
            raise
        except BertjobsError as e:
            return (f"The log cannot be read: {e.message}",)
        is_final = bool(job.attempts) and job.attempts[-1].log_is_final
        empty = "The log is empty." if is_final else "There is no log yet."
        return tuple(content.decode(errors="replace").splitlines()) or (empty,)


def losses_of(series: Any) -> tuple[float, ...]:
    """Return the training losses in the order of steps; of a step reported twice the later one."""
    by_step = {line["step"]: float(line["loss"]) for line in series if "lr" in line and "loss" in line}
    return tuple(by_step[step] for step in sorted(by_step))
