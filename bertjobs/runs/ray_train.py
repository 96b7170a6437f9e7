"""The one place that starts training processes: a gang of Ray Train workers, or a single task.

All of a gang runs the same function with the same `work`; what rank 0 returns is the result.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from torch import distributed

from bertjobs.errors import BertjobsError, RunError, TrainingError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_resources import QUANTUM
from bertjobs.runs.ray_internals import Trainer
from bertjobs.runs.run_context import Reporter
from bertjobs.settings import Settings

log = logging.getLogger(__name__)

Work = dict[str, Any]
Worker = Callable[[Work], Any]

# Read by Ray Train from the driver's environment and passed on to its controller and workers.
_TRAIN_ENVIRONMENT = {
    # An end is noticed by a poll; the default of 2 s is most of what a short job takes to end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A node that goes away is the dispatcher's to handle; this would be one more process per job.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

CONTROLLER_FAILURES = 3
"""The gang was admitted as a whole: a placement group that does not come up is a fault, not a wait."""


class WorkerLost(RunError):
    """A worker ended without an error of its own: killed, or its node is gone. Worth another attempt."""

    failure = "WorkerLost"


class Granted(Protocol):
    """What a gang needs to know of a run, or of a part of one."""

    @property
    def id(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def grant(self) -> Grant: ...


def train(run: Granted, worker: Worker, *, work: Mapping[str, Any]) -> Any:
    """Run `worker` on every rank under Ray Train, in one process group; its `work` has the `grant` too.

    Raises: BertjobsError: what a worker raised. WorkerLost: a worker was killed.
    """
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gpus = run.grant.gpus_per_worker
    trainer = Trainer(
        worker,
        train_loop_config={**work, "grant": run.grant},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=run.grant.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": run.grant.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=f"{run.id}-a{run.attempt}",  # a name per attempt: two live writers under one would clobber
            storage_path=str(run.settings.cache / "ray"),  # nothing of ours goes there; Ray wants a place
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=CONTROLLER_FAILURES),
        ),
    )
    try:
        return trainer.fit().return_value
    except ray.train.TrainingFailedError as e:
        raise _cause_of(e) from e


def call(run: Granted, worker: Worker, *, work: Mapping[str, Any]) -> Any:
    """Run `worker` in one process without Ray Train, which takes seconds less to start; `work` as in `train`.

    Raises: as `train`.
    """
    task = ray.remote(num_cpus=run.grant.cpus_per_worker, num_gpus=run.grant.gpus_per_worker, max_retries=0)(
        worker
    )
    try:
        return ray.get(task.remote({**work, "grant": run.grant}))
    except ray.exceptions.RayTaskError as e:
        raise _as_ours(e.cause) from e
    except ray.exceptions.WorkerCrashedError as e:
        raise WorkerLost("The process that did the work was killed.") from e


def fetch(reference: ray.ObjectRef) -> Any:
    """Get an object that a task of ours makes. Raises: BertjobsError: what the task raised."""
    with task_errors():
        return ray.get(reference)


@contextmanager
def task_errors() -> Iterator[None]:
    """Raise what a task of ours raised, rather than what Ray wraps it in."""
    try:
        yield
    except ray.exceptions.RayTaskError as e:
        raise _as_ours(e.cause) from e


def begin_rank(work: Mapping[str, Any]) -> Reporter:
    """Give this rank its threads and its reporter; rank 0 reports on which nodes the gang is."""
    context = ray.train.get_context()
    set_threads(work["grant"], workers_on_node=context.get_local_world_size())
    reporter: Reporter = work["open_reporter"]()
    if (nodes := nodes_of_ranks()) and context.get_world_rank() == 0:
        reporter.report_nodes(nodes)
    return reporter


def nodes_of_ranks() -> list[str]:
    """Return the Ray node of each rank; every rank of the gang has to ask."""
    nodes = [""] * distributed.get_world_size()
    distributed.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    return nodes


def set_threads(grant: Grant, *, workers_on_node: int) -> None:
    """Give torch this worker's share of the node, which other jobs may be on as well."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads(grant, workers_on_node=workers_on_node, cores=cores))


def num_threads(grant: Grant, *, workers_on_node: int, cores: int) -> int:
    """Return a worker's own CPUs and its part of those for reading data, which idle while it computes.

    Not one more: the threads of a product wait for each other, so that one of them without a core of its own
    holds up all. Measured: a worker of 2 threads beside another process on 2 cores made a fifth of its steps.
    """
    granted = grant.cpus_per_worker + grant.data_cpus / workers_on_node
    return max(1, min(int(granted + QUANTUM), cores // workers_on_node))


def _cause_of(error: BaseException) -> BertjobsError:
    """Tell what the code of a worker raised from a worker that was killed, which raises nothing itself."""
    failures: list[BaseException] = list(getattr(error, "worker_failures", {}).values())
    ours = [failure for failure in failures if isinstance(failure, BertjobsError)]
    if ours:
        return ours[0]
    if failures and not any(_is_of_ray(failure) or _lost_its_peer(failure) for failure in failures):
        return _as_ours(failures[0])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WorkerLost(f"A training worker was lost: {' '.join(lines[1:2])}")


def _is_of_ray(failure: BaseException) -> bool:
    return type(failure).__module__.split(".")[0] == "ray"


def _lost_its_peer(failure: BaseException) -> bool:
    """Whether a collective operation failed because another rank went away."""
    return isinstance(failure, RuntimeError) and bool(_PEER_IS_GONE.search(str(failure)))


_PEER_IS_GONE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


def _as_ours(raised: BaseException) -> BertjobsError:
    if isinstance(raised, BertjobsError):
        return raised
    return TrainingError(f"The training code raised {type(raised).__name__}: {raised}")
