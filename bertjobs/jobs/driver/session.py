"""The driver's session: it reads its job, reports progress, publishes, and ends the attempt, under its lease.

    with JobSession.open(settings, job_id=..., attempt=1, token=1) as session, session.keep_alive():
        session.set_phase("encoding")
        ...
        session.finish("SUCCEEDED", metrics={...}, artifacts={...})

The driver and its rank 0 worker may each open a session with the same token. Once the token was refused every
later call raises LeaseLost, and nothing is published.
"""

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

from bertjobs.errors import LeaseLost
from bertjobs.jobs.attempt_result import AttemptResult, read_latest_result, write_result
from bertjobs.jobs.driver.stall import StepTimes
from bertjobs.jobs.driver.throttle import PROGRESS_INTERVAL_S, Throttle, is_last_step
from bertjobs.jobs.job import Attempt, Job, State
from bertjobs.jobs.retry import SUCCESS, Failure, decide, failure_of
from bertjobs.jobs.store.connection import Connection, RedisDown, open_connection, retry_while_down
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.settings import DEFAULT_STALL_TIMEOUT_S, Settings

logger = logging.getLogger(__name__)

OFFLINE_S = 10.0
"""How long progress is dropped unsent after Redis did not answer: each attempt may delay training."""
HEARTBEAT_RESTART_S = 1.0
"""Pause before a heartbeat process that has died is started again."""
OUTAGE_S = 120.0
"""How long publishing and finishing wait while Redis is down."""
CONFIRMED_LEASES = 2
"""Leases for which an answer of Redis allows files to be written. Later another attempt may be at work."""

ACTIVITY_INTERVAL_S = 10.0

Command = Literal["cancel", "drain", "stalled"]
T = TypeVar("T")


class JobSession:
    """One process that holds the lease of one attempt."""

    def __init__(
        self,
        connection: Connection,
        *,
        job: Job,
        attempt: Attempt,
        lease_s: float,
        stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
    ) -> None:
        self.job = job
        """The job as it was when the session was opened: configuration, checkpoint, limits."""
        self.attempt = attempt
        """The attempt, with its grant."""
        self._connection = connection
        self._lease_s = lease_s
        self._store = LeaseStore(
            connection, job_id=job.id, attempt=attempt.number, token=attempt.token, lease_s=lease_s
        )
        # `LeaseStore` is not thread-safe.
        self._lock = threading.Lock()
        self._lost: LeaseLost | None = None
        self._command: str = ""
        self._reported_at = float("-inf")
        self._confirmed_at = time.monotonic()
        """When Redis last said that the attempt owns the job: `open` has just checked the token."""
        self._progress = Throttle(self._send_progress, interval_s=PROGRESS_INTERVAL_S)
        self._offline_until = float("-inf")
        self._has_stepped = False
        self.stall_timeout_s = job.stall_timeout_s or stall_timeout_s
        """Seconds without progress after which the attempt is stalled."""
        self._step_times = StepTimes()
        self._noted_at = float("-inf")
        self._heartbeat: _Heartbeat | None = None
        self.has_result = False
        """Whether the result is in storage: from then on the attempt has succeeded, whatever Redis knows."""

    @classmethod
    def open(cls, settings: Settings, *, job_id: str, attempt: int, token: int) -> "JobSession":
        """Read the job and check the token.

        Raises: LeaseLost: the token is outdated. QueueError: Redis is down, or there is no such job.
        """
        connection = open_connection(settings)
        job = retry_while_down(lambda: JobStore(connection).get(job_id), for_s=OUTAGE_S)
        found = job.attempts[attempt - 1] if 0 < attempt <= len(job.attempts) else None
        # An attempt keeps its token in the record after it has ended, so the end is checked too.
        if found is None or found.token != token or found.ended_at is not None:
            raise LeaseLost(f"{job_id}: attempt {attempt} under token {token} does not own the job")
        return cls(
            connection,
            job=job,
            attempt=found,
            lease_s=settings.lease_s,
            stall_timeout_s=settings.stall_timeout_s,
        )

    def start(self) -> None:
        """Report that the driver has started, and is the only one of this attempt.

        Raises: LeaseLost: it must exit. RedisDown: Redis stayed down.
        """
        driver = uuid.uuid4().hex
        self._fenced(
            lambda: retry_while_down(
                lambda: self._store.report(phase="starting", driver=driver), for_s=OUTAGE_S
            )
        )

    def set_phase(self, text: str) -> None:
        """Report what the driver is doing, in a few words for users. Raises: LeaseLost."""
        # First what was kept of the phase before: reports stay in order.
        self._progress.flush()
        self._report(phase=text)

    def report_nodes(self, node_ids: list[str]) -> None:
        """Report on which Ray nodes the workers run, one id per worker. Raises: LeaseLost."""
        self._report(nodes=node_ids)

    def progress(self, values: Mapping[str, Any]) -> None:
        """Report the progress of the step loop: `step` and other values. The first step makes the job
        RUNNING.

        Values that come too soon after others are kept until the next call, the next phase or the end; while
        Redis is down they are dropped, and training continues. Raises: LeaseLost.
        """
        self._step_times.add(values["step"])
        # The first step makes the job RUNNING, and no other follows the last: neither waits for the interval.
        is_first_step = values["step"] >= 1 and not self._has_stepped
        self._progress.put(values, at_once=is_first_step or is_last_step(values))

    def note_activity(self) -> None:
        """Report that work has advanced which has no progress to report: a batch of an evaluation, a
        checkpoint. Redis is told every few seconds at most. Raises: LeaseLost."""
        now = time.monotonic()
        if now >= max(self._noted_at + ACTIVITY_INTERVAL_S, self._offline_until):
            self._noted_at = now
            self._report(is_alive=True)

    def confirm_lease(self) -> None:
        """Make sure, before files are written, that the attempt owns its job: by the last answer of Redis,
        or, where that is older than two leases, by a new one. Training waits with us while Redis is down.

        Raises: LeaseLost: nothing may be written. RedisDown: Redis stayed down; the job is resumed later.
        """
        self._read_heartbeat_output()
        if self._lost is not None:
            raise self._lost
        if time.monotonic() - self._confirmed_at < CONFIRMED_LEASES * self._lease_s:
            return
        self._fenced(self._renew)
        self._confirmed_at = time.monotonic()

    def _renew(self) -> None:
        if retry_while_down(lambda: self._store.report(is_alive=True), for_s=OUTAGE_S) == "ended":
            raise LeaseLost(f"{self.job.id}: attempt {self.attempt.number} has ended")

    def _send_progress(self, values: Mapping[str, Any]) -> None:
        # Only once Redis has it: a first step that was dropped must be sent at once again.
        if time.monotonic() >= self._offline_until and self._report(
            progress=values, step_s=self._step_times.median_s()
        ):
            self._has_stepped = self._has_stepped or values["step"] >= 1

    def command(self) -> Command | None:
        """Return the pending command: `cancel`, `drain` (write a checkpoint and exit), or `stalled`. It stays
        pending.

        Redis is asked once a second at most.

        Raises: LeaseLost: another attempt owns the job, or it has ended.
        """
        self._read_heartbeat_output()
        if self._lost is not None:
            raise self._lost
        now = time.monotonic()
        if not self._command and now - self._reported_at >= 1.0 and now >= self._offline_until:
            self._report()
        command = self._command
        return command if command in ("cancel", "drain", "stalled") else None  # type: ignore[return-value]

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to the job's metrics; dropped while Redis is down. Raises: LeaseLost."""
        if time.monotonic() < self._offline_until:
            return
        try:
            self._fenced(lambda: self._store.log_metrics(values))
        except RedisDown as e:
            self._note_outage(e)

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Make a checkpoint that is complete in storage the one to resume from.

        Raises: LeaseLost: it is not published. RedisDown: Redis stayed down.
        """
        self._fenced(
            lambda: retry_while_down(lambda: self._store.publish_checkpoint(name, step=step), for_s=OUTAGE_S)
        )

    def finish(
        self,
        outcome: Literal["SUCCEEDED"] | BaseException,
        *,
        metrics: Mapping[str, Any] | None = None,
        artifacts: Mapping[str, Any] | None = None,
    ) -> State:
        """End the attempt, with success or with the error that ended it. Returns the job's new state.

        Raises: LeaseLost: the attempt had already been ended by someone else. RedisDown: Redis stayed down; a
            success is in storage by then, where the dispatcher finds it. StorageError: it could not be
            written there.
        """
        self._progress.flush()
        if isinstance(outcome, BaseException):
            # Read again: the job may have been cancelled, or its faults reset, since the session was opened.
            latest = self._latest()
            failure = failure_of(outcome)
            if failure.word == "Cancelled" and latest.state is not State.CANCELLING:
                # SIGTERM without a cancel command: not the user, but Ray or the node.
                failure = Failure(word="DriverStopped", message="The driver was stopped from outside.")
            decision = decide(
                failure,
                num_faults=latest.num_faults,
                num_charged=self.job.num_charged,
                max_retries=self.job.max_retries,
                num_stalls=latest.num_stalls,
            )
        else:
            decision = SUCCESS
            # Before Redis is told: what is in storage can be believed when the telling was lost.
            if self._lost is not None:
                raise self._lost
            result = AttemptResult(metrics=metrics or {}, artifacts=artifacts or {})
            number, token = self.attempt.number, self.attempt.token
            write_result(self.job.job_dir, job_id=self.job.id, attempt=number, token=token, result=result)
            self.has_result = True
        # One nonce for all repetitions: if only the reply was lost, the attempt is not ended twice.
        nonce = uuid.uuid4().hex
        return self._fenced(
            lambda: retry_while_down(
                lambda: self._store.end(
                    decision, nonce=nonce, metrics=metrics or {}, artifacts=artifacts or {}
                ),
                for_s=OUTAGE_S,
            )
        )

    def earlier_result(self) -> AttemptResult | None:
        """Return the result of an earlier attempt that nobody could read when that attempt ended.

        Raises: StorageError.
        """
        number = self.attempt.number
        earlier = [(a.number, a.token) for a in self.job.attempts if a.number < number]
        return read_latest_result(self.job.job_dir, job_id=self.job.id, attempts=earlier)

    @contextmanager
    def keep_alive(self) -> Iterator[None]:
        """Send heartbeats for the duration of the block, from a process that a busy step loop cannot starve.

        That process ends with this one, and is started again where it ends before. When the token is
        refused or the job is cancelled it sends us SIGTERM; `command()` then tells which it was.
        """
        self._heartbeat = _Heartbeat(
            self.job.id,
            attempt=self.attempt.number,
            token=self.attempt.token,
            stall_timeout_s=self.stall_timeout_s,
        )
        try:
            yield
        finally:
            # Its last word may have come with the signal that ended the block.
            self._read_heartbeat_output()
            heartbeat, self._heartbeat = self._heartbeat, None
            heartbeat.close()

    def close(self) -> None:
        """Send the last progress and close the connection. The lease stays."""
        try:
            self._progress.flush()
        except LeaseLost as e:
            logger.warning("%s", e)  # the next call that publishes raises it
        self._connection.close()

    def __enter__(self) -> "JobSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_heartbeat_output(self) -> None:
        """Read what the heartbeat process wrote before it sent us a signal."""
        if self._heartbeat is None:
            return
        words = self._heartbeat.words()
        if b"lost" in words:
            self._lost = LeaseLost(f"{self.job.id}: attempt {self.attempt.number} no longer owns the job")
        for word in (b"stalled", b"cancel"):
            if word in words:
                self._command = word.decode()

    def _report(self, **news: Any) -> bool:
        try:
            command = self._fenced(lambda: self._store.report(**news))
        except RedisDown as e:
            self._note_outage(e)
            return False
        self._reported_at = self._confirmed_at = time.monotonic()
        self._command = command or self._command
        return True

    def _latest(self) -> Job:
        return retry_while_down(lambda: JobStore(self._connection).get(self.job.id), for_s=OUTAGE_S)

    def _fenced(self, call: Callable[[], T]) -> T:
        with self._lock:
            # After the first refusal nothing is sent any more, from any thread.
            if self._lost is not None:
                raise self._lost
            try:
                return call()
            except LeaseLost as e:
                self._lost = e
                raise

    def _note_outage(self, error: RedisDown) -> None:
        self._offline_until = time.monotonic() + OFFLINE_S
        logger.warning("%s attempt %d: not reported: %s", self.job.id, self.attempt.number, error.message)


class _Heartbeat:
    """The heartbeat process, as long as the driver lives: one that dies is replaced.

    A driver that trains on without a heartbeat would be taken for lost, and its attempt ended.
    """

    def __init__(self, job_id: str, *, attempt: int, token: int, stall_timeout_s: float) -> None:
        self._arguments = [job_id, str(attempt), str(token), str(os.getpid()), f"{stall_timeout_s:g}"]
        self._lock = threading.Lock()
        self._words: list[bytes] = []
        self._is_closed = threading.Event()
        self.process = self._start()
        # A thread: while a worker group trains, nothing else runs in the driver.
        self._thread = threading.Thread(target=self._watch, name="heartbeat-watch", daemon=True)
        self._thread.start()

    def words(self) -> list[bytes]:
        """Return the words that it has written so far, before the signals that it sent."""
        with self._lock:
            self._read()
            return list(self._words)

    def close(self) -> None:
        """End the process."""
        self._is_closed.set()
        with self._lock:  # from here on none is started
            process = self.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # its signal to end
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join()
        process.stdout.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "bertjobs.jobs.driver.heartbeat", *self._arguments],
            # Closes however this process ends, SIGKILL included: the heartbeat then ends as well.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        # It is read between steps, which must not wait for a heartbeat.
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _watch(self) -> None:
        # It exits with 0 once the attempt has ended, or when it has told us to stop.
        while (code := self.process.wait()) != 0 and not self._is_closed.wait(HEARTBEAT_RESTART_S):
            logger.warning("the heartbeat process ended (exit code %d); starting another one", code)
            with self._lock:
                if self._is_closed.is_set():
                    return
                self._read()
                assert self.process.stdin is not None and self.process.stdout is not None
                self.process.stdin.close()
                self.process.stdout.close()
                self.process = self._start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(BlockingIOError):  # it has written nothing
            self._words += os.read(self.process.stdout.fileno(), 4096).split()
