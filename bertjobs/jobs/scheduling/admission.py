"""Which waiting jobs start now, and why each of the others waits. Pure: the cluster, the allocations and the
queue go in; one decision per waiting job comes out.

A job starts only when its whole gang fits. The first job that does not fit is the *head* of the queue. Other
jobs may pass it only where that cannot delay it (backfilling with one reservation):
- they end, by their time limit, before the latest time at which the head can start, or
- they take nothing that the head is short of: no GPUs, and on no node CPUs that the head's workers would need
  there, whichever of the running jobs ends first.
A job that the cluster could never hold is not a head, nor is one that waits for its user's limit: they delay
nobody.

Thousands of jobs request the same resources, and free resources only shrink during a pass. So each request is
sized once, placed again only after a job was started, and not tried again once it did not fit.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import ConfigError, as_sentence
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_resources import (
    NO_SHARE,
    QUANTUM,
    FreeResources,
    NodeShare,
    Placement,
    sum_of,
)
from bertjobs.jobs.scheduling.sizing import describe_gang, exceeds, size_workers
from bertjobs.jobs.scheduling.types import (
    NO_QUOTAS,
    AdmissionDecision,
    Admit,
    Allocation,
    Cluster,
    Quotas,
    Reject,
    Wait,
    WaitingJob,
    WaitReason,
)

MAX_STARTS = 100
"""Jobs that one pass starts. The next pass follows at once; the leadership is renewed in between."""


def admit(
    queue: Sequence[WaitingJob],
    *,
    cluster: Cluster | None,
    allocations: Sequence[Allocation],
    unreachable: str = "",
    quotas: Quotas = NO_QUOTAS,
    sizes: "GangSizes | None" = None,
    max_drivers: int | None = None,
) -> list[AdmissionDecision]:
    """Decide on the jobs, given in queue order: on all, or up to the last one that this pass may start.

    `max_drivers` is how many attempts may be alive at once; None: what the cluster says.
    `cluster` is None while Ray does not answer; `unreachable` is then the error. `sizes` is what an earlier
    pass computed for the same cluster.
    """
    # First: a drained queue starts nothing, whether Ray answers or not.
    if quotas.drained_by is not None:
        return _all_wait(queue, _drained(quotas.drained_by))
    if cluster is None:
        message = f"Ray cannot be reached: {as_sentence(unreachable)} The job starts when Ray is back."
        return _all_wait(queue, WaitReason(word="RayUnreachable", message=message, group="unreachable"))
    admission = _AdmissionPass(cluster, allocations, quotas=quotas, sizes=sizes or GangSizes(cluster))
    decisions: list[AdmissionDecision] = []
    slots = cluster.driver_slots if max_drivers is None else max_drivers
    num_live = sum(not allocation.is_gone for allocation in allocations)
    for job in queue:
        # Before its place is decided on: a job that waits for a driver's slot must reserve nothing.
        is_full = slots is not None and num_live + admission.num_started >= slots
        decisions.append(_not_ready(job) or (_no_slot(slots) if is_full else admission.decide(job)))
        # The jobs behind get no decision now; the next pass decides on them.
        if admission.num_started == MAX_STARTS:
            break
    return decisions


def _no_slot(slots: int | None) -> Wait:
    message = (
        f"{slots} drivers run, as many as may: each takes some 400 MB of its node. The job starts when "
        "one ends. BERTJOBS_MAX_DRIVERS of the dispatcher sets the limit."
    )
    return Wait(WaitReason(word="DriverSlots", message=message, group="driver-slots"))


class GangSizes:
    """The size of the gang for each resource request on one cluster, cached while the totals are the same."""

    def __init__(self, cluster: Cluster) -> None:
        self.totals = totals_of(cluster)
        self._cluster = cluster
        self._known: dict[tuple[Any, ...], Grant | WaitReason] = {}

    def size(self, resources: Mapping[str, Any]) -> Grant | WaitReason:
        """Return the gang, or why this cluster can never hold it (`ConfigError`: no cluster can)."""
        key = (resources["gpus"], resources["workers"], resources["cpus_per_worker"])
        if key not in self._known:
            try:
                grant = size_workers(self._cluster, resources)
                self._known[key] = exceeds(self._cluster, grant) or grant
            except ConfigError as e:
                self._known[key] = WaitReason(word="ConfigError", message=str(e))
        return self._known[key]


def totals_of(cluster: Cluster) -> dict[str, NodeShare]:
    """Return the total CPUs and GPUs of each node."""
    return {node.id: (node.cpus, node.gpus) for node in cluster.nodes}


def free_of(cluster: Cluster, allocations: Sequence[Allocation]) -> dict[str, NodeShare]:
    """Return what is free on each node: its total without our allocations and without what others use.

    What others use is what Ray reports beyond our allocations. Ray's numbers are seconds old: a grant that is
    not in them yet still counts, and what an attempt held that has just gone is not taken for others' use.
    """
    live = sum_of(a.placement for a in allocations if not a.is_gone)
    gone = sum_of(a.placement for a in allocations if a.is_gone)
    free = {}
    for node in cluster.nodes:
        # Our allocations are subtracted in full, whether Ray shows them yet or not. What it shows beyond
        # them is others' use: less than 0 where our grant is newer than Ray's numbers.
        cpus, gpus = live.get(node.id, NO_SHARE)
        gone_cpus, gone_gpus = gone.get(node.id, NO_SHARE)
        others_cpus = max(node.used_cpus - cpus - gone_cpus, 0.0)
        others_gpus = max(node.used_gpus - gpus - gone_gpus, 0.0)
        free[node.id] = (node.cpus - cpus - others_cpus, node.gpus - gpus - others_gpus)
    return free


@dataclass(kw_only=True, slots=True)
class _Request:
    """What this pass knows about all jobs with the same resource request."""

    size: Grant | WaitReason
    final_decision: Wait | Reject | None = None
    """The decision for all of them for the rest of the pass: free resources only shrink."""
    placement: Placement | None = None
    placed_after: int = -1
    """Number of started jobs when the placement was computed; it is valid until another job starts."""
    would_delay_head: bool = False
    """They would take what the head needs, for the rest of the pass."""


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The first job that does not fit."""

    job_id: str
    grant: Grant
    starts_in_s: float | None
    """Seconds until it fits at the latest; None where no time limit bounds it."""


class _AdmissionPass:
    """The cluster during one pass: what is still free, and which job is the head."""

    def __init__(
        self, cluster: Cluster, allocations: Sequence[Allocation], *, quotas: Quotas, sizes: GangSizes
    ) -> None:
        self.num_started = 0
        self._gpus_of = {node.id: node.gpus for node in cluster.nodes}
        # An attempt that is gone holds nothing, so no head waits for its end.
        self._allocations = [allocation for allocation in allocations if not allocation.is_gone]
        self._free = FreeResources(free_of(cluster, allocations))
        self._max_gpus = quotas.max_gpus
        self._sizes = sizes
        self._requests: dict[int, _Request] = {}
        """By the identity of the resources: jobs whose requests were parsed from the same text share it."""
        self._head: _Head | None = None
        self._wait_behind: dict[str, Wait] = {}
        self._gpus_held: dict[str, float] = defaultdict(float)
        # Without quotas nobody reads the sums.
        for allocation in self._allocations if quotas.max_gpus else ():
            self._gpus_held[allocation.user] += _gpus_of(allocation.placement)

    def decide(self, job: WaitingJob) -> AdmissionDecision:
        """Decide on the next job of the queue, and start it where it fits."""
        key = id(job.resources)  # hashing the mapping itself would dominate a pass over 10,000 jobs
        if key not in self._requests:
            self._requests[key] = self._request(job.resources)
        request = self._requests[key]
        # Before anything else: a job over its user's limit must not become the head and delay other users.
        if self._max_gpus and (over := self._over_limit(job.user, request.size)):
            return over
        if request.final_decision is not None:
            return request.final_decision
        assert isinstance(request.size, Grant)
        placement = self._place(request.size, request)
        if placement is None:
            # Only the first job that does not fit gets a reservation. The others may be passed.
            if self._head is None:
                starts_in_s = self._latest_start_s(request.size)
                self._head = _Head(job_id=job.job_id, grant=request.size, starts_in_s=starts_in_s)
            # Free resources only shrink during the pass: no later job with this request fits either.
            request.final_decision = Wait(_shortage(request.size, self._free))
            return request.final_decision
        if self._head is not None and not self._may_pass(job, request, placement):
            return self._behind_head(job)
        self._start(job, placement)
        return Admit(grant=request.size, placement=placement)

    def _request(self, resources: Mapping[str, Any]) -> _Request:
        size = self._sizes.size(resources)
        if isinstance(size, Grant):
            return _Request(size=size)
        decision = Reject(size) if size.word == "ConfigError" else Wait(size)
        return _Request(size=size, final_decision=decision)

    def _place(self, grant: Grant, request: _Request) -> Placement | None:
        # A placement stays valid until another job takes something.
        if request.placed_after != self.num_started:
            request.placement = self._free.place(grant)
            request.placed_after = self.num_started
        return request.placement

    def _start(self, job: WaitingJob, placement: Placement) -> None:
        self._free.take(placement)
        self._allocations.append(
            Allocation(job_id=job.job_id, placement=placement, ends_in_s=job.time_limit_s, user=job.user)
        )
        self._gpus_held[job.user] += _gpus_of(placement)
        self.num_started += 1

    def _over_limit(self, user: str, size: Grant | WaitReason) -> Wait | None:
        # A gang that the cluster cannot hold waits for that reason. A job without GPUs has no limit.
        if user not in self._max_gpus or isinstance(size, WaitReason) or not size.gpus:
            return None
        limit, held = self._max_gpus[user], self._gpus_held[user]
        if held + size.gpus <= limit + QUANTUM:
            return None
        reason = WaitReason(
            word="UserLimit",
            message=f"Needs {size.gpus:g} GPUs; {user} holds {held:g} of the {limit:g} that "
            f"`bertjobs cluster limit {user}` allows.",
            group=f"limit:{user}:{size.gpus:g}",
        )
        return Wait(reason)

    def _latest_start_s(self, grant: Grant) -> float | None:
        """Return the seconds until the gang fits at the latest: when enough running jobs reach their
        limits."""
        limited = [(a.ends_in_s, a.placement) for a in self._allocations if a.ends_in_s is not None]
        # A copy: the pass goes on with what is free now.
        free = self._free.copy()
        # Give back the allocations in the order of their limits until the gang fits. The total of the GPUs is
        # compared first: it is a number, `fits` walks over the nodes.
        for ends_in_s, placement in sorted(limited, key=lambda pair: pair[0]):
            free.take(placement, sign=-1)
            if grant.gpus <= free.gpus + QUANTUM and free.fits(grant):
                return max(ends_in_s, 0.0)
        return None

    def _may_pass(self, job: WaitingJob, request: _Request, placement: Placement) -> bool:
        assert self._head is not None and isinstance(request.size, Grant)
        starts_in_s = self._head.starts_in_s
        if job.time_limit_s is not None and starts_in_s is not None and job.time_limit_s <= starts_in_s:
            return True  # it has ended by then
        # Without a time limit only a job without GPUs may pass, and only a head that waits for GPUs.
        if request.size.gpus or not self._head.grant.gpus or request.would_delay_head:
            return False
        # Remembered: later in the pass there is less left, so the answer stays no.
        request.would_delay_head = not self._leaves_enough(placement, self._head.grant)
        return not request.would_delay_head

    def _leaves_enough(self, placement: Placement, head: Grant) -> bool:
        """Return whether the head finds CPUs beside this placement as soon as it finds GPUs, on any node.

        CPUs that are released together with the GPUs are not counted: which are released first is unknown.
        """
        for node, (cpus, _) in placement.items():
            # As many of the head's workers as the node's GPUs hold when all running jobs have ended.
            max_workers = int((self._gpus_of[node] + QUANTUM) / head.gpus_per_worker)
            if max_workers * head.cpus_per_worker > self._free.share_of(node)[0] - cpus + QUANTUM:
                return False
        return head.cpus <= self._free.usable_cpus - sum(cpus for cpus, _ in placement.values()) + QUANTUM

    def _behind_head(self, job: WaitingJob) -> Wait:
        assert self._head is not None
        if job.time_limit_s is None:
            case = "open"
        else:
            case = "unknown" if self._head.starts_in_s is None else "limited"
        if case not in self._wait_behind:
            self._wait_behind[case] = Wait(_behind(self._head, case))
        return self._wait_behind[case]


def _gpus_of(placement: Placement) -> float:
    return sum(gpus for _, gpus in placement.values())


def _all_wait(queue: Sequence[WaitingJob], reason: WaitReason) -> list[AdmissionDecision]:
    wait = Wait(reason)
    return [_not_ready(job) or wait for job in queue]


def _drained(by: str) -> WaitReason:
    message = f"The queue is drained by {by}: nothing starts until `bertjobs cluster undrain`."
    return WaitReason(word="Draining", message=message, group="draining")


def _not_ready(job: WaitingJob) -> AdmissionDecision | None:
    """Return the decision on a job that may not start whatever is free."""
    # A retried job may still have a driver that Ray has not confirmed as gone: two must never run.
    if job.waits_for is None:
        return _STILL_ALIVE if job.is_still_alive else None
    if job.dependency_ended_as is not None:
        message = f"{job.waits_for}, which must succeed first, ended as {job.dependency_ended_as}."
        return Reject(WaitReason(word="DependencyFailed", message=message))
    message = f"Starts after {job.waits_for} has succeeded."
    return Wait(WaitReason(word="WaitingForDependency", message=message))


_STILL_ALIVE = Wait(
    WaitReason(word="LastAttemptAlive", message="Starts once Ray confirms that the last attempt is gone.")
)


def _shortage(grant: Grant, free: FreeResources) -> WaitReason:
    cpus, gpus = free.cpus, free.gpus
    group = f"short:{describe_gang(grant)}:{grant.data_cpus:g}"
    if grant.gpus > gpus + QUANTUM:
        message = f"Needs {grant.gpus:g} GPUs, {max(gpus, 0):g} free."
        return WaitReason(word="InsufficientGpus", message=message, group=group)
    if grant.cpus > cpus + QUANTUM:
        data = f"({grant.data_cpus:g} of them for reading data)"
        message = f"Needs {grant.cpus:g} CPUs {data}, {max(cpus, 0):g} free."
        return WaitReason(word="InsufficientCpus", message=message, group=group)
    message = (
        f"{gpus:g} GPUs and {cpus:g} CPUs are free, but spread over nodes that cannot hold "
        f"{describe_gang(grant)}."
    )
    return WaitReason(word="Fragmented", message=message, group=group)


def _behind(head: _Head, case: str) -> WaitReason:
    needs = f"{head.grant.gpus:g} GPUs" if head.grant.gpus else f"{head.grant.cpus:g} CPUs"
    advice = {
        "open": "With a --time-limit it could pass if it ends in time.",
        "unknown": "The jobs that hold them have no time limit, so the end of the wait is unknown.",
        "limited": f"It may pass only if its --time-limit is at most {head.starts_in_s or 0.0:.0f} s.",
    }
    return WaitReason(
        word="BehindPriority",
        message=f"Fits, but would delay {head.job_id}, which is ahead and needs {needs}. {advice[case]}",
        group=f"behind:{case}",
    )
