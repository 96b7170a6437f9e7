"""The replies of the Lua scripts, parsed into jobs, attempts and what the dispatcher decides on.

The only module that knows the names of the fields in Redis' hashes and the order of the columns, which
`waiting_row` and `live_row` in common.lua define. Records of earlier versions must stay readable.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from bertjobs.jobs.job import (
    Attempt,
    Event,
    Job,
    JobSummary,
    State,
    grant_of,
    is_job_id,
    moment_of,
    submission_id,
)
from bertjobs.jobs.scheduling.free_resources import NO_SHARE, NodeShare, Placement
from bertjobs.jobs.scheduling.types import LiveAttempt, Quotas, WaitingJob
from bertjobs.jobs.store.connection import RecordInvalid

T = TypeVar("T")
Skip = Callable[[object, Exception], None]
"""Is told the id and the error of a row that is skipped."""

_MALFORMED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What parsing raises on a row that no version of ours has written."""
MAX_AMOUNT = 1e6
"""More CPUs, GPUs or workers than any cluster has."""

SUMMARY_COLUMNS = (
    "kind",
    "name",
    "user",
    "state",
    "reason",
    "message",
    "priority",
    "num_attempts",
    "phase",
    "progress",
    "resources",
    "submitted_at",
    "started_at",
    "ended_at",
)
"""Fields of a job's hash that a list reads; a row also has the place in the queue and the id."""


@dataclass(frozen=True, kw_only=True)
class DriverLaunch:
    """How a dispatcher starts drivers on the nodes of Ray."""

    python: str
    """The Python there that has bertjobs."""
    env: Mapping[str, str]
    """What a driver gets besides the environment of its node."""


def driver_launch_of(text: str) -> DriverLaunch:
    """Read what a dispatcher has published. Raises: RecordInvalid: no version of ours has written it."""
    try:
        found = json.loads(text)
        env = {str(name): str(value) for name, value in found["env"].items()}
        return DriverLaunch(python=str(found["python"]), env=env)
    except _MALFORMED as e:
        raise RecordInvalid("bj:drivers") from e


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Make a mapping of a flat reply (name, value, name, value), which HGETALL returns inside a script."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def summary_of(row: Sequence[Any]) -> JobSummary:
    """Parse a row of `list.lua`; a field that is not set is `false`."""
    *values, place, job_id = row
    _check_id(job_id)
    fields = {
        column: value for column, value in zip(SUMMARY_COLUMNS, values, strict=True) if value is not False
    }
    return JobSummary(**_columns(job_id, fields, place=place or None))


def summaries_of(rows: Iterable[Sequence[Any]]) -> Iterator[JobSummary]:
    """Parse the rows of `list.lua`, without those that no version of ours has written."""
    for row in rows:
        try:
            yield summary_of(row)
        except _MALFORMED:
            continue


def job_of(document: str) -> Job:
    """Parse the document of `read` in common.lua: the job, its rank (-1 outside the queue), its attempts."""
    flat, rank, attempts = json.loads(document)
    fields = pairs(flat)
    if not is_job_id(fields.get("id")):  # it names the job's folder
        raise RecordInvalid(fields.get("id"))
    return Job(
        **_columns(fields["id"], fields, place=rank + 1 or None),
        config=json.loads(fields["config"]),
        storage=fields["storage"],
        max_retries=int(fields["max_retries"]),
        time_limit_s=_optional(fields, "time_limit_s", float),
        stall_timeout_s=_optional(fields, "stall_timeout_s", float),
        preset=_optional(fields, "preset", str),
        keep_s=_optional(fields, "keep_ms", lambda ms: int(ms) / 1000),
        after=tuple(json.loads(fields["after"])),
        idempotency_key=_optional(fields, "idempotency_key", str),
        num_charged=int(fields["num_charged"]),
        num_faults=int(fields["num_faults"]),
        num_stalls=_optional(fields, "num_stalls", int) or 0,
        used_s=int(fields["used_ms"]) / 1000,
        checkpoint=_optional(fields, "checkpoint", str),
        checkpoint_step=_optional(fields, "checkpoint_step", int),
        metrics=_object(fields, "metrics"),
        artifacts=_object(fields, "artifacts"),
        attempts=tuple(attempt_of(fields["id"], pairs(attempt)) for attempt in attempts),
    )


def attempt_of(job_id: str, fields: Mapping[str, str]) -> Attempt:
    """Parse an attempt's hash."""
    # An earlier version wrote no `log`: it let an attempt go once its log was copied.
    log = fields.get("log") or ("complete" if "gone_at" in fields else "")
    return Attempt(
        number=int(fields["number"]),
        token=int(fields["token"]),
        submission_id=submission_id(job_id, int(fields["number"])),
        grant=grant_of(fields["grant"]),
        nodes=tuple(json.loads(_text(fields, "nodes") or "[]")),
        claimed_at=_moment(fields["claimed_at"]),
        started_at=_optional(fields, "started_at", moment_of),
        heartbeat_at=_optional(fields, "heartbeat_at", moment_of),
        ended_at=_optional(fields, "ended_at", moment_of),
        outcome=_optional(fields, "outcome", State),
        reason=_text(fields, "reason"),
        message=_text(fields, "message"),
        version=_text(fields, "version"),
        log_is_final=log in ("complete", "incomplete"),
        log_is_complete=log == "complete",
    )


def event_of(entry_id: str, fields: Mapping[str, str]) -> Event:
    """Parse an entry of a job's event stream; its id begins with Redis' milliseconds."""
    return Event(
        at=_moment(entry_id.partition("-")[0]),
        state=State(fields["state"]),
        reason=fields["reason"],
        message=fields["message"],
        attempt=int(fields["attempt"]),
    )


def _columns(job_id: str, fields: Mapping[str, str], *, place: int | None) -> dict[str, Any]:
    return {
        "id": job_id,
        "kind": fields["kind"],
        "name": fields["name"],
        "user": fields["user"],
        "state": State(fields["state"]),
        "reason": fields["reason"],
        "message": fields["message"],
        "priority": int(fields["priority"]),
        "num_attempts": int(fields["num_attempts"]),
        "place": place,
        "phase": _text(fields, "phase"),
        "progress": _object(fields, "progress"),
        "resources": _object(fields, "resources"),
        "submitted_at": _moment(fields["submitted_at"]),
        "started_at": _optional(fields, "started_at", moment_of),
        "ended_at": _optional(fields, "ended_at", moment_of),
    }


def _moment(ms: str) -> datetime:
    moment = moment_of(ms)
    assert moment is not None
    return moment


def _text(fields: Mapping[str, str], name: str) -> str:
    return fields.get(name, "")  # a field that is not set is an empty text


def _object(fields: Mapping[str, str], name: str) -> dict[str, Any]:
    return json.loads(fields[name]) if name in fields else {}


def _optional(fields: Mapping[str, str], name: str, read: Any) -> Any:
    return read(fields[name]) if name in fields else None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """A job in the queue, with the reason that it shows."""

    waiting: WaitingJob
    order: float
    """The job with the smallest goes first."""
    queued_at_ms: int
    group: str
    """The group whose reason it shows; empty for its own."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What has changed since a version."""

    now_ms: int
    version: int
    queued: Mapping[str, QueuedJob | None]
    """Job id -> the job, or None where it has left the queue."""
    live: Mapping[str, LiveAttempt | None]
    """Job id -> its live attempt, or None where it has none."""
    overdue: frozenset[str]
    """All jobs whose lease has expired, changed or not."""
    is_complete: bool
    """Whether these are all changes."""
    counts: Mapping[State, int]
    quotas: Quotas


def readable(rows: Iterable[Sequence[Any]], parse: Callable[[Any], T], *, skip: Skip) -> Iterator[T]:
    """Parse rows that begin with an id, without those that no version of ours has written.

    Whoever may submit jobs can write to Redis, so a row may hold anything; it must not stop the others.
    """
    for row in rows:
        try:
            yield parse(row)
        except _MALFORMED as e:
            skip(row[0], e)


def changes_of(reply: Sequence[Any], *, limit: int, skip: Skip) -> Changes:
    """Parse the reply of `changes.lua`. A job whose row cannot be read counts as one that has left."""
    now_ms, version, document, overdue, counts, limits, drained_by = reply
    rows = json.loads(document)
    queued: dict[str, QueuedJob | None] = dict.fromkeys(row[0] for row, _ in rows)
    live: dict[str, LiveAttempt | None] = dict.fromkeys(queued)
    found_queued = readable((row for row, _ in rows if row[1]), queued_of, skip=skip)
    found_live = readable(
        (row for _, row in rows if row), lambda row: live_of(row, now_ms=int(now_ms)), skip=skip
    )
    return Changes(
        now_ms=int(now_ms),
        version=int(version),
        queued=queued | {job.waiting.job_id: job for job in found_queued},
        live=live | {attempt.job_id: attempt for attempt in found_live},
        overdue=frozenset(overdue),
        is_complete=len(rows) < limit,
        counts={State(name): count for name, count in json.loads(counts).items()},
        quotas=Quotas(
            max_gpus={user: float(gpus) for user, gpus in pairs(limits).items() if _is_number(gpus)},
            drained_by=drained_by or None,
        ),
    )


def queued_of(row: Sequence[Any]) -> QueuedJob:
    """Parse a row of `waiting_row`; a field that is not set is `false`.

    Raises: one of _MALFORMED, see `readable`.
    """
    _check_id(row[0])
    job_id, order, resources, limit_s, used_ms, group, user, queued_at, *dependency = row
    waits_for, ended_as, is_alive = dependency
    left_s = float(limit_s) - int(used_ms) / 1000 if limit_s else None
    return QueuedJob(
        waiting=WaitingJob(
            job_id=job_id,
            resources=_resources(resources),
            time_limit_s=left_s,
            waits_for=waits_for or None,
            dependency_ended_as=ended_as or None,
            is_still_alive=is_alive,
            user=user,
        ),
        order=float(order),
        queued_at_ms=int(queued_at),
        group=group or "",
    )


@dataclass(frozen=True)
class UnfinishedLog:
    """The log of an attempt whose driver is gone, not yet copied to its end."""

    job_id: str
    attempt: int
    storage: str


def unfinished_log_of(row: Sequence[Any]) -> UnfinishedLog:
    """Parse a row of `read_logs.lua`. Raises: one of _MALFORMED, see `readable`."""
    job_id, attempt, storage = row
    _check_id(job_id)
    if not isinstance(storage, str):
        raise ValueError("no storage")
    return UnfinishedLog(job_id, int(attempt), storage)


@lru_cache(maxsize=1000)
def _resources(text: str) -> Mapping[str, Any]:
    """Parse a resource request, once for the thousands of jobs with the same text. Admission relies on it."""
    found: dict[str, Any] = json.loads(text)
    gpus, workers, cpus = (found[name] for name in ("gpus", "workers", "cpus_per_worker"))
    if type(gpus) is not int or not 0 <= gpus <= MAX_AMOUNT:
        raise ValueError(f"gpus: {gpus}")
    if workers is not None and (type(workers) is not int or not 1 <= workers <= MAX_AMOUNT):
        raise ValueError(f"workers: {workers}")
    if cpus is not None and not 0 < cpus <= MAX_AMOUNT:
        raise ValueError(f"cpus_per_worker: {cpus}")
    return found


def live_of(row: Sequence[Any], *, now_ms: int) -> LiveAttempt:
    """Parse a row of `live_row`. Raises: one of _MALFORMED, see `readable`."""
    job_id, number, job, attempt = row
    _check_id(job_id)
    state, storage, kind, name, user, limit_s, used_ms, max_retries, num_charged, num_faults, *job = job
    queued_at, num_stalls, phase = job
    token, grant, plan, nodes, outcome, failure = attempt[:6]
    submitted_at, claimed_at, progress_at, heartbeat_at, cancel_at, drained_at, *attempt = attempt[6:]
    ended_at, stalled_at = attempt

    def ago_s(moment: Any) -> float | None:
        return (now_ms - int(moment)) / 1000 if moment else None

    claimed_ago_s, progress_ago_s = ago_s(claimed_at), ago_s(progress_at)
    if claimed_ago_s is None or progress_ago_s is None:
        raise ValueError("an attempt that was never claimed")
    if not (isinstance(storage, str) and all(isinstance(text, str) for text in (kind, name, user))):
        raise ValueError("a field that is not set")
    return LiveAttempt(
        job_id=job_id,
        number=int(number),
        token=int(token),
        submission_id=submission_id(job_id, int(number)),
        state=State(state),
        storage=storage,
        kind=kind,
        name=name,
        user=user,
        is_submitted=bool(submitted_at),
        claimed_ago_s=claimed_ago_s,
        progress_ago_s=progress_ago_s,
        heartbeat_ago_s=ago_s(heartbeat_at),
        cancel_ago_s=ago_s(cancel_at),
        drained_ago_s=ago_s(drained_at),
        ended_ago_s=ago_s(ended_at),
        waited_s=(int(claimed_at) - int(queued_at)) / 1000,
        time_left_s=float(limit_s) - int(used_ms) / 1000 - claimed_ago_s if limit_s else None,
        max_retries=int(max_retries),
        num_charged=int(num_charged),
        num_faults=int(num_faults),
        num_stalls=int(num_stalls or 0),
        phase=phase or "",
        is_stalled=bool(stalled_at),
        outcome=outcome or "",
        failure=failure or "",
        placement=_placement(grant, plan, nodes or ""),
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_id(job_id: object) -> None:
    if not is_job_id(job_id):
        raise ValueError("not the id of a job")


@lru_cache(maxsize=20_000)
def _placement(grant_text: str, plan_text: str, nodes_text: str) -> Placement:
    """Return where the attempt's resources are: where its workers run, or else where they were planned.

    Ray Train places the gang itself; until the driver has reported the nodes, the plan is the best guess.
    """
    plan = {node: (share[0], share[1]) for node, share in json.loads(plan_text).items()}
    grant = grant_of(grant_text)
    actual: dict[str, NodeShare] = {}
    for node in json.loads(nodes_text) if nodes_text else ():
        cpus, gpus = actual.get(node, NO_SHARE)
        actual[node] = (cpus + grant.cpus_per_worker, gpus + grant.gpus_per_worker)
    if not actual:
        return _checked(plan)
    largest = max(actual, key=lambda node: actual[node][0])
    actual[largest] = (actual[largest][0] + grant.data_cpus, actual[largest][1])
    return _checked(actual)


def _checked(placement: Placement) -> Placement:
    for amount in (amount for share in placement.values() for amount in share):
        if not (math.isfinite(amount) and 0 <= amount <= MAX_AMOUNT):  # it would be added to all others
            raise ValueError(f"a share of {amount}")
    return placement
