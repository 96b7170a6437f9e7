"""How many threads a worker computes with: what was granted to its job, never what others may have."""

import pytest

from bertjobs.jobs.scheduling.sizing import size_workers
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.runs.ray_train import num_threads


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
