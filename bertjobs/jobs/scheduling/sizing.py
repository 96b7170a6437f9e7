"""How many workers of what size a job gets on a cluster, so that CPUs are left for Ray Data. Pure.

On each node Ray Data keeps a quarter of the CPUs but at least one, or half of a node with fewer than two;
training may use the rest. Without that, two workers at 0.9 CPU on a 2-CPU machine wait for data for ever.
"""

import math
from collections.abc import Mapping
from typing import Any

from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_resources import QUANTUM, FreeResources, NodeShare
from bertjobs.jobs.scheduling.types import Cluster, WaitReason

DATA_RATIO = 0.25
"""Ray Data's share of the CPUs."""


def size_workers(cluster: Cluster, resources: Mapping[str, Any]) -> Grant:
    """Size a job's gang from the cluster's totals and the request (`resources.*` of its configuration).

    A gang that the cluster cannot hold gets a size too; `exceeds` explains it.

    Raises: ConfigError: the GPUs cannot be divided evenly among the workers.
    """
    gpus, num_workers, cpus_per_worker = (resources[name] for name in ("gpus", "workers", "cpus_per_worker"))
    # One worker per GPU, or a single one on CPUs, unless the request says otherwise.
    workers = num_workers or max(gpus, 1)
    if gpus % workers:
        raise ConfigError(
            f"--gpus {gpus} cannot be shared evenly among --workers {workers}",
            hint="Leave --workers out for one worker per GPU, or give a divisor of --gpus.",
        )
    gpus_per_worker = gpus // workers
    if cpus_per_worker is None:
        # By the GPU node with the fewest CPUs per GPU: all workers are equal and fit on any GPU node.
        if gpus_per_worker:
            cpus_per_worker = _share_of_gpu(cluster) * gpus_per_worker
        else:
            cpus_per_worker = _largest_share(cluster, workers=workers)
    return Grant(
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        cpus_per_worker=_down(cpus_per_worker),
        data_cpus=_data_cpus(cluster, training_cpus=workers * cpus_per_worker),
    )


def exceeds(cluster: Cluster, grant: Grant) -> WaitReason | None:
    """Explain why the cluster could not hold this gang even if it were empty; None if it could."""
    if not cluster.nodes:
        return WaitReason(
            word="NoNodesYet",
            message="Ray has no nodes yet: it is still starting, or none has joined. The job starts once "
            "one has; `bertjobs cluster status` shows whether Ray is up.",
        )
    # GPUs, then CPUs, then the nodes: the first thing that is missing is the one that the user can change.
    if grant.gpus > cluster.gpus:
        remedy = (
            "Submit with --gpus 0 to train on CPUs, or add GPU nodes."
            if cluster.gpus == 0
            else f"Submit with --gpus {cluster.gpus:g} or fewer, or add GPU nodes."
        )
        return WaitReason(
            word="ExceedsCluster",
            message=f"Needs {grant.gpus:g} GPUs, the cluster has {cluster.gpus:g}. {remedy} "
            "The job waits; `bertjobs cancel` ends it.",
        )
    if grant.cpus > cluster.cpus + QUANTUM:
        return WaitReason(
            word="ExceedsCluster",
            message=f"Needs {grant.cpus:g} CPUs ({grant.data_cpus:g} of them for reading data), the cluster "
            f"has {cluster.cpus:g}. Submit with fewer --workers or smaller --cpus-per-worker, or add nodes.",
        )
    if not fits(grant, {node.id: (node.cpus, node.gpus) for node in cluster.nodes}):
        return WaitReason(
            word="ExceedsCluster",
            message=f"The cluster's nodes cannot hold {describe_gang(grant)}, even when they are empty. "
            "Submit with smaller workers, or add larger nodes.",
        )
    return None


def fits(grant: Grant, free: Mapping[str, NodeShare]) -> bool:
    """Return whether the whole gang fits: each worker on one node, Ray Data in what is left anywhere."""
    return FreeResources(free).fits(grant)


def describe_gang(grant: Grant) -> str:
    """Describe a gang: `8 workers of 1 GPU and 4 CPUs each`."""
    size = count_of(grant.cpus_per_worker, "CPU")
    if grant.gpus_per_worker:
        size = f"{count_of(grant.gpus_per_worker, 'GPU')} and {size}"
    return f"{count_of(grant.workers, 'worker')} of {size}{' each' if grant.workers > 1 else ''}"


def count_of(number: float, thing: str) -> str:
    """Format a count with its noun: `1 CPU`, `0.5 CPUs`."""
    return f"{number:g} {thing}{'' if number == 1 else 's'}"


def _usable(cpus: float) -> float:
    """Return how many of a node's CPUs training may use."""
    # Ray Data keeps half of a node with less than 2 CPUs, 1 CPU of one with up to 4, else a quarter.
    return cpus - max(min(1.0, cpus / 2), DATA_RATIO * cpus)


def _share_of_gpu(cluster: Cluster) -> float:
    """Return the CPUs a worker gets per GPU: those of the GPU node with the fewest, after Ray Data's
    share."""
    shares = [_usable(node.cpus) / node.gpus for node in cluster.nodes if node.gpus]
    return min(shares, default=1.0)


def _largest_share(cluster: Cluster, *, workers: int) -> float:
    """Return the most CPUs that each of `workers` equal workers can have, each on one node."""
    usable = [_usable(node.cpus) for node in cluster.nodes if node.cpus]
    # The best share divides some node's CPUs by a whole number: otherwise it could be a little larger.
    candidates = sorted({cpus / n for cpus in usable for n in range(1, workers + 1)}, reverse=True)
    for share in candidates:
        if sum(int((cpus + QUANTUM) / share) for cpus in usable) >= workers:
            return share
    return 1.0  # a cluster without CPUs: `exceeds` explains it


def _data_cpus(cluster: Cluster, *, training_cpus: float) -> float:
    """Return Ray Data's CPUs beside training: a third of training's, at least 1 CPU where one is left."""
    # training : data = (1 - DATA_RATIO) : DATA_RATIO
    wanted = max(1.0, training_cpus * DATA_RATIO / (1 - DATA_RATIO))
    left = cluster.cpus - training_cpus
    return _down(min(wanted, left)) if left > 0 else 0.5


def _down(cpus: float) -> float:
    """Round down to what Ray can count; whole CPUs where there are several."""
    # 1e-6 first: 0.3 / 1e-4 is 2999.9999999999995 in floating point, and would lose a quantum.
    unit = 1.0 if cpus >= 2 else QUANTUM
    return round(math.floor(cpus / unit + 1e-6) * unit, 4)
