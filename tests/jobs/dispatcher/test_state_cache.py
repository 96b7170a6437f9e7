"""What the dispatcher caches of Redis between its passes."""

import pytest

from bertjobs.jobs.job import State
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.scheduling.types import Node

pytestmark = pytest.mark.redis


def test_waiting_jobs_share_a_reason_that_is_written_once_when_its_number_changes(world, submit, monkeypatch):
    world.ray.nodes = [Node(id="n1", cpus=64, gpus=8, used_gpus=1)]
    first, *waiting = (submit(resources={"gpus": gpus}) for gpus in (4, 8, 8, 8))
    world.turn()
    assert {world.store.get(job_id).message for job_id in waiting} == {"Needs 8 GPUs, 3 free."}
    assert {job.message for job in world.store.list(states=[State.QUEUED])} == {"Needs 8 GPUs, 3 free."}
    world.ray.nodes = [Node(id="n1", cpus=64, gpus=8, used_gpus=5)]
    written = []
    write_reasons = world.dispatcher._store.write_reasons
    monkeypatch.setattr(
        world.dispatcher._store, "write_reasons", lambda r: (written.append(r), write_reasons(r))
    )
    world.turn(3)
    assert written == [], "nothing has changed"
    world.ray.nodes = [Node(id="n1", cpus=64, gpus=8, used_gpus=4)]
    world.turn()
    (reasons,) = written
    assert (len(reasons.texts), reasons.groups) == (1, {})
    assert world.store.get(waiting[0]).message == "Needs 8 GPUs, 4 free."
    world.store.hold(waiting[0])
    assert world.store.get(waiting[0]).reason == "Held"
    assert world.store.get(first).reason == "Admitted"


def test_what_others_change_in_redis_is_seen_in_the_next_pass(world, submit):
    first, second = submit(), submit()
    world.turn()
    urgent = submit(priority=5)
    world.store.hold(second)
    world.turn()
    assert world.store.get(urgent).reason == "InsufficientCpus"
    world.driver(first).end(
        decide(Failure(word="UserError", message="no"), num_faults=0, num_charged=0, max_retries=0),
        nonce="n",
        metrics={},
        artifacts={},
    )
    world.ray.ends(f"bj-{first}-a1", "FAILED", exit_code=1)
    world.store.release(second)
    world.turn()
    assert world.store.get(urgent).state is State.STARTING
    assert world.store.get(second).place == 1
