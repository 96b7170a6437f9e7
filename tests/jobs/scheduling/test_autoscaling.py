"""Ray's autoscaler is asked for what runs and what waits, within limits; for nothing where nothing waits."""

from bertjobs.jobs.scheduling.autoscaling import MAX_BUNDLES, ScaleLimits, scale_request
from bertjobs.jobs.scheduling.types import Allocation, Cluster, Node, Quotas, WaitingJob

HEAD_ONLY = Cluster(nodes=(Node(id="head", cpus=0, gpus=0),))
PLENTY = ScaleLimits(gpus=64, cpus=64)


def waiting(job_id="j-1", *, gpus=0, workers=None, cpus_per_worker=None, user="ada", **given):
    resources = {"gpus": gpus, "workers": workers, "cpus_per_worker": cpus_per_worker}
    known = {"time_limit_s": None, "waits_for": None, "dependency_ended_as": None, "is_still_alive": False}
    return WaitingJob(job_id=job_id, resources=resources, user=user, **{**known, **given})


def running(placement, *, user="ada", is_gone=False):
    return Allocation(job_id="j-0", placement=placement, ends_in_s=None, is_gone=is_gone, user=user)


def ask(*queue, cluster=HEAD_ONLY, allocations=(), quotas=None, limits=PLENTY):
    return scale_request(
        queue, cluster=cluster, allocations=allocations, quotas=quotas or Quotas(), limits=limits
    )


def gpus_of(request):
    return sum(gpus * number for (_, gpus), number in request.items())


def test_a_cluster_without_gpus_is_asked_for_a_bundle_per_worker():
    assert ask(waiting(gpus=8)) == {(1.0, 1.0): 8, (0.5, 0.0): 1}
    assert ask(waiting(gpus=8, workers=2, cpus_per_worker=6)) == {(6.0, 4.0): 2, (0.5, 0.0): 1}


def test_nothing_is_asked_for_where_nothing_waits():
    assert ask() == {}
    assert ask(allocations=[running({"n1": (8.0, 8.0)})]) == {}


def test_what_runs_is_asked_for_again_because_ray_compares_with_the_whole_cluster():
    found = ask(waiting(gpus=2), allocations=[running({"n1": (8.0, 4.0), "n2": (1.0, 0.0)})])
    assert found == {(8.0, 4.0): 1, (1.0, 0.0): 1, (1.0, 1.0): 2, (0.5, 0.0): 1}
    assert ask(waiting(gpus=2), allocations=[running({"n1": (8.0, 4.0)}, is_gone=True)]) == ask(
        waiting(gpus=2)
    )


def test_jobs_that_no_node_would_start_are_not_asked_for():
    assert ask(waiting(gpus=8, waits_for="j-9"), waiting("j-2", gpus=8, is_still_alive=True)) == {}
    assert ask(waiting(gpus=8), quotas=Quotas(drained_by="ada")) == {}
    assert ask(waiting(gpus=8, workers=3)) == {}  # cannot be shared evenly


def test_a_users_limit_holds_over_what_runs_and_what_waits():
    quotas = Quotas(max_gpus={"ada": 6})
    holds = [running({"n1": (2.0, 2.0)})]
    queue = [waiting("j-1", gpus=4), waiting("j-2", gpus=1), waiting("j-3", gpus=8, user="ben")]
    assert gpus_of(ask(*queue, quotas=quotas, allocations=holds)) == 2 + 4 + 8


def test_the_limits_hold_and_a_smaller_job_behind_is_still_asked_for():
    queue = [waiting("j-1", gpus=8), waiting("j-2", gpus=8), waiting("j-3", gpus=2)]
    assert gpus_of(ask(*queue, limits=ScaleLimits(gpus=10, cpus=0))) == 10
    assert ask(waiting(gpus=16), limits=ScaleLimits(gpus=10, cpus=0)) == {}


def test_jobs_without_gpus_count_against_cpus_only():
    cpu_job, gpu_job = waiting("j-1", workers=2, cpus_per_worker=3), waiting("j-2", gpus=1)
    assert ask(cpu_job, limits=ScaleLimits(gpus=8, cpus=0)) == {}
    assert ask(gpu_job, limits=ScaleLimits(gpus=0, cpus=8)) == {}
    assert ask(cpu_job, limits=ScaleLimits(gpus=0, cpus=8)) == {(3.0, 0.0): 2, (0.5, 0.0): 1}


def test_a_request_stays_short_enough_for_a_command_line():
    queue = [waiting(f"j-{i}", gpus=8) for i in range(1000)]
    found = ask(*queue, limits=ScaleLimits(gpus=10**6, cpus=0))
    assert MAX_BUNDLES - 9 < sum(found.values()) <= MAX_BUNDLES
