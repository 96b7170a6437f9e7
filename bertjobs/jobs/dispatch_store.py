"""The dispatcher's side of Redis: every write carries the term of its leadership and is refused after another
dispatcher has taken over. Knows neither Ray nor what the answers are used for."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bertjobs.jobs.admission import Waiting
from bertjobs.jobs.connection import REPLY_TIMEOUT_S, Connection
from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.lease_store import ending
from bertjobs.jobs.records import pairs
from bertjobs.jobs.retry import Decision
from bertjobs.jobs.sizing import Pending, count_of, describe_gang
from bertjobs.jobs.watch import Live

CHUNK = 1000
"""Jobs that one script looks at: a few milliseconds in which Redis answers nobody else."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job in the queue, and the reason that is written at it now."""

    waiting: Waiting
    reason: Pending


class DispatchStore:
    """Redis under one term of leadership."""

    def __init__(self, connection: Connection, *, owner: str, lease_s: float) -> None:
        self.connection = connection
        self.owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._term = 0

    def lead(self) -> bool:
        """Take or keep the leadership. Returns whether it is ours. Raises: RedisDown."""
        term, _ = self.connection.run("lead", owner=self.owner, lease_ms=self._lease_ms)
        self._term = int(term)
        return self._term > 0

    def resign(self) -> None:
        """Let another dispatcher take over at once."""
        self.connection.run("resign", owner=self.owner)

    def wait(self, *, timeout_s: float) -> None:
        """Sleep until something asks for attention."""
        assert timeout_s < REPLY_TIMEOUT_S, "a blocking read must end before the socket's timeout"
        with self.connection.errors():
            self.connection.client.blpop(["bj:wake"], timeout=timeout_s)

    def promote(self) -> None:
        """Put the jobs whose delay is over back into the queue. Raises: NotLeader, RedisDown."""
        self.connection.run("promote", term=self._term)

    def queue(self) -> list[Queued]:
        """Read the queue in its order."""
        found: list[Queued] = []
        while True:
            first = len(found)
            (document,) = self.connection.run("waiting", first=first, last=first + CHUNK - 1)
            rows = json.loads(document)
            found += [_queued(row) for row in rows]
            if len(rows) < CHUNK:
                return found

    def live(self) -> list[Live]:
        """Read the attempts that are not known to be gone."""
        now_ms, rows = self.connection.run("live")
        return [_live(job_id, job, pairs(attempt), now_ms=int(now_ms)) for job_id, job, attempt in rows]

    def claim(self, job_id: str, *, grant: Grant, plan: Mapping[str, tuple[float, float]]) -> tuple[int, int]:
        """Start a queued job's next attempt. Returns its number and token.

        Raises: WrongState: the job was cancelled or held meanwhile; NotLeader, RedisDown.
        """
        number, token = self.connection.run(
            "claim",
            id=job_id,
            term=self._term,
            grant=json.dumps(asdict(grant)),
            plan=json.dumps(plan),
            nonce=uuid.uuid4().hex,
            lease_ms=self._lease_ms,
            message=f"Granted {describe_gang(grant)}, {count_of(grant.data_cpus, 'CPU')} for reading data.",
        )
        return int(number), int(token)

    def explain(self, reasons: Sequence[tuple[str, Pending]]) -> None:
        """Write down why jobs wait. Raises: NotLeader, RedisDown."""
        for first in range(0, len(reasons), CHUNK):
            items = [[job_id, why.word, why.message] for job_id, why in reasons[first : first + CHUNK]]
            self.connection.run("explain", term=self._term, items=items)

    def reject(self, job_id: str, reason: Pending) -> None:
        """Fail a queued job that can never start. Raises: NotLeader, RedisDown."""
        self.connection.run(
            "fail_waiting", id=job_id, term=self._term, reason=reason.word, message=reason.message
        )

    def note_submitted(self, live: Live) -> None:
        """Remember that Ray has taken the attempt. Raises: NotLeader, RedisDown."""
        self._note(live, stamps=["submitted_at"])

    def note_gone(self, live: Live) -> None:
        """Give back what the attempt held: its driver is gone. Raises: NotLeader, RedisDown."""
        self._note(live, stamps=["gone_at"], gone=True)

    def _note(self, live: Live, **what: Any) -> None:
        self.connection.run("note", id=live.job_id, number=live.number, term=self._term, **what)

    def stop_for_time(self, live: Live) -> None:
        """Have the driver told that the job's time is up. Raises: NotLeader, RedisDown."""
        self.connection.run(
            "cancel",
            id=live.job_id,
            term=self._term,
            target="TIMED_OUT",
            reason="TimeLimit",
            message="The job reached its --time-limit; its last checkpoint stays.",
        )

    def end(self, live: Live, decision: Decision) -> State:
        """End an attempt for its driver. Raises: LeaseLost: it has just ended itself; NotLeader,
        RedisDown."""
        (state,) = self.connection.run(
            "end_attempt",
            id=live.job_id,
            number=live.number,
            token=live.token,
            term=self._term,
            nonce=uuid.uuid4().hex,
            **ending(decision),
        )
        return State(state)


def _queued(row: Sequence[Any]) -> Queued:
    job_id, resources, limit_s, used_ms, word, message, waits_for, ended_as, is_alive = row
    left_s = float(limit_s) - int(used_ms) / 1000 if limit_s else None
    return Queued(
        waiting=Waiting(
            job_id=job_id,
            resources=json.loads(resources),
            time_limit_s=left_s,
            waits_for=waits_for or None,
            dependency_ended_as=ended_as or None,
            is_still_alive=is_alive,
        ),
        reason=Pending(word=word, message=message),
    )


def _live(job_id: str, job: Sequence[Any], attempt: Mapping[str, str], *, now_ms: int) -> Live:
    state, storage, limit_s, used_ms, max_retries, num_charged, num_faults = job

    def ago_s(name: str) -> float | None:
        return (now_ms - int(attempt[name])) / 1000 if name in attempt else None

    claimed_ago_s, alive_ago_s = ago_s("claimed_at"), ago_s("alive_at")
    assert claimed_ago_s is not None and alive_ago_s is not None
    left_s = float(limit_s) - int(used_ms) / 1000 - claimed_ago_s if limit_s else None
    return Live(
        job_id=job_id,
        number=int(attempt["number"]),
        token=int(attempt["token"]),
        submission_id=attempt["submission_id"],
        state=State(state),
        storage=storage,
        is_submitted="submitted_at" in attempt,
        claimed_ago_s=claimed_ago_s,
        alive_ago_s=alive_ago_s,
        heard_ago_s=ago_s("heartbeat_at"),
        told_ago_s=ago_s("told_at"),
        ended_ago_s=ago_s("ended_at"),
        time_left_s=left_s,
        max_retries=int(max_retries),
        num_charged=int(num_charged),
        num_faults=int(num_faults),
        plan=_plan(attempt),
    )


def _plan(attempt: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return where the attempt's resources are: where its workers run, else where they were planned.

    Ray Train places the gang by itself; until the driver has reported the nodes, the plan is the best guess.
    """
    plan = {node: (share[0], share[1]) for node, share in json.loads(attempt["plan"]).items()}
    if "nodes" not in attempt:
        return plan
    grant = Grant(**json.loads(attempt["grant"]))
    actual: dict[str, tuple[float, float]] = {}
    for node in json.loads(attempt["nodes"]):
        cpus, gpus = actual.get(node, (0.0, 0.0))
        actual[node] = (cpus + grant.cpus_per_worker, gpus + grant.gpus_per_worker)
    if not actual:
        return plan
    largest = max(actual, key=lambda node: actual[node][0])
    actual[largest] = (actual[largest][0] + grant.data_cpus, actual[largest][1])
    return actual
