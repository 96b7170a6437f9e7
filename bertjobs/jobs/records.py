"""What Redis returns, as jobs and attempts. The one place that knows how the hashes' fields are called."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bertjobs.jobs.job import Attempt, Event, Job, JobSummary, State, grant_of, moment_of

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
"""Fields of the job's hash that a list reads; the row also brings the place in the queue and the id."""


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Make a mapping of HGETALL's answer inside a script: name, value, name, value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def summary_of(row: Sequence[Any]) -> JobSummary:
    """Read one row of `list.lua`; a field that is not set is `false`."""
    *values, place, job_id = row
    fields = {
        column: value for column, value in zip(SUMMARY_COLUMNS, values, strict=True) if value is not False
    }
    return JobSummary(**_columns(job_id, fields, place=place or None))


def job_of(document: str) -> Job:
    """Read what `read` in common.lua writes: the job, its rank (-1 outside the queue), its attempts."""
    flat, rank, attempts = json.loads(document)
    fields = pairs(flat)
    return Job(
        **_columns(fields["id"], fields, place=rank + 1 or None),
        config=json.loads(fields["config"]),
        storage=fields["storage"],
        max_retries=int(fields["max_retries"]),
        time_limit_s=_optional(fields, "time_limit_s", float),
        keep_s=_optional(fields, "keep_ms", lambda ms: int(ms) / 1000),
        after=tuple(json.loads(fields["after"])),
        idempotency_key=_optional(fields, "idempotency_key", str),
        num_charged=int(fields["num_charged"]),
        num_faults=int(fields["num_faults"]),
        used_s=int(fields["used_ms"]) / 1000,
        checkpoint=_optional(fields, "checkpoint", str),
        checkpoint_step=_optional(fields, "checkpoint_step", int),
        metrics=_object(fields, "metrics"),
        artifacts=_object(fields, "artifacts"),
        attempts=tuple(attempt_of(pairs(attempt)) for attempt in attempts),
    )


def attempt_of(fields: Mapping[str, str]) -> Attempt:
    """Read an attempt's hash."""
    return Attempt(
        number=int(fields["number"]),
        token=int(fields["token"]),
        submission_id=fields["submission_id"],
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
        log_is_complete="gone_at" in fields,
    )


def event_of(entry_id: str, fields: Mapping[str, str]) -> Event:
    """Read an entry of a job's stream of events; its id begins with Redis' milliseconds."""
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
    return fields.get(name, "")  # a field that Redis does not have is an empty text


def _object(fields: Mapping[str, str], name: str) -> dict[str, Any]:
    return json.loads(fields[name]) if name in fields else {}


def _optional(fields: Mapping[str, str], name: str, read: Any) -> Any:
    return read(fields[name]) if name in fields else None
