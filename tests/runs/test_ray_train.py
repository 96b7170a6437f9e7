"""How errors of a worker group are classified, and how many threads and which device a worker is given."""

import pytest
import ray.train
from ray.exceptions import ActorDiedError, OutOfMemoryError

from bertjobs.errors import DataError, TrainingError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.retry import FINAL, INFRASTRUCTURE
from bertjobs.jobs.scheduling.sizing import size_workers
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.runs.ray_train import (
    CommunicationError,
    HostOutOfMemory,
    WorkerLost,
    _cause_of,
    _killed_for_memory,
    count_kernel_kills,
    num_threads,
    set_up_worker,
)


def group_error(failures: dict[int, Exception]) -> ray.train.WorkerGroupError:
    return ray.train.WorkerGroupError("[Rank 0 Error Snippet]: ...", failures)


def test_an_error_of_ours_is_handed_on_as_it_is():
    ours = DataError("a row is broken", hint="mend it")
    assert _cause_of(group_error({0: RuntimeError("gloo: peer"), 1: ours})) is ours


def test_an_exception_of_the_training_code_is_the_jobs_own_fault():
    found = _cause_of(group_error({0: ZeroDivisionError("division by zero")}))
    assert type(found) is TrainingError
    assert str(found) == "The training code raised ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "failures",
    [
        {0: ActorDiedError()},
        {0: RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")},
        {0: RuntimeError("NCCL communicator was aborted on rank 0"), 1: ActorDiedError()},
    ],
)
def test_a_killed_worker_is_lost_whichever_rank_noticed(failures):
    assert type(_cause_of(group_error(failures))) is WorkerLost


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3384, {}, NCCL version 2.27.5"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (NCCL.format("internal error") + "\nLast error:\nBootstrap : no socket interface found",
         "Bootstrap : no socket interface found"),
        (NCCL.format("invalid usage (run with NCCL_DEBUG=WARN for details)")
         + "\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
         "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000"),
        (NCCL.format("unhandled system error"), NCCL.format("unhandled system error")),
        ("[enforce fail at gloo/transport/tcp/device.cc:84] Unable to find address for: eth7",
         "[enforce fail at gloo/transport/tcp/device.cc:84] Unable to find address for: eth7"),
    ],
)  # fmt: skip
def test_a_network_that_is_configured_wrongly_is_the_users_error_with_a_hint(text, told):
    found = _cause_of(group_error({0: RuntimeError(text), 1: RuntimeError(text)}))
    assert type(found) is CommunicationError
    assert found.message == f"The workers cannot communicate: {told}"
    assert found.hint.startswith("Set NCCL_SOCKET_IFNAME (GPUs) or GLOO_SOCKET_IFNAME (CPUs) on the nodes")
    assert found.failure == "CommunicationError" and found.failure not in INFRASTRUCTURE | FINAL


@pytest.mark.parametrize(
    "failures",
    [
        {0: RuntimeError(NCCL.format("unhandled system error")), 1: ActorDiedError()},
        {0: RuntimeError(NCCL.format("unhandled system error") + "\nLast error:\nConnection reset by peer")},
        {0: RuntimeError(NCCL.format("remote process exited or there was a network error"))},
    ],
)
def test_nccl_that_lost_a_peer_is_a_lost_worker(failures):
    assert type(_cause_of(group_error(failures))) is WorkerLost


def test_a_worker_that_ray_killed_for_memory_has_a_class_of_its_own():
    error = group_error({0: RuntimeError("Connection closed by peer"), 1: OutOfMemoryError("low on memory")})
    assert _cause_of(error).failure == "HostOutOfMemory"


def test_a_controller_that_gave_up_is_the_clusters_fault():
    assert type(_cause_of(ray.train.ControllerError(ActorDiedError()))) is WorkerLost


@pytest.mark.parametrize(
    ("cores", "workers", "cpus_per_worker", "expected"),
    [
        (2, 1, None, 2),  # its own CPU, and the one for reading data
        (2, 2, None, 1),
        (16, 1, None, 16),
        (16, 4, None, 4),
        (16, 1, 2, 3),  # others may have the other 13
        (16, 4, 1, 1),
        (1, 1, None, 1),
    ],
)
def test_a_worker_computes_with_what_its_job_was_granted(cores, workers, cpus_per_worker, expected):
    cluster = Cluster(nodes=(Node(id="a", cpus=cores, gpus=0),))
    asked = {"gpus": 0, "workers": workers, "cpus_per_worker": cpus_per_worker}
    grant = size_workers(cluster, asked)
    assert num_threads(grant, workers_on_node=workers, cores=cores) == expected


def test_a_worker_alone_on_its_node_takes_no_more_than_the_node_has():
    cluster = Cluster(nodes=tuple(Node(id=name, cpus=8, gpus=0) for name in "ab"))
    grant = size_workers(cluster, {"gpus": 0, "workers": 2, "cpus_per_worker": None})
    assert num_threads(grant, workers_on_node=1, cores=8) == 8


@pytest.mark.parametrize(("gpus_per_worker", "device"), [(0, "cpu"), (0.5, "cuda"), (1, "cuda")])
def test_a_worker_computes_on_the_device_that_its_job_was_granted(gpus_per_worker, device, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    grant = Grant(workers=1, gpus_per_worker=gpus_per_worker, cpus_per_worker=1, data_cpus=1)
    assert set_up_worker(grant).type == device


def test_a_worker_lost_while_the_kernel_killed_for_memory_is_the_hosts_memory(monkeypatch):
    monkeypatch.setattr("bertjobs.runs.ray_train.count_kernel_kills", lambda: 3)
    lost, wrong = WorkerLost("lost"), TrainingError("wrong")
    assert isinstance(_killed_for_memory(lost, since=2), HostOutOfMemory)
    assert _killed_for_memory(lost, since=3) is lost
    assert _killed_for_memory(wrong, since=2) is wrong


def test_the_kernels_count_of_kills_is_read(tmp_path):
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 7\npgfault 1\n")
    assert count_kernel_kills(tmp_path / "vmstat") == 7
    assert count_kernel_kills(tmp_path / "none") == 0
