"""What a job is granted on which cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import ConfigError
from bertjobs.jobs.scheduling.sizing import exceeds, size_workers
from bertjobs.jobs.scheduling.types import Cluster, Node


def cluster(*nodes):
    return Cluster(nodes=tuple(Node(id=f"n{i}", cpus=c, gpus=g) for i, (c, g) in enumerate(nodes)))


def asked(gpus=0, workers=None, cpus_per_worker=None):
    return {"gpus": gpus, "workers": workers, "cpus_per_worker": cpus_per_worker}


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([(2, 0)], asked(), (1, 0, 1, 1)),
        ([(2, 0)], asked(workers=2), (2, 0, 0.5, 1)),
        ([(1, 0)], asked(), (1, 0, 0.5, 0.5)),
        ([(1, 0)], asked(workers=3), (3, 0, 0.1666, 0.5)),
        ([(4, 0)], asked(), (1, 0, 3, 1)),
        ([(16, 0)], asked(), (1, 0, 12, 4)),
        ([(16, 0)], asked(workers=4), (4, 0, 3, 4)),
        ([(16, 0)], asked(workers=1, cpus_per_worker=3), (1, 0, 3, 1)),
        ([(8, 0), (8, 0)], asked(workers=2), (2, 0, 6, 4)),
        ([(64, 8)], asked(gpus=8), (8, 1, 6, 16)),
        ([(64, 8)], asked(gpus=1), (1, 1, 6, 2)),
        ([(64, 8)], asked(gpus=8, workers=4), (4, 2, 12, 16)),
        ([(2, 0)], asked(gpus=8), (8, 1, 1, 0.5)),
    ],
)
def test_workers_share_what_ray_data_leaves(nodes, resources, expected):
    grant = size_workers(cluster(*nodes), resources)
    assert (grant.workers, grant.gpus_per_worker, grant.cpus_per_worker, grant.data_cpus) == expected


def test_gpus_that_cannot_be_shared_evenly_name_both_flags():
    with pytest.raises(ConfigError, match="--gpus 8 cannot be shared evenly among --workers 3"):
        size_workers(cluster((64, 8)), asked(gpus=8, workers=3))


@pytest.mark.parametrize(
    ("nodes", "resources", "sentence"),
    [
        ([(2, 0)], asked(gpus=8), "Needs 8 GPUs, the cluster has 0. Submit with --gpus 0 to train on CPUs"),
        ([(32, 4)], asked(gpus=8), "Needs 8 GPUs, the cluster has 4. Submit with --gpus 4 or fewer"),
        ([(2, 0)], asked(workers=2, cpus_per_worker=2), "Needs 4.5 CPUs (0.5 of them for reading data)"),
        ([(4, 0), (4, 0)], asked(workers=1, cpus_per_worker=6), "cannot hold 1 worker of 6 CPUs,"),
        ([(8, 2), (8, 2)], asked(gpus=4, workers=1), "cannot hold 1 worker of 4 GPUs and"),
    ],
)
def test_a_gang_that_an_empty_cluster_could_not_hold_comes_with_advice(nodes, resources, sentence):
    view = cluster(*nodes)
    reason = exceeds(view, size_workers(view, resources))
    assert reason.word == "ExceedsCluster" and sentence in reason.message


def test_a_cluster_without_nodes_is_still_starting_and_has_a_word_of_its_own():
    view = cluster()
    reason = exceeds(view, size_workers(view, asked(gpus=8)))
    assert reason.word == "NoNodesYet"
    assert reason.message == (
        "Ray has no nodes yet: it is still starting, or none has joined. The job starts once one has; "
        "`bertjobs cluster status` shows whether Ray is up."
    )


@given(
    nodes=st.lists(st.tuples(st.integers(1, 128), st.just(0)), min_size=1, max_size=4),
    workers=st.one_of(st.none(), st.integers(1, 8)),
)
def test_on_any_cluster_of_cpus_the_default_size_fits_and_leaves_cpu_for_data(nodes, workers):
    view = cluster(*nodes)
    grant = size_workers(view, asked(workers=workers))
    assert exceeds(view, grant) is None
    assert grant.data_cpus >= 0.5 and grant.cpus <= view.cpus
