"""The copy of the driver's log in the job's folder. Ray keeps the log in one file on the driver's node and
loses it with the node, so the dispatcher copies it while the attempt runs; `bertjobs logs` reads the copy."""

from collections.abc import Callable

from bertjobs.storage import JobDir

LOG_FOLDER = "logs"
COPY_INTERVAL_S = 1.0
MAX_TIME_RATIO = 0.05
"""Share of its time that a dispatcher may spend on copying one log; a long log is copied less often."""


def log_name(attempt: int) -> str:
    """Return the path of an attempt's log in the job's folder."""
    return f"{LOG_FOLDER}/a{attempt}.log"


class LogCopy:
    """The copy of one attempt's log, replaced as a whole: a reader never sees half a line."""

    def __init__(self, job_dir: JobDir, attempt: int, *, clock: Callable[[], float]) -> None:
        self._job_dir = job_dir
        self._name = log_name(attempt)
        self._clock = clock
        self.next_at = float("-inf")
        """When the next copy is due."""
        self._length = -1

    def is_due(self) -> bool:
        """Return whether the next copy is due."""
        return self._clock() >= self.next_at

    def update(self, fetch: Callable[[], str]) -> None:
        """Fetch the log so far and store it. Raises: StorageError; what `fetch` raises."""
        started = self._clock()
        text = fetch()
        if len(text) > max(self._length, 0):  # on a node that was replaced the log is empty
            self._job_dir.write_bytes(self._name, text.encode())
            self._length = len(text)
        took_s = self._clock() - started
        self.next_at = started + max(COPY_INTERVAL_S, took_s / MAX_TIME_RATIO)
