"""Which waiting jobs start now, and why each of the others waits. Pure: a view of the cluster, what is
granted, and the queue go in; one verdict per waiting job comes out.

A job starts only when its whole gang fits. The first one that does not fit is the *head*: others may pass it
only where that cannot delay it (backfilling with one reservation):
- they end, by their time limit, before the head could start at the latest, or
- they take nothing the head is short of: no GPUs, and on no node CPUs that the head's workers would need
  there, whichever of the running jobs ends first.
A job that the cluster could never hold is no head, nor is one that its user's limit holds back: they hold
nobody up.

Thousands of jobs ask alike, and what is free only shrinks during a pass. So each kind of request is sized
once, placed again only after something was taken, and not tried again once it did not fit.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_nodes import NOTHING, QUANTUM, FreeNodes, Plan, Share, sum_of
from bertjobs.jobs.scheduling.sizing import describe_gang, exceeds, size_workers
from bertjobs.jobs.scheduling.types import (
    OPEN,
    Admit,
    Cluster,
    Holding,
    Pending,
    Reject,
    Rules,
    Verdict,
    Wait,
    Waiting,
)

MAX_STARTS = 100
"""Jobs that one pass starts: the next one follows at once, and the leadership is renewed between them."""


class Sizes:
    """How large the gang of each kind of request is on one cluster, remembered while its totals stay."""

    def __init__(self, cluster: Cluster) -> None:
        self.totals = totals_of(cluster)
        self._cluster = cluster
        self._known: dict[tuple[Any, ...], Grant | Pending] = {}

    def size(self, resources: Mapping[str, Any]) -> Grant | Pending:
        """Return the gang, or why this cluster can never hold it (`ConfigError`: no cluster can)."""
        kind = (resources["gpus"], resources["workers"], resources["cpus_per_worker"])
        if kind not in self._known:
            try:
                grant = size_workers(self._cluster, resources)
                self._known[kind] = exceeds(self._cluster, grant) or grant
            except ConfigError as e:
                self._known[kind] = Pending(word="ConfigError", message=str(e))
        return self._known[kind]


def admit(
    queue: Sequence[Waiting],
    *,
    cluster: Cluster | None,
    holdings: Sequence[Holding],
    unreachable: str = "",
    rules: Rules = OPEN,
    sizes: Sizes | None = None,
) -> list[Verdict]:
    """Decide on the jobs, given in queue order: on every one, or up to the last that this pass may start.

    `cluster` is None while Ray does not answer. `sizes` is what an earlier pass has learned of this cluster.
    """
    if rules.drained_by is not None:
        return _all_wait(queue, _drained(rules.drained_by))
    if cluster is None:
        message = f"Ray cannot be reached: {unreachable} The job starts when it is back."
        return _all_wait(queue, Pending(word="RayUnreachable", message=message, group="unreachable"))
    floor = _Floor(cluster, holdings, rules=rules, sizes=sizes or Sizes(cluster))
    verdicts: list[Verdict] = []
    for job in queue:
        verdicts.append(_not_ready(job) or floor.decide(job))
        if floor.num_started == MAX_STARTS:
            break
    return verdicts


def totals_of(cluster: Cluster) -> dict[str, Share]:
    """Return what each node has in all."""
    return {node.id: (node.cpus, node.gpus) for node in cluster.nodes}


def free_of(cluster: Cluster, holdings: Sequence[Holding]) -> dict[str, Share]:
    """Return what is free: the totals without what the ledger holds and without what others use.

    Others' use is what Ray reports beyond the ledger. Ray's numbers are seconds old, so a grant that is not
    in them yet still counts, and what an attempt that has just gone held is not taken for someone else's.
    """
    live = sum_of(h.plan for h in holdings if not h.is_gone)
    gone = sum_of(h.plan for h in holdings if h.is_gone)
    free = {}
    for node in cluster.nodes:
        cpus, gpus = live.get(node.id, NOTHING)
        gone_cpus, gone_gpus = gone.get(node.id, NOTHING)
        others_cpus = max(node.used_cpus - cpus - gone_cpus, 0.0)
        others_gpus = max(node.used_gpus - gpus - gone_gpus, 0.0)
        free[node.id] = (node.cpus - cpus - others_cpus, node.gpus - gpus - others_gpus)
    return free


@dataclass(kw_only=True, slots=True)
class _Kind:
    """What this pass knows of the jobs that ask alike."""

    size: Grant | Pending
    settled: Wait | Reject | None = None
    """What is said to all of them for the rest of the pass: what is free only shrinks."""
    plan: Plan | None = None
    taken_before: int = -1
    """How many jobs had started when the plan was made; it holds while no other has."""
    is_in_the_way: bool = False
    """They would take what the head needs, for the rest of the pass."""


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The first job that does not fit, its gang, and in how many seconds at the latest it will."""

    job_id: str
    grant: Grant
    starts_in_s: float | None


class _Floor:
    """The cluster during one pass: what is still free, and who is the head."""

    def __init__(self, cluster: Cluster, holdings: Sequence[Holding], *, rules: Rules, sizes: Sizes) -> None:
        self.num_started = 0
        self._gpus_of = {node.id: node.gpus for node in cluster.nodes}
        self._holdings = [holding for holding in holdings if not holding.is_gone]
        self._free = FreeNodes(free_of(cluster, holdings))
        self._max_gpus = rules.max_gpus
        self._sizes = sizes
        self._kinds: dict[int, _Kind] = {}
        """By the identity of what they ask for: jobs that were read from the same text share it."""
        self._head: _Head | None = None
        self._behind: dict[str, Wait] = {}
        self._gpus_held: dict[str, float] = defaultdict(float)
        for holding in self._holdings if rules.max_gpus else ():
            self._gpus_held[holding.user] += sum(gpus for _, gpus in holding.plan.values())

    def decide(self, job: Waiting) -> Verdict:
        key = id(job.resources)
        if key not in self._kinds:
            self._kinds[key] = self._kind(job.resources)
        kind = self._kinds[key]
        if self._max_gpus and (over := self._over_limit(job.user, kind.size)):
            return over
        if kind.settled is not None:
            return kind.settled
        assert isinstance(kind.size, Grant)
        plan = self._plan(kind.size, kind)
        if plan is None:
            if self._head is None:
                starts_in_s = self._latest_start_s(kind.size)
                self._head = _Head(job_id=job.job_id, grant=kind.size, starts_in_s=starts_in_s)
            kind.settled = Wait(_shortage(kind.size, self._free))
            return kind.settled
        if self._head is not None and not self._may_pass(job, kind, plan):
            return self._wait_behind(job)
        self._start(job, plan)
        return Admit(grant=kind.size, plan=plan)

    def _kind(self, resources: Mapping[str, Any]) -> _Kind:
        size = self._sizes.size(resources)
        if isinstance(size, Grant):
            return _Kind(size=size)
        return _Kind(size=size, settled=Reject(size) if size.word == "ConfigError" else Wait(size))

    def _plan(self, grant: Grant, kind: _Kind) -> Plan | None:
        if kind.taken_before != self.num_started:
            kind.plan = self._free.place(grant)
            kind.taken_before = self.num_started
        return kind.plan

    def _start(self, job: Waiting, plan: Plan) -> None:
        self._free.take(plan)
        self._holdings.append(
            Holding(job_id=job.job_id, plan=plan, ends_in_s=job.time_limit_s, user=job.user)
        )
        self._gpus_held[job.user] += sum(gpus for _, gpus in plan.values())
        self.num_started += 1

    def _over_limit(self, user: str, size: Grant | Pending) -> Wait | None:
        if user not in self._max_gpus or isinstance(size, Pending) or not size.gpus:
            return None
        limit, held = self._max_gpus[user], self._gpus_held[user]
        if held + size.gpus <= limit + QUANTUM:
            return None
        reason = Pending(
            word="UserLimit",
            message=f"Needs {size.gpus:g} GPUs; {user} holds {held:g} of the {limit:g} that "
            f"`bertjobs cluster limit {user}` allows.",
            group=f"limit:{user}:{size.gpus:g}",
        )
        return Wait(reason)

    def _latest_start_s(self, grant: Grant) -> float | None:
        """Return in how many seconds at the latest so many running jobs have ended that the gang fits."""
        limited = [(h.ends_in_s, h.plan) for h in self._holdings if h.ends_in_s is not None]
        floor = self._free.copy()
        for ends_in_s, plan in sorted(limited, key=lambda pair: pair[0]):
            floor.take(plan, sign=-1)
            if grant.gpus <= floor.gpus + QUANTUM and floor.fits(grant):
                return max(ends_in_s, 0.0)
        return None

    def _may_pass(self, job: Waiting, kind: _Kind, plan: Plan) -> bool:
        assert self._head is not None and isinstance(kind.size, Grant)
        starts_in_s = self._head.starts_in_s
        if job.time_limit_s is not None and starts_in_s is not None and job.time_limit_s <= starts_in_s:
            return True
        if kind.size.gpus or not self._head.grant.gpus or kind.is_in_the_way:
            return False
        kind.is_in_the_way = not self._leaves_enough(plan, self._head.grant)
        return not kind.is_in_the_way

    def _wait_behind(self, job: Waiting) -> Wait:
        assert self._head is not None
        if job.time_limit_s is None:
            why = "open"
        else:
            why = "unknown" if self._head.starts_in_s is None else "limited"
        if why not in self._behind:
            self._behind[why] = Wait(_behind(self._head, why))
        return self._behind[why]

    def _leaves_enough(self, plan: Plan, head: Grant) -> bool:
        """Return whether the head finds CPUs beside this plan as soon as it finds GPUs, wherever that is.

        CPUs that come back together with the GPUs are not counted on: nobody knows which come first.
        """
        for node, (cpus, _) in plan.items():
            most = int((self._gpus_of[node] + QUANTUM) / head.gpus_per_worker)
            if most * head.cpus_per_worker > self._free.share_of(node)[0] - cpus + QUANTUM:
                return False
        return head.cpus <= self._free.usable_cpus - sum(cpus for cpus, _ in plan.values()) + QUANTUM


def _all_wait(queue: Sequence[Waiting], reason: Pending) -> list[Verdict]:
    wait = Wait(reason)
    return [_not_ready(job) or wait for job in queue]


def _drained(by: str) -> Pending:
    message = f"The queue is drained by {by}: nothing starts until `bertjobs cluster undrain`."
    return Pending(word="Draining", message=message, group="draining")


def _not_ready(job: Waiting) -> Verdict | None:
    if job.waits_for is None:
        return _STILL_ALIVE if job.is_still_alive else None
    if job.dependency_ended_as is not None:
        message = f"{job.waits_for}, which it was to follow, ended as {job.dependency_ended_as}."
        return Reject(Pending(word="DependencyFailed", message=message))
    message = f"Starts after {job.waits_for} has succeeded."
    return Wait(Pending(word="WaitingForDependency", message=message))


_STILL_ALIVE = Wait(
    Pending(word="LastAttemptAlive", message="Starts once Ray confirms that its last attempt is gone.")
)


def _shortage(grant: Grant, free: FreeNodes) -> Pending:
    cpus, gpus = free.cpus, free.gpus
    group = f"short:{describe_gang(grant)}:{grant.data_cpus:g}"
    if grant.gpus > gpus + QUANTUM:
        message = f"Needs {grant.gpus:g} GPUs, {max(gpus, 0):g} free."
        return Pending(word="InsufficientGpus", message=message, group=group)
    if grant.cpus > cpus + QUANTUM:
        data = f"({grant.data_cpus:g} of them for reading data)"
        message = f"Needs {grant.cpus:g} CPUs {data}, {max(cpus, 0):g} free."
        return Pending(word="InsufficientCpus", message=message, group=group)
    message = f"{gpus:g} GPUs and {cpus:g} CPUs are free, but scattered: no room for {describe_gang(grant)}."
    return Pending(word="Fragmented", message=message, group=group)


def _behind(head: _Head, why: str) -> Pending:
    needs = f"{head.grant.gpus:g} GPUs" if head.grant.gpus else f"{head.grant.cpus:g} CPUs"
    remedy = {
        "open": "A --time-limit would let it pass while there is time.",
        "unknown": "What it waits for has no time limit, so nobody knows for how long.",
        "limited": f"It may pass only if it ends within {head.starts_in_s or 0.0:.0f} s.",
    }
    return Pending(
        word="BehindPriority",
        message=f"Fits, but would delay {head.job_id}, which is ahead and needs {needs}. {remedy[why]}",
        group=f"behind:{why}",
    )
