"""Timeouts, draining, and what the dispatcher remembers, between a real Redis and a fake Ray."""

import uuid

import pytest

from bertjobs.jobs.job import State
from bertjobs.jobs.quotas import QuotaStore
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.scheduling.types import Node
from bertjobs.jobs.store.connection import WrongState

pytestmark = pytest.mark.redis

DRAINED = Failure(word="Drained", message="The queue was drained.")


@pytest.fixture
def quotas(connection):
    return QuotaStore(connection)


def leaves(world, job_id):
    """Let the driver do what it does when it is told that the queue is drained."""
    decision = decide(DRAINED, num_faults=0, num_charged=0, max_retries=0)
    world.driver(job_id).end(decision, nonce=uuid.uuid4().hex, metrics={}, artifacts={})
    world.ray.ends(world.store.get(job_id).attempt.submission_id, "SUCCEEDED")


def test_draining_requeues_running_jobs_uncharged_and_starts_nothing_until_it_ends(world, submit, quotas):
    running, waiting = submit(max_retries=1), submit()
    world.turn()
    world.driver(running).report(progress={"step": 1})
    assert quotas.drain(by="ada") == 1 and quotas.drain(by="eve") == 1
    assert world.driver(running).report(progress={"step": 2}) == "drain"
    assert world.driver(running).report(progress={"step": 3}) == "drain", "it stays said"
    world.driver(running).publish_checkpoint("step-3", step=3)
    leaves(world, running)
    world.turn(2)
    found = quotas.read()
    assert (found.drained_by, found.num_live) == ("ada", 0)
    for job_id in (running, waiting):
        job = world.store.get(job_id)
        assert (job.state, job.reason) == (State.QUEUED, "Draining")
        assert job.message == (
            "The queue is drained by ada: nothing starts until `bertjobs cluster undrain`."
        )
    job = world.store.get(running)
    assert (job.num_charged, job.num_faults, job.checkpoint) == (0, 0, "step-3")
    world.restart_dispatcher()
    world.turn()
    assert world.store.get(running).state is State.QUEUED, "it is Redis that remembers"
    quotas.undrain()
    world.turn()
    job = world.store.get(running)
    assert (job.state, job.num_attempts, job.checkpoint) == (State.STARTING, 2, "step-3")


def test_a_claim_that_was_decided_before_the_queue_was_drained_is_refused(world, submit, quotas):
    job_id = submit()
    world.turn()
    grant = world.store.get(job_id).attempt.grant
    second = submit()
    quotas.drain(by="ada")
    with pytest.raises(WrongState, match="the queue is drained"):
        world.dispatcher._store.claim(second, grant=grant, placement={})


def test_a_driver_that_does_not_exit_after_a_drain_is_stopped_and_its_job_is_requeued(world, submit, quotas):
    job_id = submit()
    world.turn()
    world.driver(job_id).report(progress={"step": 1})
    quotas.drain(by="ada")
    world.passes(100)
    world.driver(job_id).report(progress={"step": 2})
    world.turn()
    assert world.ray.stops == []
    world.passes(21)
    world.driver(job_id).report(progress={"step": 3})
    world.turn()
    assert world.ray.stops == [f"bj-{job_id}-a1"]
    world.ray.ends(f"bj-{job_id}-a1", "STOPPED")
    world.turn(3)
    job = world.store.get(job_id)
    assert (job.state, job.reason, job.num_faults) == (State.QUEUED, "Draining", 0)
    assert job.attempts[0].reason == "Draining"


def test_an_attempt_that_has_not_read_a_drain_command_that_was_taken_back_continues(world, submit, quotas):
    job_id = submit()
    world.turn()
    quotas.drain(by="ada")
    quotas.undrain()
    assert world.driver(job_id).report(progress={"step": 1}) == ""


def test_a_cancelled_job_is_cancelled_in_a_drained_queue_too(world, submit, quotas):
    job_id = submit()
    world.turn()
    world.store.cancel(job_id)
    assert quotas.drain(by="ada") == 0
    assert world.driver(job_id).report() == "cancel"
    leaves(world, job_id)
    assert world.store.get(job_id).state is State.CANCELLED


def test_a_user_over_the_limit_waits_with_numbers_and_delays_nobody(world, submit, quotas):
    world.ray.nodes = [Node(id="n1", cpus=100, gpus=10)]
    quotas.limit("ada", gpus=3)
    first, second, third = (submit(resources={"gpus": gpus}) for gpus in (2, 2, 1))
    other = submit(resources={"gpus": 4}, user="bob")
    world.turn()
    states = [world.store.get(job_id).state for job_id in (first, second, third, other)]
    assert states == [State.STARTING, State.QUEUED, State.STARTING, State.STARTING]
    job = world.store.get(second)
    assert job.reason == "UserLimit"
    assert job.message == "Needs 2 GPUs; ada holds 2 of the 3 that `bertjobs cluster limit ada` allows."
    found = quotas.read()
    assert (found.max_gpus, found.held_gpus) == ({"ada": 3}, {"ada": 3, "bob": 4})
    quotas.limit("ada", gpus=None)
    world.turn()
    assert world.store.get(second).state is State.STARTING
