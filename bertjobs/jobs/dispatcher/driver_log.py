"""The copy of the driver's log in the job's folder. Ray keeps the log in one file on the driver's node and
loses it with the node, so the dispatcher copies it while the attempt runs; `bertjobs logs` reads the copy."""

from collections.abc import Callable, Iterable

from bertjobs.errors import QueueError
from bertjobs.storage import JobDir

LOG_FOLDER = "logs"
COPY_INTERVAL_S = 1.0
MAX_TIME_RATIO = 0.05
"""Share of its time that a dispatcher may spend on copying one log; a long log is copied less often."""
MAX_COPY_S = 60.0
"""A copy that takes longer is given up, and tried again later."""
HEAD_BYTES, TAIL_BYTES = 2 * 2**20, 14 * 2**20
"""What is kept of a log that is longer than both together: its beginning and its end."""


def log_name(attempt: int) -> str:
    """Return the path of an attempt's log in the job's folder."""
    return f"{LOG_FOLDER}/a{attempt}.log"


class LogTooSlow(QueueError):
    """A log could not be fetched in time."""


class LogCopy:
    """The copy of one attempt's log, replaced as a whole: a reader never sees half a line."""

    def __init__(self, job_dir: JobDir, attempt: int, *, clock: Callable[[], float]) -> None:
        self.job_dir = job_dir
        self._name = log_name(attempt)
        self._clock = clock
        self.next_at = float("-inf")
        """When the next copy is due."""
        self._length = 0

    def update(self, fetch: Callable[[], Iterable[bytes]]) -> bool:
        """Fetch the log so far and store it. Returns whether it is all there: not shorter than before.

        Raises: StorageError, LogTooSlow; what `fetch` raises.
        """
        started = self._clock()
        log = BoundedLog()
        for piece in fetch():
            log.add(piece)
            if self._clock() - started > MAX_COPY_S:
                raise LogTooSlow(f"The log was not fetched within {MAX_COPY_S:.0f} s")
        is_whole = log.num_bytes >= self._length  # on a node that was replaced the log is empty
        if log.num_bytes > self._length:
            self.job_dir.write_bytes(self._name, log.content())
            self._length = log.num_bytes
        took_s = self._clock() - started
        self.next_at = started + max(COPY_INTERVAL_S, took_s / MAX_TIME_RATIO)
        return is_whole


class BoundedLog:
    """A log of any length in bounded memory: its beginning and its end."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._head, self._tail = bytearray(), bytearray()

    def add(self, piece: bytes) -> None:
        """Append a piece."""
        self.num_bytes += len(piece)
        num_head = min(len(piece), HEAD_BYTES - len(self._head))
        self._head += piece[:num_head]
        self._tail += piece[num_head:]
        if len(self._tail) > TAIL_BYTES + HEAD_BYTES:  # not with each piece: it moves the whole tail
            del self._tail[:-TAIL_BYTES]

    def content(self) -> bytes:
        """Return it; where lines are missing, one line says how many bytes."""
        tail = self._tail[-TAIL_BYTES:]
        if len(self._head) + len(tail) == self.num_bytes:
            return bytes(self._head + tail)
        head = self._head[: self._head.rfind(b"\n") + 1] or self._head
        tail = tail[tail.find(b"\n") + 1 :]
        num_missing = self.num_bytes - len(head) - len(tail)
        note = f"\n[bertjobs: {num_missing} bytes of the log are left out here]\n\n"
        return bytes(head + note.encode() + tail)
