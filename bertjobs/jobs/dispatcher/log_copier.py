"""Copies the logs of drivers to storage, in threads apart from the dispatcher's pass: one log that is huge,
or one storage that hangs, must hold up neither the pass nor the other logs.

Nothing is concluded from a log about Ray or about an attempt. The log of an ended attempt is tried again for
some minutes and then given up; Redis says whether it is complete. What is unfinished is in Redis too
(`bj:logs`), for the next dispatcher.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bertjobs.errors import BertjobsError, StorageError
from bertjobs.jobs.dispatcher.driver_log import LogCopy
from bertjobs.jobs.job import submission_id
from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.types import LiveAttempt
from bertjobs.jobs.store.connection import NotLeader
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.records import UnfinishedLog
from bertjobs.storage import JobDir, StorageRoots

logger = logging.getLogger(__name__)

POLL_S = 0.2
MAX_CONCURRENT_COPIES = 4
"""Ray's dashboard is one process, and holds a whole log in memory for each of them."""
STUCK_S = 120.0
"""After this time a copy counts as hung, and no longer as one of those above."""
MAX_THREADS = 32
"""With those that hang. When all hang, no log is copied; nothing else is affected."""
MAX_TRIES = 10
MAX_RETRY_DELAY_S = 60.0
"""The delay doubles from 1 s: ten tries take about five minutes."""


@dataclass(kw_only=True)
class _Log:
    """The log of one attempt, and how its copy stands."""

    job_id: str
    attempt: int
    copy: LogCopy
    has_ended: bool = False
    """The driver has exited: the next copy is the last one."""
    due_at: float = float("-inf")
    num_failures: int = 0
    """In a row."""
    busy_since: float | None = None
    outcome: str = ""
    """`complete` or `incomplete`, once that is to be written to Redis."""
    thread: threading.Thread | None = field(default=None, repr=False)


class LogCopier:
    """The logs of one dispatcher's attempts, from `start` to `close`. Other methods do no I/O, except
    `copy_due`."""

    def __init__(
        self,
        store: DispatchStore,
        ray: RayApi,
        *,
        roots: StorageRoots,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ray = ray
        self._roots = roots
        self._clock = clock
        self._lock = threading.Lock()
        self._logs: dict[str, _Log] = {}
        self._hung: list[threading.Thread] = []
        """Threads whose log was given up while they had not returned."""
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-copier", daemon=True)

    def start(self) -> None:
        """Start copying."""
        self._thread.start()

    def close(self) -> None:
        """Stop. Copies under way end with the process, which is safe: files are replaced as a whole."""
        self._is_closed.set()

    def watch(self, attempts: Iterable[LiveAttempt]) -> None:
        """Copy the logs of these attempts while they run, and no others but those that `finish` names."""
        with self._lock:
            live = {}
            for attempt in attempts:
                if attempt.is_submitted:
                    key = attempt.submission_id
                    live[key] = self._logs.get(key) or self._new(
                        attempt.job_id, attempt.number, attempt.storage
                    )
            self._logs = {key: log for key, log in self._logs.items() if log.has_ended} | live

    def finish(self, attempt: LiveAttempt) -> None:
        """Copy the rest of an attempt's log: its driver has exited."""
        self.adopt([UnfinishedLog(attempt.job_id, attempt.number, attempt.storage)])

    def adopt(self, unfinished: Iterable[UnfinishedLog]) -> None:
        """Copy the rest of these logs, as an earlier dispatcher had not done it."""
        with self._lock:
            for found in unfinished:
                key = submission_id(found.job_id, found.attempt)
                log = self._logs.setdefault(key, self._new(found.job_id, found.attempt, found.storage))
                if not log.has_ended:
                    log.has_ended, log.num_failures, log.due_at = True, 0, float("-inf")

    def stand_by(self) -> None:
        """Copy nothing: another dispatcher leads."""
        with self._lock:
            self._logs = {}

    def copy_due(self) -> None:
        """Make all copies that are due, in this thread."""
        for log in self._take_due(limit=len(self._logs)):
            self._copy(log)

    def _new(self, job_id: str, attempt: int, storage: str) -> _Log:
        copy = LogCopy(JobDir(storage, job_id), attempt, clock=self._clock)
        return _Log(job_id=job_id, attempt=attempt, copy=copy)

    def _run(self) -> None:
        while not self._is_closed.wait(POLL_S):
            try:
                self._start_due()
            except Exception:  # a border: the thread must survive
                logger.exception("logs are not copied now")

    def _start_due(self) -> None:
        with self._lock:
            self._hung = [thread for thread in self._hung if thread.is_alive()]
            since = [log.busy_since for log in self._logs.values() if log.busy_since is not None]
            num_working = sum(self._clock() - began < STUCK_S for began in since)
            limit = min(MAX_CONCURRENT_COPIES - num_working, MAX_THREADS - len(since) - len(self._hung))
        for log in self._take_due(limit=limit):
            log.thread = threading.Thread(target=self._copy, args=(log,), name="log-copy", daemon=True)
            log.thread.start()
        self._give_up_hung()

    def _take_due(self, *, limit: int) -> list[_Log]:
        """Take logs to copy, those that were not copied for longest, and all whose outcome is to be
        written."""
        with self._lock:
            now = self._clock()
            due = [log for log in self._logs.values() if log.busy_since is None and log.due_at <= now]
            copies = sorted((log for log in due if not log.outcome), key=lambda log: log.due_at)
            taken = [log for log in due if log.outcome] + copies[: max(limit, 0)]
            for log in taken:
                log.busy_since = now
            return taken

    def _give_up_hung(self) -> None:
        with self._lock:
            stuck_before = self._clock() - STUCK_S
            hung = [
                log
                for log in self._logs.values()
                if log.has_ended and log.busy_since is not None and log.busy_since <= stuck_before
            ]
            for log in hung:
                # A new record for the same log: the thread that hangs has the old one.
                new = self._new(log.job_id, log.attempt, "/")
                new.has_ended, new.outcome = True, "incomplete"
                self._logs[submission_id(log.job_id, log.attempt)] = new
                if log.thread is not None:
                    self._hung.append(log.thread)
        for log in hung:
            logger.warning("%s attempt %d: its log is incomplete: its copy hangs", log.job_id, log.attempt)

    def _copy(self, log: _Log) -> None:
        is_last = log.has_ended  # a copy that began before the driver exited may lack the last lines
        error: Exception | None = None
        if not log.outcome:
            try:
                error = self._try(log, is_last=is_last)
            except Exception as e:  # a border: whatever storage raises concerns this log only
                logger.exception("%s attempt %d: its log is not copied", log.job_id, log.attempt)
                error = e
            self._judge(log, error, is_last=is_last)
        if log.outcome:
            self._write_outcome(log)
        with self._lock:
            log.busy_since = None

    def _try(self, log: _Log, *, is_last: bool) -> Exception | None:
        if not self._roots.contain(log.copy.job_dir):
            log.outcome = "incomplete" if is_last else ""
            where = log.copy.job_dir.uri
            return StorageError(f"{where} is not in a place that BERTJOBS_STORAGE_ROOTS names")
        try:
            is_whole = log.copy.update(lambda: self._ray.log(submission_id(log.job_id, log.attempt)))
        except BertjobsError as e:
            return e
        if is_last:
            log.outcome = "complete" if is_whole else "incomplete"
        return None

    def _judge(self, log: _Log, error: Exception | None, *, is_last: bool) -> None:
        """Decide when the log is copied again, or that it is given up."""
        if error is None:
            log.num_failures, log.due_at = 0, log.copy.next_at
        else:
            log.num_failures += 1
            if log.num_failures == 1:
                logger.warning("%s attempt %d: its log is not copied: %s", log.job_id, log.attempt, error)
            log.due_at = self._clock() + min(2.0 ** (log.num_failures - 1), MAX_RETRY_DELAY_S)
            if is_last and log.num_failures >= MAX_TRIES:
                log.outcome = "incomplete"
        if is_last and log.outcome == "incomplete":
            logger.warning("%s attempt %d: its log is incomplete", log.job_id, log.attempt)
        if log.has_ended and not is_last:
            log.due_at = float("-inf")

    def _write_outcome(self, log: _Log) -> None:
        key = submission_id(log.job_id, log.attempt)
        try:
            self._store.note_log(log.job_id, log.attempt, outcome=log.outcome)
        except NotLeader:
            pass  # the next leader finds it in Redis
        except BertjobsError as e:
            logger.warning("%s attempt %d: %s", log.job_id, log.attempt, e)
            log.due_at = self._clock() + 1.0
            return
        with self._lock:
            if self._logs.get(key) is log:
                del self._logs[key]
