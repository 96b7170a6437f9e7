"""Which waiting jobs start now, and why each of the others waits. Pure: a view of the cluster, what is
granted, and the queue go in; one verdict per waiting job comes out.

A job starts only when its whole gang fits. The first one that does not fit is the *head*: others may pass it
only where that cannot delay it (backfilling with one reservation):
- they end, by their time limit, before the head could start at the latest, or
- they take nothing the head is short of: no GPUs, and CPUs that it leaves over.
A job that the cluster could never hold is no head; it holds nobody up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.sizing import (
    QUANTUM,
    Cluster,
    Free,
    Pending,
    describe_gang,
    exceeds,
    fits,
    place,
    size_workers,
)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one live attempt takes of the cluster."""

    job_id: str
    plan: Mapping[str, tuple[float, float]]
    """Node id -> CPUs and GPUs."""
    ends_in_s: float | None
    """Seconds until its time limit ends it; None without one."""
    is_gone: bool = False
    """Ended a moment ago: Ray's numbers may still hold it, the ledger no longer does."""


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Admit:
    """Start the job."""

    job_id: str
    grant: Grant
    plan: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Leave the job in the queue, and say why."""

    job_id: str
    reason: Pending


@dataclass(frozen=True, kw_only=True)
class Reject:
    """End the job: it can never start."""

    job_id: str
    reason: Pending


Verdict = Admit | Wait | Reject


def admit(
    queue: Sequence[Waiting], *, cluster: Cluster | None, holdings: Sequence[Holding], unreachable: str = ""
) -> list[Verdict]:
    """Decide on every job, given in queue order. `cluster` is None while Ray does not answer."""
    if cluster is None:
        message = f"Ray cannot be reached: {unreachable} The job starts when it is back."
        return [_not_ready(job) or _wait(job, "RayUnreachable", message) for job in queue]
    floor = _Floor(cluster, holdings)
    return [_not_ready(job) or floor.decide(job) for job in queue]


def free_of(cluster: Cluster, holdings: Iterable[Holding]) -> dict[str, tuple[float, float]]:
    """Return what is free: the totals without what the ledger holds and without what others use.

    Others' use is what Ray reports beyond the ledger. Ray's numbers are seconds old, so a grant that is not
    in them yet still counts, and what an attempt that has just gone held is not taken for someone else's.
    """
    free = {}
    for node in cluster.nodes:
        live, gone = (
            [h.plan[node.id] for h in holdings if node.id in h.plan and h.is_gone is is_gone]
            for is_gone in (False, True)
        )
        cpus, gpus = (sum(share[i] for share in live) for i in (0, 1))
        gone_cpus, gone_gpus = (sum(share[i] for share in gone) for i in (0, 1))
        others_cpus = max(node.used_cpus - cpus - gone_cpus, 0.0)
        others_gpus = max(node.used_gpus - gpus - gone_gpus, 0.0)
        free[node.id] = (node.cpus - cpus - others_cpus, node.gpus - gpus - others_gpus)
    return free


class _Floor:
    """The cluster during one pass: what is still free, and who is the head."""

    def __init__(self, cluster: Cluster, holdings: Sequence[Holding]) -> None:
        self._cluster = cluster
        self._holdings = [holding for holding in holdings if not holding.is_gone]
        self._free = free_of(cluster, holdings)
        self._head: tuple[Waiting, Grant, float | None] | None = None
        """The first job that does not fit, its gang, and in how many seconds at the latest it will."""

    def decide(self, job: Waiting) -> Verdict:
        try:
            grant = size_workers(self._cluster, job.resources)
        except ConfigError as e:
            return Reject(job_id=job.job_id, reason=Pending(word="ConfigError", message=str(e)))
        too_large = exceeds(self._cluster, grant)
        if too_large is not None:
            return Wait(job_id=job.job_id, reason=too_large)
        plan = place(grant, self._free)
        if plan is None:
            if self._head is None:
                self._head = (job, grant, self._latest_start_s(grant))
            return Wait(job_id=job.job_id, reason=_shortage(grant, self._free))
        if self._head is not None and not self._may_pass(job, plan):
            return self._behind(job)
        self._free = _without(self._free, plan)
        self._holdings.append(Holding(job_id=job.job_id, plan=plan, ends_in_s=job.time_limit_s))
        return Admit(job_id=job.job_id, grant=grant, plan=plan)

    def _latest_start_s(self, grant: Grant) -> float | None:
        """Return in how many seconds at the latest so many running jobs have ended that the gang fits."""
        free: Free = self._free
        limited = [(h.ends_in_s, h) for h in self._holdings if h.ends_in_s is not None]
        for ends_in_s, holding in sorted(limited, key=lambda pair: pair[0]):
            free = _without(free, holding.plan, sign=-1)
            if fits(grant, free):
                return max(ends_in_s, 0.0)
        return None

    def _may_pass(self, job: Waiting, plan: Mapping[str, tuple[float, float]]) -> bool:
        assert self._head is not None
        _, grant, starts_in_s = self._head
        if job.time_limit_s is not None and starts_in_s is not None and job.time_limit_s <= starts_in_s:
            return True
        if not grant.gpus or any(gpus for _, gpus in plan.values()):
            return False
        # What the head is short of is GPUs; were there enough, would the CPUs left by this job do?
        rest = _without(self._free, plan)
        gpus_of = {node.id: node.gpus for node in self._cluster.nodes}
        return fits(grant, {node: (cpus, gpus_of[node]) for node, (cpus, _) in rest.items()})

    def _behind(self, job: Waiting) -> Wait:
        assert self._head is not None
        head, grant, starts_in_s = self._head
        needs = f"{grant.gpus:g} GPUs" if grant.gpus else f"{grant.cpus:g} CPUs"
        if job.time_limit_s is None:
            remedy = "A --time-limit would let it pass while there is time."
        elif starts_in_s is None:
            remedy = "What it waits for has no time limit, so nobody knows for how long."
        else:
            remedy = f"It may pass only if it ends within {starts_in_s:.0f} s."
        return _wait(
            job,
            "BehindPriority",
            f"Fits, but would delay {head.job_id}, which is ahead and needs {needs}. {remedy}",
        )


def _not_ready(job: Waiting) -> Verdict | None:
    if job.dependency_ended_as is not None:
        message = f"{job.waits_for}, which it was to follow, ended as {job.dependency_ended_as}."
        return Reject(job_id=job.job_id, reason=Pending(word="DependencyFailed", message=message))
    if job.waits_for is not None:
        return _wait(job, "WaitingForDependency", f"Starts after {job.waits_for} has succeeded.")
    if job.is_still_alive:
        return _wait(job, "LastAttemptAlive", "Starts once Ray confirms that its last attempt is gone.")
    return None


def _shortage(grant: Grant, free: Free) -> Pending:
    cpus, gpus = (sum(share[i] for share in free.values()) for i in (0, 1))
    if grant.gpus > gpus + QUANTUM:
        return Pending(word="InsufficientGpus", message=f"Needs {grant.gpus:g} GPUs, {max(gpus, 0):g} free.")
    if grant.cpus > cpus + QUANTUM:
        return Pending(
            word="InsufficientCpus",
            message=f"Needs {grant.cpus:g} CPUs ({grant.data_cpus:g} of them for reading data), "
            f"{max(cpus, 0):g} free.",
        )
    return Pending(
        word="Fragmented",
        message=f"{gpus:g} GPUs and {cpus:g} CPUs are free, but scattered: no room for "
        f"{describe_gang(grant)}.",
    )


def _wait(job: Waiting, word: str, message: str) -> Wait:
    return Wait(job_id=job.job_id, reason=Pending(word=word, message=message))


def _without(
    free: Free, plan: Mapping[str, tuple[float, float]], *, sign: int = 1
) -> dict[str, tuple[float, float]]:
    """Take a plan off what is free, or with `sign=-1` give it back; nodes that have gone are left out."""
    rest = dict(free)
    for node, (cpus, gpus) in plan.items():
        if node in rest:
            rest[node] = (rest[node][0] - sign * cpus, rest[node][1] - sign * gpus)
    return rest
