"""Placing gangs on what is free."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.free_resources import FreeResources
from bertjobs.jobs.scheduling.sizing import fits


@given(
    free=st.dictionaries(
        st.sampled_from("abcd"), st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1
    ),
    workers=st.integers(1, 6),
    gpus=st.integers(0, 2),
    cpus=st.integers(1, 4),
    data=st.integers(0, 4),
)
def test_a_placement_holds_the_whole_gang_and_never_more_than_is_free(free, workers, gpus, cpus, data):
    grant = Grant(workers=workers, gpus_per_worker=gpus, cpus_per_worker=cpus, data_cpus=data)
    plan = FreeResources(free).place(grant)
    assert fits(grant, free) is (plan is not None)
    if plan is None:
        return
    assert all(c <= free[n][0] and g <= free[n][1] for n, (c, g) in plan.items())
    assert sum(c for c, _ in plan.values()) == pytest.approx(grant.cpus)
    assert sum(g for _, g in plan.values()) == grant.gpus


def test_jobs_without_gpus_go_to_nodes_without_gpus_first():
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=0)
    assert list(FreeResources({"gpu": (64, 8), "plain": (4, 0)}).place(grant)) == ["plain"]
