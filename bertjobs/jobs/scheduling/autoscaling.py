"""What Ray's autoscaler is asked for, so that nodes are added for jobs that wait. Pure.

Ray's autoscaler sees only what runs: a waiting job is in Redis, and its workers ask Ray for nothing. So the
dispatcher asks for it: for what running jobs hold, because Ray compares a request with the whole cluster, not
with what is free, and for the jobs that wait for resources, in queue order.

Ray's second autoscaler adds nothing at all where it cannot satisfy a request as a whole, so the request stays
within limits that the cluster's administrator knows, and a job beyond them is left out.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_resources import QUANTUM
from bertjobs.jobs.scheduling.sizing import size_workers
from bertjobs.jobs.scheduling.types import Allocation, Cluster, Quotas, WaitingJob

Bundle = tuple[float, float]
"""CPUs and GPUs that one node must have."""
Request = Mapping[Bundle, int]
"""How many of each bundle; empty: whatever Ray keeps by itself is enough."""
MAX_BUNDLES = 1000
"""Of one request: its text is a command line."""


@dataclass(frozen=True, kw_only=True)
class ScaleLimits:
    """The most that is asked for, what running jobs hold included."""

    gpus: float
    """By jobs with GPUs; their CPUs come with the nodes."""
    cpus: float
    """By jobs without GPUs."""


def scale_request(
    queue: Sequence[WaitingJob],
    *,
    cluster: Cluster,
    allocations: Sequence[Allocation],
    quotas: Quotas,
    limits: ScaleLimits,
) -> Request:
    """Return what to ask for. Empty where no job waits that more nodes would start."""
    if quotas.drained_by is not None:
        return {}
    live = [allocation for allocation in allocations if not allocation.is_gone]
    held: Counter[Bundle] = Counter(share for a in live for share in a.placement.values() if any(share))
    gpus = sum(share[1] * number for share, number in held.items())
    cpus = sum(share[0] * number for share, number in held.items() if not share[1])
    gpus_of: defaultdict[str, float] = defaultdict(float)
    for allocation in live:
        gpus_of[allocation.user] += sum(share[1] for share in allocation.placement.values())
    wanted: Counter[Bundle] = Counter()
    for job in queue:
        grant = _size(job, cluster)
        if grant is None or job.waits_for is not None or job.is_still_alive:
            continue
        needed_gpus, needed_cpus = grant.gpus, 0.0 if grant.gpus else grant.cpus
        if gpus_of[job.user] + needed_gpus > quotas.max_gpus.get(job.user, math.inf) + QUANTUM:
            continue
        if gpus + needed_gpus > limits.gpus + QUANTUM or cpus + needed_cpus > limits.cpus + QUANTUM:
            continue
        bundles = _bundles(grant)
        if wanted.total() + bundles.total() + held.total() > MAX_BUNDLES:
            break
        wanted += bundles
        gpus, cpus = gpus + needed_gpus, cpus + needed_cpus
        gpus_of[job.user] += needed_gpus
    return wanted + held if wanted else {}


def _size(job: WaitingJob, cluster: Cluster) -> Grant | None:
    """Return the gang of a job, also where this cluster cannot hold it; None where none could."""
    try:
        return size_workers(cluster, job.resources)
    except ConfigError:
        return None


def _bundles(grant: Grant) -> Counter[Bundle]:
    """Return a bundle for each worker, and one for reading data, which with GPUs is on any of their nodes."""
    found = Counter({(grant.cpus_per_worker, float(grant.gpus_per_worker)): grant.workers})
    if grant.data_cpus > 0:
        found[grant.data_cpus, 0.0] += 1
    return found
