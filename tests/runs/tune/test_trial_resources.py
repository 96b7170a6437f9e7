"""How a grant is divided into trials."""

from typing import Any

import pytest

from bertjobs.config import ConfigLayer, TuneConfig, load_config
from bertjobs.errors import ConfigError
from bertjobs.jobs.job import Grant
from bertjobs.jobs.scheduling.sizing import size_workers
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.runs.ray_train import num_threads
from bertjobs.runs.tune.trial_resources import TrialResources, divide_grant


def resources_of(*, cpus: float, gpus: float = 0, **values: Any) -> TrialResources:
    """Size a search for a cluster of one node and divide its grant."""
    given = {name.replace("__", "."): value for name, value in values.items()}
    config = load_config("tune", ConfigLayer({"resources.gpus": int(gpus), **given}, {}, is_given=False))
    assert isinstance(config, TuneConfig)
    cluster = Cluster(nodes=(Node(id="a", cpus=cpus, gpus=gpus),))
    return divide_grant(size_workers(cluster, config.resources.model_dump()), config)


def test_two_cores_run_one_trial_and_leave_a_core_to_ray_data() -> None:
    assert resources_of(cpus=2) == TrialResources(
        num_concurrent=1, workers_per_trial=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1
    )


def test_cores_are_shared_by_as_many_trials_as_fit() -> None:
    assert resources_of(cpus=2, search__cpus_per_trial=0.5).num_concurrent == 2
    assert resources_of(cpus=8, search__cpus_per_trial=1).num_concurrent == 6
    assert resources_of(cpus=8, search__cpus_per_trial=1, search__max_concurrent=4).num_concurrent == 4
    assert resources_of(cpus=8, search__cpus_per_trial=1, search__trials=2).num_concurrent == 2


def test_trials_share_what_reading_data_leaves_idle() -> None:
    grant = resources_of(cpus=16, search__cpus_per_trial=3).grant
    assert (grant.workers, grant.cpus_per_worker, grant.data_cpus) == (1, 3, 1)
    assert num_threads(grant, workers_on_node=1, cores=16) == 4


def test_a_gpu_is_one_trial_s_unless_it_is_shared() -> None:
    eight = resources_of(cpus=64, gpus=8)
    assert (eight.num_concurrent, eight.gpus_per_worker, eight.cpus_per_worker) == (8, 1, 6)
    shared = resources_of(cpus=64, gpus=8, search__gpus_per_trial=0.5)
    assert (shared.num_concurrent, shared.gpus_per_worker, shared.cpus_per_worker) == (16, 0.5, 3)
    groups = resources_of(cpus=64, gpus=8, search__gpus_per_trial=2.0)
    assert (groups.num_concurrent, groups.workers_per_trial, groups.gpus_per_worker) == (4, 2, 1)
    assert groups.num_concurrent * groups.workers_per_trial == 8


def test_trials_of_several_workers_on_cpus() -> None:
    resources = resources_of(cpus=8, resources__workers=4, search__workers_per_trial=2)
    assert (resources.num_concurrent, resources.workers_per_trial, resources.gpus_per_worker) == (2, 2, 0)


def test_a_trial_that_does_not_fit_is_refused_with_the_flags() -> None:
    with pytest.raises(ConfigError) as e:
        resources_of(cpus=2, search__cpus_per_trial=4)
    assert e.value.message.startswith(
        "--cpus-per-trial, --gpus-per-trial: a trial of 1 worker(s) with 4 CPUs"
    )
    assert "1 worker of 1 CPU" in e.value.message


def test_rounding_of_a_grant_costs_no_trial() -> None:
    config = load_config("tune", ConfigLayer({"search.cpus_per_trial": 1 / 3}, {}, is_given=False))
    assert isinstance(config, TuneConfig)
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=0.9999, data_cpus=1)
    assert divide_grant(grant, config).num_concurrent == 3
