"""What the dispatcher reads and writes in Redis. Every write carries the term of its leadership and is
refused after another dispatcher has taken over. Knows nothing of Ray."""

import json
import logging
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from bertjobs import __version__
from bertjobs.jobs.attempt_result import AttemptResult
from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.scheduling.free_resources import Placement
from bertjobs.jobs.scheduling.sizing import count_of, describe_gang
from bertjobs.jobs.scheduling.types import LiveAttempt, ReasonChanges, WaitReason
from bertjobs.jobs.store.connection import REPLY_TIMEOUT_S, Connection, RecordInvalid
from bertjobs.jobs.store.lease_store import decision_fields
from bertjobs.jobs.store.records import (
    Changes,
    DriverLaunch,
    QueuedJob,
    UnfinishedLog,
    changes_of,
    live_of,
    queued_of,
    readable,
    unfinished_log_of,
)

logger = logging.getLogger(__name__)

BATCH_SIZE = 1000
"""Jobs that one script handles: a few milliseconds during which Redis answers nobody else."""
MAX_SKIPPED = 1000
"""Ids of skipped records that are remembered, so that each is logged once; later ones are not logged."""


class DispatchStore:
    """Redis under one term of leadership."""

    def __init__(
        self, connection: Connection, *, owner: str, lease_s: float, drivers: DriverLaunch | None = None
    ) -> None:
        """Lead as `owner`. `drivers` is published with the leadership, for `bertjobs doctor`."""
        self.connection = connection
        self.owner = owner
        self.term = 0
        """Of our leadership; 0 while another one leads."""
        self._lease_ms = int(lease_s * 1000)
        self._drivers = None if drivers is None else json.dumps(asdict(drivers))
        self._leads_until = 0.0
        self._mark = ""
        """What our last `changes` or `claim` left in Redis; another value shows that Redis lost it."""
        # Bounded by MAX_SKIPPED: whoever fills Redis with bad records must not fill our memory.
        self._skipped: set[str] = set()

    def lead(self) -> bool:
        """Take or renew the leadership. Returns whether we lead. Raises: RedisDown."""
        asked_at = time.monotonic()
        term, _ = self.connection.run(
            "lead", owner=self.owner, lease_ms=self._lease_ms, drivers=self._drivers
        )
        # A script refuses a write whose term is not the newest, so a leader that was paused cannot write.
        self.term = int(term)
        self._leads_until = asked_at + self._lease_ms / 1000 if self.term else 0.0
        return self.term > 0

    def renew(self) -> bool:
        """Renew the leadership if it is ours still; the term stays. Raises: RedisDown."""
        asked_at, term = time.monotonic(), self.term
        found, _ = self.connection.run("lead", owner=self.owner, lease_ms=self._lease_ms, only_renew=True)
        is_ours = bool(term) and int(found) == term
        self._leads_until = asked_at + self._lease_ms / 1000 if is_ours else 0.0
        return is_ours

    @property
    def holds_lease(self) -> bool:
        """Whether our leadership has certainly not expired, by our own clock."""
        return time.monotonic() < self._leads_until

    def resign(self) -> None:
        """Let another dispatcher take over at once."""
        self.connection.run("resign", owner=self.owner)

    def wait(self, *, timeout_s: float) -> None:
        """Sleep until something changes that the dispatcher should look at."""
        assert timeout_s < REPLY_TIMEOUT_S, "a blocking read must end before the socket's timeout"
        with self.connection.errors():
            # A list, not a published message: what is pushed before we wait is still there.
            self.connection.client.blpop(["bj:wake"], timeout=timeout_s)

    def promote(self) -> None:
        """Put the jobs whose delay is over back into the queue. Raises: NotLeader, RedisDown."""
        self.connection.run("promote", term=self.term)

    def changes(self, *, since: int) -> Changes:
        """Read what has changed since a version. Changes up to that version are deleted: the next call must
        pass the version returned.

        With -1, before the whole queue is read: return the version to start with. Raises: NotLeader,
        RedisDown; RolledBack: everything must be read again.
        """
        last_mark, self._mark = self._mark, uuid.uuid4().hex
        answer = self.connection.run(
            "changes",
            term=self.term,
            since=since,
            limit=BATCH_SIZE,
            mark=self._mark,
            last_mark=last_mark,
        )
        return changes_of(answer, limit=BATCH_SIZE, skip=self.skip)

    def queue(self) -> Iterator[QueuedJob]:
        """Read the whole queue in its order. Raises: RedisDown."""
        after = "-inf"
        while True:
            document, last = self.connection.run("read_queue", after=after, limit=BATCH_SIZE)
            rows = json.loads(document)
            yield from readable(rows, queued_of, skip=self.skip)
            if len(rows) < BATCH_SIZE:
                return
            # The score of the last row, not its rank: jobs leave the queue between two pages.
            after = last

    def live(self, of: Collection[str] | None = None) -> tuple[int, list[LiveAttempt]]:
        """Read the attempts that are not known to be gone, of some jobs or of all, and Redis' time in ms."""
        # Redis' clock, which wrote the times in the rows: ours may differ.
        now_ms, document = self.connection.run("read_live", ids=None if of is None else list(of))
        rows = json.loads(document)
        return int(now_ms), list(readable(rows, lambda row: live_of(row, now_ms=int(now_ms)), skip=self.skip))

    def skip(self, job_id: object, cause: Exception) -> None:
        """Report a record that cannot be used; once for each id."""
        job = repr(str(job_id)[:40])
        if job not in self._skipped and len(self._skipped) < MAX_SKIPPED:
            self._skipped.add(job)
            logger.warning("the record of job %s in Redis is not valid, and is skipped: %.200s", job, cause)

    def claim(self, job_id: str, *, grant: Grant, placement: Placement) -> LiveAttempt:
        """Start a queued job's next attempt. Returns the attempt.

        Raises: WrongState: the job was cancelled or held meanwhile; RecordInvalid; NotLeader, RedisDown;
            RolledBack: what admission counted may not be so any more.
        """
        mark = uuid.uuid4().hex
        now_ms, document = self.connection.run(
            "claim",
            id=job_id,
            term=self.term,
            grant=json.dumps(asdict(grant)),
            plan=json.dumps(placement),
            version=__version__,
            # redis-py may send the call twice; with the same nonce it claims once.
            nonce=uuid.uuid4().hex,
            lease_ms=self._lease_ms,
            message=f"Granted {describe_gang(grant)}, {count_of(grant.data_cpus, 'CPU')} for reading data.",
            mark=mark,
            last_mark=self._mark or None,
        )
        self._mark = self._mark and mark
        rows = [json.loads(document)]
        # One row at most; none where the record is not valid.
        for claimed in readable(rows, lambda row: live_of(row, now_ms=int(now_ms)), skip=self.skip):
            return claimed
        raise RecordInvalid(job_id)

    def write_reasons(self, reasons: ReasonChanges) -> None:
        """Write down why jobs wait. Raises: NotLeader, RedisDown."""
        written = {group: json.dumps([why.word, why.message]) for group, why in reasons.texts.items()}
        items = list(reasons.groups.items())
        # One call at least: there may be texts or unused groups without a job that changed. Texts go with the
        # first call, deletions with the last, so that every group that a job names has a text in between.
        for first in range(0, max(len(items), 1), BATCH_SIZE):
            is_last = first + BATCH_SIZE >= len(items)
            self.connection.run(
                "write_reasons",
                term=self.term,
                texts={} if first else written,
                items=items[first : first + BATCH_SIZE],
                unused=list(reasons.unused) if is_last else [],
            )

    def reasons(self) -> dict[str, WaitReason]:
        """Read the reason of each group. Raises: RedisDown."""
        with self.connection.errors():
            # Reading needs no term: only writes of an outdated leader do harm.
            found: Any = self.connection.client.hgetall("bj:reasons")
        texts = {group: json.loads(text) for group, text in found.items()}
        return {g: WaitReason(word=word, message=message, group=g) for g, (word, message) in texts.items()}

    def reject(self, job_id: str, reason: WaitReason) -> None:
        """Fail a queued job that can never start. Raises: NotLeader, RedisDown."""
        self.connection.run(
            "fail_waiting", id=job_id, term=self.term, reason=reason.word, message=reason.message
        )

    def note_submitted(self, attempts: Sequence[LiveAttempt]) -> None:
        """Record that Ray has accepted these attempts. Raises: NotLeader, RedisDown."""
        self._stamp(attempts, stamp="submitted_at")

    def note_gone(self, live: LiveAttempt) -> None:
        """Record that the driver is gone, so that what the attempt held is free. Raises: NotLeader,
        RedisDown."""
        self._stamp([live], stamp="gone_at", gone=True)

    def unfinished_logs(self) -> list[UnfinishedLog]:
        """Read whose drivers are gone while their logs are not copied to the end. Raises: RedisDown."""
        (document,) = self.connection.run("read_logs")
        return list(readable(json.loads(document), unfinished_log_of, skip=self.skip))

    def note_log(self, job_id: str, attempt: int, *, outcome: str) -> None:
        """Record that a log is `complete`, or given up as `incomplete`. Raises: NotLeader, RedisDown."""
        self.connection.run("end_log", term=self.term, id=job_id, number=attempt, outcome=outcome)

    def unfinished_configs(self) -> Iterator[str]:
        """Read the configurations of all jobs that have not ended, as text, in pages. Raises: RedisDown."""
        client: Any = self.connection.client
        for state in (state for state in State if not state.is_terminal):
            first = 0
            while True:
                with self.connection.errors():
                    ids = client.zrange(f"bj:state:{state}", first, first + BATCH_SIZE - 1)
                    with client.pipeline(transaction=False) as pipe:
                        for job_id in ids:
                            pipe.hget(f"bj:job:{job_id}", "config")
                        configs = pipe.execute()
                yield from (config for config in configs if config)
                if len(ids) < BATCH_SIZE:
                    break
                first += BATCH_SIZE

    def _stamp(self, attempts: Sequence[LiveAttempt], **fields: Any) -> None:
        if attempts:
            names = [[live.job_id, live.number] for live in attempts]
            self.connection.run("stamp_attempts", term=self.term, attempts=names, **fields)

    def stop_for_time(self, live: LiveAttempt) -> None:
        """Tell the driver to stop because the job's time limit is reached. Raises: NotLeader, RedisDown."""
        self.connection.run(
            "cancel",
            id=live.job_id,
            term=self.term,
            target="TIMED_OUT",
            reason="TimeLimit",
            message="The job reached its --time-limit; its last checkpoint stays.",
        )

    def end(self, live: LiveAttempt, decision: RetryDecision, result: AttemptResult | None = None) -> State:
        """End an attempt in place of its driver; `result` is what it left, where it succeeded.

        Raises: LeaseLost: the driver has just ended it itself; NotLeader, RedisDown.
        """
        # The race: the driver may end the attempt at the same moment. The second call is refused.
        (state,) = self.connection.run(
            "end_attempt",
            id=live.job_id,
            number=live.number,
            token=live.token,
            term=self.term,
            nonce=uuid.uuid4().hex,
            **decision_fields(decision),
            metrics=json.dumps(dict(result.metrics)) if result else None,
            artifacts=json.dumps(dict(result.artifacts)) if result else None,
        )
        return State(state)
