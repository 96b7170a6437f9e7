"""The queue as commands use it: in Redis (`JobStore`), or behind a server (`RemoteQueue`)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.job import Event, Job, JobSummary, State
from bertjobs.jobs.remote_queue import RemoteQueue


class JobQueue(Protocol):
    """What both have in common. `JobStore` says what each method does, and raises."""

    def submit(
        self,
        kind: str,
        config: Mapping[str, Any],
        *,
        storage: str,
        resources: Mapping[str, Any],
        name: str = "",
        user: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        max_retries: int = 0,
        time_limit_s: float | None = None,
        stall_timeout_s: float | None = None,
        after: Sequence[str] = (),
        uses: Sequence[str] = (),
        hold: bool = False,
        keep_s: float | None = None,
        preset: str | None = None,
    ) -> tuple[Job, bool]: ...

    def get(self, job: str) -> Job: ...

    def list(
        self, *, states: Collection[State] | None = None, limit: int | None = 100, user: str | None = None
    ) -> list[JobSummary]: ...

    def cancel(self, job: str, *, by: str = "") -> Job: ...

    def retry(self, job: str) -> Job: ...

    def hold(self, job: str, *, by: str = "") -> Job: ...

    def release(self, job: str) -> Job: ...

    def prioritize(self, job: str, priority: int, *, by: str = "") -> Job: ...

    def events(self, job: str) -> Sequence[Event]: ...

    def metrics(self, job: str) -> Sequence[dict[str, Any]]: ...

    def close(self) -> None: ...


def read_log(queue: JobQueue, job: Job, attempt: int, *, start: int) -> bytes:
    """Read the copy of an attempt's log from a byte on, a negative one counted from the end; nothing where
    there is none.

    Raises: RedisDown, StorageError.
    """
    if isinstance(queue, RemoteQueue):
        return queue.read_log(job, attempt, start=start)
    name = log_name(attempt)
    return job.job_dir.read_bytes(name, start=start) if job.job_dir.exists(name) else b""
