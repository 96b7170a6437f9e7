"""What the dispatcher's scripts return, as what it decides on. The one place that knows the order of the
columns, which `waiting_row` and `live_row` in common.lua fix."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bertjobs.jobs.job import State, grant_of
from bertjobs.jobs.nodes import NOTHING, Share
from bertjobs.jobs.records import pairs
from bertjobs.jobs.verdicts import Rules, Waiting
from bertjobs.jobs.watch import Live


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A job in the queue, and what is written at it now."""

    waiting: Waiting
    order: float
    """Smallest goes first."""
    queued_at_ms: int
    group: str
    """The group whose reason it shows; empty for its own."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What has changed since a version."""

    now_ms: int
    version: int
    queued: Mapping[str, Queued | None]
    """Job id -> the job, or None where it is in the queue no more."""
    live: Mapping[str, Live | None]
    """Job id -> its live attempt, or None where it has none."""
    overdue: frozenset[str]
    """All jobs whose lease has run out, changed or not."""
    is_complete: bool
    """Whether there are no more changes than these."""
    counts: Mapping[State, int]
    rules: Rules


def changes_of(answer: Sequence[Any], *, limit: int) -> Changes:
    """Read the answer of `changes.lua`."""
    now_ms, version, document, overdue, counts, limits, drained_by = answer
    rows = json.loads(document)
    return Changes(
        now_ms=int(now_ms),
        version=int(version),
        queued={row[0]: queued_of(row) if row[1] else None for row, _ in rows},
        live={row[0]: live_of(live, now_ms=int(now_ms)) if live else None for row, live in rows},
        overdue=frozenset(overdue),
        is_complete=len(rows) < limit,
        counts={State(name): count for name, count in json.loads(counts).items()},
        rules=Rules(
            max_gpus={user: float(gpus) for user, gpus in pairs(limits).items()},
            drained_by=drained_by or None,
        ),
    )


def queued_of(row: Sequence[Any]) -> Queued:
    """Read one row of `waiting_row`; a field that is not set is `false`."""
    job_id, order, resources, limit_s, used_ms, group, user, queued_at, *dependency = row
    waits_for, ended_as, is_alive = dependency
    left_s = float(limit_s) - int(used_ms) / 1000 if limit_s else None
    return Queued(
        waiting=Waiting(
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


@lru_cache(maxsize=1000)
def _resources(text: str) -> Mapping[str, Any]:
    """Read what a job asks for: once for the thousands that ask alike."""
    found: dict[str, Any] = json.loads(text)
    return found


def live_of(row: Sequence[Any], *, now_ms: int) -> Live:
    """Read one row of `live_row`."""
    job_id, number, job, attempt = row
    state, storage, kind, name, user, limit_s, used_ms, max_retries, num_charged, num_faults, queued_at = job
    token, submission_id, grant, plan, nodes, outcome, failure = attempt[:7]
    submitted_at, claimed_at, alive_at, heartbeat_at, told_at, drained_at, ended_at = attempt[7:]

    def ago_s(moment: Any) -> float | None:
        return (now_ms - int(moment)) / 1000 if moment else None

    claimed_ago_s, alive_ago_s = ago_s(claimed_at), ago_s(alive_at)
    assert claimed_ago_s is not None and alive_ago_s is not None
    return Live(
        job_id=job_id,
        number=int(number),
        token=int(token),
        submission_id=submission_id,
        state=State(state),
        storage=storage,
        kind=kind,
        name=name,
        user=user,
        is_submitted=bool(submitted_at),
        claimed_ago_s=claimed_ago_s,
        alive_ago_s=alive_ago_s,
        heard_ago_s=ago_s(heartbeat_at),
        told_ago_s=ago_s(told_at),
        drained_ago_s=ago_s(drained_at),
        ended_ago_s=ago_s(ended_at),
        waited_s=(int(claimed_at) - int(queued_at)) / 1000,
        time_left_s=float(limit_s) - int(used_ms) / 1000 - claimed_ago_s if limit_s else None,
        max_retries=int(max_retries),
        num_charged=int(num_charged),
        num_faults=int(num_faults),
        outcome=outcome or "",
        failure=failure or "",
        plan=_held(grant, plan, nodes or ""),
    )


@lru_cache(maxsize=20_000)
def _held(grant_text: str, plan_text: str, nodes_text: str) -> Mapping[str, Share]:
    """Return where the attempt's resources are: where its workers run, else where they were planned.

    Ray Train places the gang by itself; until the driver has reported the nodes, the plan is the best guess.
    """
    plan = {node: (share[0], share[1]) for node, share in json.loads(plan_text).items()}
    grant = grant_of(grant_text)
    actual: dict[str, Share] = {}
    for node in json.loads(nodes_text) if nodes_text else ():
        cpus, gpus = actual.get(node, NOTHING)
        actual[node] = (cpus + grant.cpus_per_worker, gpus + grant.gpus_per_worker)
    if not actual:
        return plan
    largest = max(actual, key=lambda node: actual[node][0])
    actual[largest] = (actual[largest][0] + grant.data_cpus, actual[largest][1])
    return actual
