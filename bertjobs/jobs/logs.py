"""The driver's log in the job's own folder. Ray keeps one file on the driver's node and loses it with the
node, so the dispatcher copies it while the attempt runs, and `bertjobs logs` reads the copy."""

import codecs
import time
from collections.abc import Callable, Iterator

from bertjobs.jobs.job import Job
from bertjobs.storage import JobDir

COPY_INTERVAL_S = 1.0
MAX_SHARE = 0.05
"""Share of its time that a dispatcher may spend on copying one log; a long log is copied less often."""
LAST_LINES_S = 30.0
"""How long to wait, after a job's end, for the lines that its driver wrote while it left."""


def log_name(attempt: int) -> str:
    """Return the place of an attempt's log in the job's folder."""
    return f"logs/a{attempt}.log"


class LogCopy:
    """The copy of one attempt's log; replaced as a whole, so that a reader never sees half a line of it."""

    def __init__(self, job_dir: JobDir, attempt: int, *, clock: Callable[[], float]) -> None:
        self._job_dir = job_dir
        self._name = log_name(attempt)
        self._clock = clock
        self._next_at = float("-inf")
        self._length = -1

    def is_due(self) -> bool:
        """Return whether it is time for the next copy."""
        return self._clock() >= self._next_at

    def update(self, fetch: Callable[[], str]) -> None:
        """Fetch the log so far and store it. Raises: StorageError; what `fetch` raises."""
        started = self._clock()
        text = fetch()
        if text and len(text) != self._length:
            self._job_dir.write_bytes(self._name, text.encode())
            self._length = len(text)
        took_s = self._clock() - started
        self._next_at = started + max(COPY_INTERVAL_S, took_s / MAX_SHARE)


def read_log(job: Job, *, attempt: int | None = None) -> str:
    """Return an attempt's log, by default the latest one's; empty where nothing has been written yet.

    Raises: StorageError: the folder cannot be read.
    """
    number = attempt or job.num_attempts
    if not number or not job.job_dir.exists(log_name(number)):
        return ""
    return job.job_dir.read_bytes(log_name(number)).decode(errors="replace")


def tail_logs(
    get: Callable[[], Job],
    *,
    attempt: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Follow a job's log: yield what is there and what is added, attempt after attempt, until the job has
    ended.

    `get` reads the job anew. With `attempt` only that one is followed.
    Raises: StorageError, QueueError.
    """
    number, tail, ended_at = attempt or 1, _Tail(), float("inf")
    while True:
        job = get()
        current = job.attempts[number - 1] if number <= len(job.attempts) else None
        text = tail.read(job, number) if current is not None else ""
        if text:
            yield text
        if current is None or current.ended_at is not None:
            ended_at = min(ended_at, clock())
        has_all = current is not None and (current.log_is_complete or clock() - ended_at >= LAST_LINES_S)
        if has_all and attempt is None and number < len(job.attempts):
            number, tail, ended_at = number + 1, _Tail(), float("inf")
            continue
        if has_all and (attempt is not None or job.state.is_terminal):
            return
        if current is None and job.state.is_terminal:
            return
        sleep(0.5)


class _Tail:
    """What of a log has been shown; whole characters only."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, job: Job, attempt: int) -> str:
        name = log_name(attempt)
        if not job.job_dir.exists(name):
            return ""
        data = job.job_dir.read_bytes(name)
        added, self._num_bytes = data[self._num_bytes :], max(len(data), self._num_bytes)
        return self._decoder.decode(added)
