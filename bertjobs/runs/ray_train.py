"""Start training processes: a worker group under Ray Train, or a single Ray task.

Every worker of a group runs the same function with the same work; what rank 0 returns is the result. Knows
no kind of job.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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
from bertjobs.training.gradient_exchange import DDP_OPTIONS
from bertjobs.training.monitoring import activity

log = logging.getLogger(__name__)

Work = TypeVar("Work")

# Read by Ray Train from the driver's environment and passed on to its controller and workers.
_TRAIN_ENVIRONMENT = {
    # An end is noticed by a poll; the default of 2 s is most of what a short job takes to end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A node that goes away is the dispatcher's to handle; this would be one more process per job.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

CONTROLLER_FAILURES = 3
"""The group was admitted as a whole: a placement group that does not come up is a fault, not a wait."""


FETCH_POLL_S = 10.0


class WorkerLost(RunError):
    """A worker ended without an error of its own: killed, or its node is gone. Worth another attempt."""

    failure = "WorkerLost"


class HostOutOfMemory(WorkerLost):
    """Ray killed a worker, because the node's main memory (not a device's) was nearly used up."""

    failure = "HostOutOfMemory"


class CommunicationError(RunError):
    """NCCL or Gloo cannot work as it is configured here: another attempt would fail in the same way."""

    failure = "CommunicationError"


def run_group(
    worker: Callable[[Work], Any], work: Work, *, grant: Grant, run_name: str, settings: Settings
) -> Any:
    """Run `worker(work)` on every rank under Ray Train, in one process group; return what rank 0 returns.

    run_name: unique among live groups, since two under one name would overwrite each other's files.

    Raises: BertjobsError: what a worker raised. WorkerLost: a worker was killed. CommunicationError: the
        workers' network is misconfigured.
    """
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gpus = grant.gpus_per_worker
    trainer = Trainer(
        _run_rank,
        train_loop_config={"worker": worker, "work": work},
        torch_config=TorchConfig(
            backend="nccl" if gpus else "gloo", timeout_s=math.ceil(settings.collective_timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=grant.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": grant.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=str(settings.cache / "ray"),  # Ray needs a folder; none of our files are there
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=CONTROLLER_FAILURES),
        ),
    )
    num_kills = count_kernel_kills()
    try:
        return trainer.fit().return_value
    except ray.train.TrainingFailedError as e:
        raise _killed_for_memory(_cause_of(e), since=num_kills) from e


def _run_rank(config: dict[str, Any]) -> Any:
    return config["worker"](config["work"])


def run_task(worker: Callable[[Work], Any], work: Work, *, grant: Grant) -> Any:
    """Run `worker(work)` in one process without Ray Train, which would take seconds longer to start.

    Raises: as `run_group`.
    """
    task = ray.remote(num_cpus=grant.cpus_per_worker, num_gpus=grant.gpus_per_worker, max_retries=0)(worker)
    num_kills = count_kernel_kills()
    try:
        with task_errors():
            return ray.get(task.remote(work))
    except ray.exceptions.OutOfMemoryError as e:
        raise _host_out_of_memory() from e
    except ray.exceptions.WorkerCrashedError as e:
        lost = WorkerLost("The process that did the work was killed")
        raise _killed_for_memory(lost, since=num_kills) from e


def set_up_worker(grant: Grant, *, workers_on_node: int | None = None) -> torch.device:
    """Limit this process to its threads and return its device, both as granted.

    workers_on_node: workers of this job on this node; None to ask Ray Train, or 1 outside a worker group.
    """
    is_in_group = distributed.is_initialized()
    if workers_on_node is None:
        workers_on_node = ray.train.get_context().get_local_world_size() if is_in_group else 1
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads(grant, workers_on_node=workers_on_node, cores=cores))
    if not grant.gpus_per_worker:
        return torch.device("cpu")
    # Ray Train shows each worker all GPUs of its group on the node, and knows which one is its own.
    return ray.train.torch.get_device() if is_in_group else torch.device("cuda")


def data_parallel(module: torch.nn.Module) -> torch.nn.Module:
    """Wrap a module in DistributedDataParallel, as Ray Train prepares it for the workers of a group."""
    prepared: torch.nn.Module = ray.train.torch.prepare_model(
        module, move_to_device=False, parallel_strategy_kwargs=dict(DDP_OPTIONS)
    )
    return prepared


def num_threads(grant: Grant, *, workers_on_node: int, cores: int) -> int:
    """Return a worker's own CPUs and its part of those for reading data, which idle while it computes.

    Not one more: the threads of a product wait for each other, so that one of them without a core of its own
    delays all. Measured: a worker of 2 threads beside another process on 2 cores made a fifth of its steps.
    """
    granted = grant.cpus_per_worker + grant.data_cpus / workers_on_node
    return max(1, min(int(granted + QUANTUM), cores // workers_on_node))


def report_nodes(reporter: Reporter) -> None:
    """Report the Ray node of each rank, from rank 0; every rank of the group has to call it."""
    nodes = [""] * distributed.get_world_size()
    distributed.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    if distributed.get_rank() == 0:
        reporter.report_nodes(nodes)
        reporter.set_phase("loading the model")  # the workers are up: the start deadline has been met


def fetch(reference: ray.ObjectRef) -> Any:
    """Get the result of one of our tasks. Raises: BertjobsError: what the task raised."""
    # What another task computes is reported as activity of this one: it is not this one that hangs.
    while not ray.wait([reference], timeout=FETCH_POLL_S, fetch_local=False)[0]:
        activity.note()
    with task_errors():
        return ray.get(reference)


@contextmanager
def task_errors() -> Iterator[None]:
    """Raise the error of our own task rather than the one that Ray wraps it in."""
    try:
        yield
    except ray.exceptions.RayTaskError as e:
        raise _as_ours(e.cause) from e


def _cause_of(error: BaseException) -> BertjobsError:
    """Distinguish an error of a worker's code from a worker that was killed, which raises nothing itself."""
    failures: list[BaseException] = list(getattr(error, "worker_failures", {}).values())
    ours = [failure for failure in failures if isinstance(failure, BertjobsError)]
    if ours:
        return ours[0]
    if misconfigured := _misconfiguration(failures):
        return misconfigured
    if failures and not any(_is_of_ray(failure) or _lost_its_peer(failure) for failure in failures):
        return _as_ours(failures[0])
    if any(isinstance(failure, ray.exceptions.OutOfMemoryError) for failure in failures):
        return _host_out_of_memory()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WorkerLost(f"A training worker was lost: {' '.join(lines[1:2])}")


def _host_out_of_memory() -> HostOutOfMemory:
    return HostOutOfMemory(
        "Ray killed a process of the job, because its node ran out of memory",
        hint="Others may have used it up; if it happens again, ask for fewer workers per node.",
    )


def count_kernel_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes of this node the kernel has killed for memory; 0 where it does not say."""
    try:
        lines = vmstat.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _killed_for_memory(error: BertjobsError, *, since: int) -> BertjobsError:
    """Return the error, or HostOutOfMemory where a worker was lost while the kernel killed for memory.

    Ray cannot tell: SIGKILL is all it sees. Known for the node of the driver only.
    """
    if type(error) is not WorkerLost or count_kernel_kills() <= since:
        return error
    return HostOutOfMemory(
        "The kernel killed a process for memory on the driver's node, and the job lost a worker",
        hint="Ask for fewer workers per node, a lower --batch-size or --microbatch-tokens, or more memory.",
    )


def _is_of_ray(failure: BaseException) -> bool:
    return type(failure).__module__.split(".")[0] == "ray"


def _lost_its_peer(failure: BaseException) -> bool:
    """Whether a collective operation failed because another rank went away."""
    return isinstance(failure, RuntimeError) and bool(_PEER_IS_GONE.search(str(failure)))


_PEER_IS_GONE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


_IS_MISCONFIGURED = re.compile(
    r"no socket interface found|unable to find (address|interface)|nccl ?invalid ?(usage|argument)"
    r"|invalid usage|duplicate gpu detected|unhandled (system|cuda) error|nccl ?system ?error"
    r"|makeDeviceForInterface",
    re.IGNORECASE,
)
_IS_CUT_OFF = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exited|aborted|timed? ?out", re.IGNORECASE
)
"""What NCCL adds to the same errors where a peer went away: those are no misconfiguration."""


def _misconfiguration(failures: list[BaseException]) -> CommunicationError | None:
    """Return the error of a network that is configured wrongly; None where a process or a peer was lost."""
    texts = [str(failure) for failure in failures]
    if any(_is_of_ray(failure) for failure in failures) or any(_IS_CUT_OFF.search(text) for text in texts):
        return None
    for failure, text in zip(failures, texts, strict=True):
        # Only of a collective operation: the same words may stand in an error of the training code.
        is_collective = re.search(r"nccl|gloo", text, re.IGNORECASE)
        if isinstance(failure, RuntimeError) and is_collective and _IS_MISCONFIGURED.search(text):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            last = next((lines[i + 1] for i, line in enumerate(lines[:-1]) if "Last error" in line), None)
            return CommunicationError(
                f"The workers cannot communicate: {last or lines[0]}",
                hint="Set NCCL_SOCKET_IFNAME (GPUs) or GLOO_SOCKET_IFNAME (CPUs) on the nodes to the "
                "network interface that they share, give each worker a GPU of its own, and see "
                "NCCL_DEBUG=INFO in the job's log.",
            )
    return None


def _as_ours(raised: BaseException) -> BertjobsError:
    if isinstance(raised, BertjobsError):
        return raised
    return TrainingError(f"The training code raised {type(raised).__name__}: {raised}")
