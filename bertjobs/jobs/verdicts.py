"""What admission is given, and what it answers. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertjobs.jobs.job import Grant
from bertjobs.jobs.nodes import Plan
from bertjobs.jobs.sizing import Pending

SHORT_OF_ROOM = frozenset({"InsufficientGpus", "InsufficientCpus", "Fragmented", "BehindPriority"})
"""Words of those that would start if there were more room, and nothing else is in their way."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one live attempt takes of the cluster."""

    job_id: str
    plan: Plan
    ends_in_s: float | None
    """Seconds until its time limit ends it; None without one."""
    is_gone: bool = False
    """Ended a moment ago: Ray's numbers may still hold it, the ledger no longer does."""
    user: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What admission needs to know of a job in the queue."""

    job_id: str
    resources: Mapping[str, Any]
    time_limit_s: float | None
    """Seconds it may run, those of earlier attempts taken off; None without a limit."""
    waits_for: str | None
    """A job in `after` that has not succeeded yet."""
    dependency_ended_as: str | None
    """The state in which that job ended, so that it will never succeed."""
    is_still_alive: bool
    """Its last attempt is not known to be gone."""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What its owners have said of the sharing of this queue."""

    max_gpus: Mapping[str, float] = field(default_factory=dict)
    """User -> GPUs that all jobs of this user together may hold."""
    drained_by: str | None = None
    """Who has the queue drained, so that nothing starts; None while it is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admit:
    """Start the job."""

    grant: Grant
    plan: Plan


@dataclass(frozen=True, slots=True)
class Wait:
    """Leave the job in the queue, and say why. Thousands share one."""

    reason: Pending


@dataclass(frozen=True, slots=True)
class Reject:
    """End the job: it can never start."""

    reason: Pending


Verdict = Admit | Wait | Reject
OPEN = Rules()
