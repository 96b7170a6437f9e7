"""Who starts, who waits, and what those who wait are told."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.jobs.scheduling import types
from bertjobs.jobs.scheduling.admission import admit, free_of
from bertjobs.jobs.scheduling.types import (
    REASONS,
    SHORT_OF_RESOURCES,
    Admit,
    Allocation,
    Cluster,
    Node,
    Reject,
    Wait,
    WaitingJob,
)

EIGHT = Cluster(nodes=(Node(id="n", cpus=64, gpus=8),))


def job(name, gpus=0, *, workers=None, cpus=None, limit=None, **other):
    facts = {"waits_for": None, "dependency_ended_as": None, "is_still_alive": False, **other}
    resources = {"gpus": gpus, "workers": workers, "cpus_per_worker": cpus}
    return WaitingJob(job_id=name, resources=resources, time_limit_s=limit, **facts)


def allocation(name, cpus, gpus, ends_in_s=None, **other):
    return Allocation(job_id=name, placement={"n": (cpus, gpus)}, ends_in_s=ends_in_s, **other)


def words(decisions):
    return [v.reason.word if isinstance(v, (Wait, Reject)) else "start" for v in decisions]


def test_gangs_start_whole_or_not_at_all():
    decisions = admit([job("a", 8), job("b", 8)], cluster=EIGHT, allocations=[])
    assert words(decisions) == ["start", "InsufficientGpus"]
    assert decisions[1].reason.message == "Needs 8 GPUs, 0 free."


def test_free_gpus_that_are_scattered_are_called_fragmented():
    two = Cluster(nodes=tuple(Node(id=f"n{i}", cpus=64, gpus=4) for i in range(2)))
    held = [Allocation(job_id=f"x{i}", placement={f"n{i}": (1, 2)}, ends_in_s=None) for i in range(2)]
    (decision,) = admit([job("a", 4, workers=1, cpus=1)], cluster=two, allocations=held)
    assert decision.reason.word == "Fragmented"
    assert "4 GPUs" in decision.reason.message and "1 worker of 4 GPUs and 1 CPU" in decision.reason.message


def test_nobody_passes_a_job_that_waits_for_one_without_a_time_limit():
    held = [allocation("x", 8, 5)]
    queue = [job("big", 8), job("small", 1), job("limited", 1, limit=60)]
    decisions = admit(queue, cluster=EIGHT, allocations=held)
    assert words(decisions) == ["InsufficientGpus", "BehindPriority", "BehindPriority"]
    assert decisions[0].reason.message == "Needs 8 GPUs, 3 free."
    assert decisions[1].reason.message == (
        "Fits, but would delay big, which is ahead and needs 8 GPUs. "
        "With a --time-limit it could pass if it ends in time."
    )


def test_a_job_that_ends_in_time_passes_and_one_that_does_not_waits():
    held = [allocation("x", 8, 5, ends_in_s=600)]
    queue = [job("big", 8), job("long", 1, limit=601), job("short", 1, limit=600)]
    assert words(admit(queue, cluster=EIGHT, allocations=held)) == [
        "InsufficientGpus",
        "BehindPriority",
        "start",
    ]


def test_a_job_without_gpus_passes_one_that_is_short_of_gpus_only_while_cpus_are_left_over():
    held = [allocation("x", 16, 5)]
    fits_beside, too_large = job("cpu", cpus=2), job("hog", cpus=40)
    decisions = admit([job("big", 8, cpus=4), fits_beside, too_large], cluster=EIGHT, allocations=held)
    assert words(decisions) == ["InsufficientGpus", "start", "InsufficientCpus"]
    decisions = admit([job("big", 8, cpus=4), job("hog", cpus=20)], cluster=EIGHT, allocations=held)
    assert words(decisions) == ["InsufficientGpus", "BehindPriority"]


def test_a_job_that_the_cluster_could_never_hold_delays_nobody():
    assert words(admit([job("huge", 16), job("small", 1)], cluster=EIGHT, allocations=[])) == [
        "ExceedsCluster",
        "start",
    ]


def test_on_a_cluster_that_is_still_starting_every_job_waits_for_its_first_node():
    decisions = admit([job("a"), job("b", 8)], cluster=Cluster(nodes=()), allocations=[])
    assert words(decisions) == ["NoNodesYet", "NoNodesYet"]


def test_every_word_that_a_waiting_job_shows_is_in_the_table_of_reasons():
    """Read the words from the code: of each reason that is made, and of each event that queues a job."""
    package = Path(types.__file__).parents[1]
    made = {
        word
        for path in [*(package / "scheduling").glob("*.py"), package / "retry.py"]
        for word in re.findall(r'(?:WaitReason\(|State\.RETRYING,)\s*\w+="(\w+)"', path.read_text())
    }
    queued = {
        word
        for path in (package / "store" / "lua").glob("*.lua")
        for word in re.findall(r"'(?:QUEUED|HELD)', '(\w+)'", path.read_text())
    }
    fails_the_job = {"ConfigError", "DependencyFailed"}
    assert fails_the_job < made
    assert {"Submitted", "Held"} == queued
    assert (made | queued) - fails_the_job == set(REASONS)
    assert all(sentence.endswith(".") for sentence in REASONS.values())
    assert set(REASONS) > SHORT_OF_RESOURCES
    guide = (package.parents[1] / "docs" / "how-to" / "operations.md").read_text()
    assert [word for word in REASONS if f"`{word}`" not in guide] == []


def test_what_others_use_is_not_free_and_what_was_just_released_is_not_others_use():
    node = Node(id="n", cpus=64, gpus=8, used_cpus=10, used_gpus=5)
    view = Cluster(nodes=(node,))
    ours, gone = allocation("a", 8, 2), allocation("b", 1, 3, is_gone=True)
    assert free_of(view, []) == {"n": (54, 3)}
    assert free_of(view, [ours]) == {"n": (54, 3)}
    assert free_of(view, [ours, gone]) == {"n": (55, 6)}
    assert free_of(view, [allocation("a", 20, 8)]) == {"n": (44, 0)}, "granted, not yet in Ray's numbers"


def test_each_reason_that_is_not_about_resources_has_its_word():
    queue = [
        job("a", waits_for="j-1"),
        job("b", waits_for="j-1", dependency_ended_as="CANCELLED"),
        job("c", is_still_alive=True),
        job("d", 8, workers=3),
    ]
    decisions = admit(queue, cluster=EIGHT, allocations=[])
    assert words(decisions) == ["WaitingForDependency", "DependencyFailed", "LastAttemptAlive", "ConfigError"]
    assert [type(v) for v in decisions] == [Wait, Reject, Wait, Reject]
    down = admit(queue, cluster=None, allocations=[], unreachable="No route.")
    assert words(down) == ["WaitingForDependency", "DependencyFailed", "LastAttemptAlive", "RayUnreachable"]
    assert "No route." in down[3].reason.message


SHAPES = st.tuples(st.integers(0, 8), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 500)))


@given(queue=st.lists(SHAPES, max_size=8), held=st.lists(SHAPES, max_size=4))
def test_no_pass_grants_more_than_there_is_and_every_job_gets_one_decision(queue, held):
    allocations, used_cpus, used_gpus = [], 0, 0
    for number, (gpus, cpus, limit) in enumerate(held):
        if used_gpus + gpus <= 8 and used_cpus + cpus <= 64:
            allocations.append(allocation(f"h{number}", cpus, gpus, ends_in_s=limit))
            used_cpus, used_gpus = used_cpus + cpus, used_gpus + gpus
    jobs = [job(f"j{i}", g, workers=1, cpus=c, limit=limit) for i, (g, c, limit) in enumerate(queue)]
    decisions = admit(jobs, cluster=EIGHT, allocations=allocations)
    assert len(decisions) == len(jobs)
    started = [v for v in decisions if isinstance(v, Admit)]
    assert used_gpus + sum(v.grant.gpus for v in started) <= 8
    assert used_cpus + sum(v.grant.cpus for v in started) <= 64 + 1e-6
    assert all(v.reason.word and v.reason.message.endswith(".") for v in decisions if isinstance(v, Wait))


@given(queue=st.lists(SHAPES, min_size=2, max_size=8), held=st.lists(SHAPES, min_size=1, max_size=4))
def test_passing_never_moves_the_latest_start_of_the_first_that_waits(queue, held):
    """Let everything run to its limit: the head fits no later with those that passed than without them."""
    allocations = [
        allocation(f"h{i}", min(c, 10), g, ends_in_s=limit) for i, (g, c, limit) in enumerate(held)
    ]
    if sum(h.placement["n"][1] for h in allocations) > 8:
        return
    jobs = [job(f"j{i}", g, workers=1, cpus=c, limit=limit) for i, (g, c, limit) in enumerate(queue)]
    decisions = admit(jobs, cluster=EIGHT, allocations=allocations)
    short = ("InsufficientGpus", "InsufficientCpus", "Fragmented")
    waits = [i for i, v in enumerate(decisions) if isinstance(v, Wait) and v.reason.word in short]
    if not waits:
        return
    before, head, behind = decisions[: waits[0]], jobs[waits[0]], decisions[waits[0] + 1 :]
    ahead = allocations + running(before, jobs)
    passed = running(behind, jobs[waits[0] + 1 :])
    without, with_them = latest_start_s(head, ahead), latest_start_s(head, ahead + passed)
    if without is not None:
        assert with_them is not None and with_them <= without
    elif passed:
        assert all(g == 0 for h in passed for _, g in h.placement.values())


def running(decisions, jobs):
    """Return what the admitted of these jobs hold."""
    return [
        Allocation(job_id=j.job_id, placement=v.placement, ends_in_s=j.time_limit_s)
        for v, j in zip(decisions, jobs, strict=False)
        if isinstance(v, Admit)
    ]


def latest_start_s(head, allocations):
    """Simulate: at each end, ask admission whether the head alone would start."""
    ends = sorted({h.ends_in_s for h in allocations if h.ends_in_s is not None})
    for end in ends:
        left = [h for h in allocations if h.ends_in_s is None or h.ends_in_s > end]
        if isinstance(admit([head], cluster=EIGHT, allocations=left)[0], Admit):
            return end
    return None


@pytest.mark.parametrize("num_jobs", [10_000])
def test_ten_thousand_waiting_jobs_are_decided_in_one_pass(num_jobs):
    decisions = admit([job(f"j{i}", 8) for i in range(num_jobs)], cluster=EIGHT, allocations=[])
    assert words(decisions).count("start") == 1 and len(decisions) == num_jobs


def test_no_more_drivers_run_than_their_nodes_have_memory_for():
    cluster = Cluster(nodes=(Node(id="n", cpus=64, gpus=8, driver_slots=3), Node(id="b", cpus=64, gpus=8)))
    queue = [job("w", gpus=1), job("x", gpus=1), job("y", gpus=1)]
    live = [allocation("a", 1, 1), allocation("gone", 0, 0, is_gone=True)]
    decisions = admit(queue, cluster=cluster, allocations=live)
    assert words(decisions) == ["start", "start", "DriverSlots"]
    assert decisions[2].reason.message.startswith("3 drivers run, as many as may")
    assert words(admit(queue, cluster=cluster, allocations=live, max_drivers=1)) == ["DriverSlots"] * 3
    assert words(admit(queue, cluster=cluster, allocations=live, max_drivers=100)) == ["start"] * 3
