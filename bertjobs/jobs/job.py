"""What a job is and which states it may pass through. Knows neither Redis nor Ray.

    HELD ⇄ QUEUED ──> STARTING ──> RUNNING ──> SUCCEEDED | FAILED | TIMED_OUT
              ^          │            │
              └ RETRYING <────────────┤
                                      └──> CANCELLING ──> CANCELLED

A job is what a user asked for; an attempt is one Ray Job that executes it, under a token that only this
attempt has. A terminal state never changes by itself: only a user's `retry` reopens a job that did not
succeed.
"""

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from bertjobs.storage import JobDir


class State(Enum):
    """The state of a job. The properties of a state are attributes of its member."""

    HELD = "HELD", "waiting"
    QUEUED = "QUEUED", "waiting"
    RETRYING = "RETRYING", "waiting"
    STARTING = "STARTING", "active"
    RUNNING = "RUNNING", "active"
    CANCELLING = "CANCELLING", "active"
    SUCCEEDED = "SUCCEEDED", "terminal"
    FAILED = "FAILED", "terminal"
    CANCELLED = "CANCELLED", "terminal"
    TIMED_OUT = "TIMED_OUT", "terminal"

    def __new__(cls, word: str, stage: str = "") -> "State":
        member = object.__new__(cls)
        member._value_ = word
        return member

    def __init__(self, word: str, stage: str = "") -> None:
        self.is_waiting = stage == "waiting"
        """No attempt is under way; one may start."""
        self.is_active = stage == "active"
        """An attempt holds the lease."""
        self.is_terminal = stage == "terminal"

    def __str__(self) -> str:
        return str(self.value)


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.HELD: frozenset({State.QUEUED, State.CANCELLED}),
    State.QUEUED: frozenset({State.HELD, State.STARTING, State.CANCELLED, State.FAILED}),
    State.RETRYING: frozenset({State.QUEUED, State.HELD, State.CANCELLED}),
    State.STARTING: frozenset(
        {State.RUNNING, State.CANCELLING, State.RETRYING, State.SUCCEEDED, State.FAILED}
    ),
    State.RUNNING: frozenset({State.CANCELLING, State.RETRYING, State.SUCCEEDED, State.FAILED}),
    # A driver that had finished before it was told to stop has succeeded; its artefacts are there.
    State.CANCELLING: frozenset({State.CANCELLED, State.TIMED_OUT, State.SUCCEEDED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.TIMED_OUT: frozenset(),
}
"""The transitions of the system. `common.lua` has the same table; a test compares them."""

STARTING_WORKERS = "starting workers"
"""The phase that the start deadline is about: what the workers of an admitted gang need to come up."""

REOPENED_BY_RETRY = frozenset({State.FAILED, State.CANCELLED, State.TIMED_OUT})
"""The states from which a user's `retry` queues a job again, to resume from the last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """The resources of one attempt: a gang of equal workers, and CPUs for Ray Data beside them."""

    workers: int
    gpus_per_worker: float
    cpus_per_worker: float
    """CPU cores."""
    data_cpus: float
    """CPU cores left for Ray Data; the workers' threads use them while it is idle."""

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker

    @property
    def cpus(self) -> float:
        return self.workers * self.cpus_per_worker + self.data_cpus


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One Ray Job that executes, or executed, a job."""

    number: int
    token: int
    submission_id: str
    grant: Grant
    nodes: tuple[str, ...]
    """Ray node ids of the workers, as the driver reported them; empty before."""
    claimed_at: datetime
    started_at: datetime | None
    """When the first step was reported."""
    heartbeat_at: datetime | None
    ended_at: datetime | None
    outcome: State | None
    """State of the job after the attempt: RETRYING, or a terminal one."""
    reason: str
    message: str
    version: str
    """Version of the dispatcher, which that of the driver must equal."""
    log_is_final: bool
    """Whether nothing will be added to the copy of the driver's log in storage."""
    log_is_complete: bool
    """Whether the copy has the last line; a final one that has not was given up."""

    def to_json(self) -> dict[str, Any]:
        """Return the attempt with stable keys, for `--json`."""
        return {
            "number": self.number,
            "submission_id": self.submission_id,
            "outcome": None if self.outcome is None else str(self.outcome),
            "reason": self.reason or None,
            "message": self.message or None,
            "nodes": list(self.nodes),
            "claimed_at": iso(self.claimed_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "log": None if not self.log_is_final else "complete" if self.log_is_complete else "incomplete",
        }


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a list shows: everything but the configuration and the results."""

    id: str
    kind: str
    name: str
    user: str
    state: State
    reason: str
    """One word: why it waits, or how it ended."""
    message: str
    """The sentence that explains the word."""
    priority: int
    """Higher goes first."""
    num_attempts: int
    place: int | None
    """Position in the queue, from 1; only while QUEUED."""
    phase: str
    """What the driver is doing, in a few words."""
    progress: dict[str, Any]
    """The last report of the step loop: step, num_steps, epoch, loss, examples_per_s, eta_s, ..."""
    resources: dict[str, Any]
    submitted_at: datetime
    started_at: datetime | None
    """When the first attempt was granted its resources."""
    ended_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return the columns with stable keys, for `--json`."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name or None,
            "user": self.user,
            "state": str(self.state),
            "reason": self.reason or None,
            "message": self.message or None,
            "priority": self.priority,
            "place": self.place,
            "attempts": self.num_attempts,
            "phase": self.phase or None,
            "progress": self.progress,
            "resources": self.resources,
            "submitted_at": iso(self.submitted_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
        }


@dataclass(frozen=True, kw_only=True)
class Job(JobSummary):
    """Everything Redis knows about a job."""

    config: dict[str, Any]
    storage: str
    """Folder or URI that contains the job's own folder."""
    max_retries: int
    """How often the job is retried after a failure of its own."""
    time_limit_s: float | None
    """Seconds over all attempts after which the job is stopped."""
    preset: str | None = None
    """The preset that its configuration began with."""
    stall_timeout_s: float | None = None
    """Seconds without progress after which an attempt is stalled; None: as the cluster has it."""
    keep_s: float | None
    """Seconds after its end after which it may be deleted; None: it is kept."""
    after: tuple[str, ...]
    """Jobs that must have succeeded first."""
    idempotency_key: str | None
    num_charged: int
    """Retries counted against `max_retries`."""
    num_faults: int
    """Infrastructure faults since the last checkpoint."""
    num_stalls: int = 0
    """Attempts that made no progress for too long, since it was submitted or retried by a user."""
    used_s: float
    """Total seconds of its ended attempts."""
    checkpoint: str | None
    """Published checkpoint to resume from."""
    checkpoint_step: int | None
    metrics: dict[str, Any]
    artifacts: dict[str, Any]
    attempts: tuple[Attempt, ...] = field(default=())

    @property
    def job_dir(self) -> JobDir:
        """The folder of the artefacts."""
        return JobDir(self.storage, self.id)

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    def to_json(self) -> dict[str, Any]:
        """Return what `status`, `wait` and `submit --wait` print, with stable keys."""
        empty: dict[str, Any] = {"model": None, "predictions": None, "plots": []}
        return {
            **super().to_json(),
            "metrics": self.metrics,
            "artifacts": {"dir": self.job_dir.uri, **empty, **self.artifacts},
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a job's timeline."""

    at: datetime
    state: State
    reason: str
    message: str
    attempt: int
    """Number of the attempt it belongs to; 0 before the first."""

    def to_json(self) -> dict[str, Any]:
        return {
            "at": iso(self.at),
            "state": str(self.state),
            "reason": self.reason or None,
            "message": self.message or None,
            "attempt": self.attempt,
        }


_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_EPOCH_S = 1_735_689_600  # 2025-01-01; six digits of seconds last until 2059


def new_job_id(*, now_s: float | None = None) -> str:
    """Return an id that sorts by the second it was made in: `j-1t4k7wx3m`.

    Not a counter in Redis: after Redis was wiped, a new job must not get the folder of an old one.
    """
    seconds = int(time.time() if now_s is None else now_s) - _EPOCH_S
    digits = [_DIGITS[seconds >> shift & 31] for shift in range(25, -1, -5)]
    return "j-" + "".join(digits) + "".join(secrets.choice(_DIGITS) for _ in range(3))


JOB_ID = re.compile(r"j-[0-9a-z]{9}")
"""What an id looks like. It names files, keys and a Ray Job, so whoever reads one from Redis checks it first.
`common.lua` has the same pattern."""


def is_job_id(text: object) -> bool:
    """Return whether a value read from outside is an id."""
    return isinstance(text, str) and JOB_ID.fullmatch(text) is not None


def submission_id(job_id: str, attempt: int) -> str:
    """Return the name of an attempt's Ray Job. It is derived and never read: a name that somebody wrote into
    Redis could be another user's Ray Job."""
    return f"bj-{job_id}-a{attempt}"


def iso(moment: datetime | None) -> str | None:
    """Return a time as ISO-8601 UTC to the millisecond."""
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(ms: str | int | None) -> datetime | None:
    """Convert Redis' milliseconds since 1970; None and '' give None."""
    return datetime.fromtimestamp(int(ms) / 1000, UTC) if ms else None


def grant_of(text: str) -> Grant:
    """Parse a stored grant."""
    return Grant(**json.loads(text))
