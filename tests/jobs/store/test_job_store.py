"""The queue in a real Redis: submission, reading, and what people may do to a job."""

import json
import re

import pytest

from bertjobs.errors import QueueError
from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import JobUnknown, KeyTaken

pytestmark = pytest.mark.redis


def test_a_submitted_job_is_stored_whole_and_queued(store):
    job, created = store.submit(
        "finetune",
        {"optim": {"lr": 5e-5}},
        storage="/data/jobs",
        resources={"gpus": 8},
        name="first",
        user="ada",
        priority=3,
        max_retries=2,
        time_limit_s=90.5,
    )
    assert created and job.state is State.QUEUED and job.place == 1
    assert job.config == {"optim": {"lr": 5e-5}} and job.resources == {"gpus": 8}
    assert (job.name, job.user, job.priority, job.max_retries, job.time_limit_s) == (
        "first",
        "ada",
        3,
        2,
        90.5,
    )
    document = job.to_json()
    assert document["artifacts"] == {
        "dir": f"/data/jobs/{job.id}",
        "model": None,
        "predictions": None,
        "plots": [],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["submitted_at"])
    assert {"id", "kind", "state", "reason", "attempts", "metrics", "started_at", "ended_at"} <= set(document)
    assert [(e.state, e.reason) for e in store.events(job.id)] == [(State.QUEUED, "Submitted")]


def test_a_known_key_finds_its_first_job(store, submit):
    first = submit(idempotency_key="nightly")
    again, created = submit_again(store, key="nightly")
    assert (again.id, created) == (first, False)
    assert sum(store.count().values()) == 1


def submit_again(store, *, key, user="ada", kind="finetune", epochs=1):
    config = {"train": {"epochs": epochs}}
    return store.submit(kind, config, storage="/x", resources={}, user=user, idempotency_key=key)


def test_a_key_belongs_to_its_user(store, submit, connection):
    first = submit(idempotency_key="nightly")
    bobs, created = submit_again(store, key="nightly", user="bob", epochs=2)
    assert created and bobs.id != first
    assert submit_again(store, key="nightly")[0].id == first
    assert submit_again(store, key="nightly", user="bob", epochs=2)[0].id == bobs.id


@pytest.mark.parametrize("other", [{"epochs": 2}, {"kind": "pretrain"}])
def test_a_key_with_another_configuration_is_an_error(store, submit, other):
    first = submit(idempotency_key="nightly")
    with pytest.raises(KeyTaken, match=f"nightly was given before, to {first}, with another configuration"):
        submit_again(store, key="nightly", **other)
    assert sum(store.count().values()) == 1


def test_a_key_that_an_earlier_version_stored_is_found_by_its_user(store, submit, connection):
    first = submit(idempotency_key="nightly")
    connection.client.delete("bj:idempotency")
    connection.client.hset("bj:idempotency", "nightly", first)
    assert submit_again(store, key="nightly")[0].id == first
    assert submit_again(store, key="nightly", user="bob")[1], "another user's key is another one"
    store.cancel(first)
    connection.run("forget", id=first)
    assert not connection.client.hexists("bj:idempotency", "nightly")


def test_a_search_that_makes_progress_has_no_faults_in_a_row(store, submit, connection, world):
    search = submit()
    world.turn()
    driver, client = world.driver(search), connection.client
    for num_ended in (1, 2):
        client.hset(f"bj:job:{search}", "num_faults", 5)
        driver.publish_checkpoint("search.json", step=num_ended)
        assert store.get(search).num_faults == 0
    client.hset(f"bj:job:{search}", "num_faults", 5)
    driver.publish_checkpoint("search.json", step=2)
    assert store.get(search).num_faults == 5, "no trial has ended since"


def test_the_queue_is_ordered_by_priority_then_by_submission(store, submit):
    a, b, c = submit(), submit(priority=5), submit(priority=5)
    assert [store.get(job_id).place for job_id in (b, c, a)] == [1, 2, 3]
    assert [job.id for job in store.list()] == [c, b, a]


def test_a_list_filters_by_state_and_user_and_stops_at_its_limit(store, submit):
    a, b, c = submit(), submit(user="bob"), submit()
    store.cancel(a)
    assert [job.id for job in store.list(states=[State.QUEUED, State.CANCELLED])] == [c, b, a]
    assert [job.id for job in store.list(states=[State.CANCELLED])] == [a]
    assert [job.id for job in store.list(user="ada", limit=1)] == [c]
    assert [job.id for job in store.list(limit=2)] == [c, b]
    assert [job.id for job in store.list(limit=None)] == [c, b, a]
    assert store.list(user="nobody") == []
    assert store.list(states=[State.RUNNING]) == []


def test_a_job_is_found_by_an_unambiguous_prefix(store, submit, monkeypatch):
    ids = iter(["j-000000aaa", "j-000001bbb"])
    monkeypatch.setattr("bertjobs.jobs.store.job_store.new_job_id", lambda: next(ids))
    a, b = submit(), submit()
    assert (store.get("j-000000").id, store.get("j-000001b").id) == (a, b)
    with pytest.raises(QueueError, match="Several jobs begin with"):
        store.get("j-")
    with pytest.raises(JobUnknown, match="no job j-zzzz"):
        store.get("j-zzzz")
    with pytest.raises(JobUnknown):
        store.get("")


def test_cancel_ends_a_waiting_job_at_once_and_a_second_call_changes_nothing(store, submit):
    job_id = submit()
    assert store.cancel(job_id, by="ada").state is State.CANCELLED
    assert store.cancel(job_id).message == "Cancelled by ada."
    assert [e.state for e in store.events(job_id)] == [State.QUEUED, State.CANCELLED]
    assert store.get(job_id).place is None


def test_a_priority_moves_a_waiting_job_in_the_queue(store, submit):
    a, b, held = submit(), submit(), submit(hold=True)
    assert store.prioritize(b, 7, by="ada").place == 1
    assert store.get(a).place == 2
    assert store.events(b)[-1].message == "Priority 7, set by ada."
    assert store.prioritize(held, 9).state is State.HELD
    assert store.release(held).place == 1
    store.prioritize(b, 7)
    assert len(store.events(b)) == 2  # nothing changed
    store.cancel(a)
    with pytest.raises(QueueError, match="is CANCELLED"):
        store.prioritize(a, 1)


def test_hold_and_release_keep_the_place(store, submit):
    a, b = submit(), submit()
    assert store.hold(a).state is State.HELD
    assert store.get(b).place == 1
    assert store.hold(a).state is State.HELD
    assert store.release(a).place == 1
    with pytest.raises(QueueError, match=r"is CANCELLED\. Only a held job"):
        store.release(store.cancel(a).id)
    assert store.get(submit(hold=True)).reason == "Held"


def test_retry_queues_an_ended_job_again_but_not_one_that_waits(store, submit):
    job_id = submit()
    with pytest.raises(QueueError, match="is QUEUED"):
        store.retry(job_id)
    store.cancel(job_id)
    job = store.retry(job_id)
    assert job.state is State.QUEUED and job.ended_at is None


def test_a_job_cannot_follow_one_that_does_not_exist(store, submit):
    with pytest.raises(QueueError, match="no job j-none"):
        submit(after=["j-none"])
    assert sum(store.count().values()) == 0


def test_two_jobs_that_draw_the_same_id_both_get_one(store, monkeypatch, submit):
    ids = iter(["j-000000aaa", "j-000000aaa", "j-000000bbb"])
    monkeypatch.setattr("bertjobs.jobs.store.job_store.new_job_id", lambda: next(ids))
    assert [submit(), submit()] == ["j-000000aaa", "j-000000bbb"]


def test_a_redis_killed_and_started_again_has_lost_no_job(redis_server, store, submit):
    ids = [submit(priority=n) for n in range(20)]
    # On a busy disk Redis holds a write back, for at most two seconds, while it waits for an earlier one.
    while store.connection.client.info("persistence")["aof_buffer_length"]:
        pass
    redis_server.kill()
    redis_server.start()
    assert [job.id for job in store.list()] == ids[::-1]
    assert store.get(ids[-1]).place == 1


def test_a_list_in_slices_is_the_list_in_one(store, submit, monkeypatch):
    ids = [submit(user="ada" if n % 3 else "bob", hold=n % 2 == 0) for n in range(14)]
    ways = [
        {},
        {"limit": None},
        {"limit": 5},
        {"user": "bob"},
        {"user": "nobody"},
        {"states": [State.HELD, State.QUEUED], "limit": 6},
        {"states": [State.QUEUED], "user": "ada", "limit": None},
        {"limit": 0},
    ]
    whole = [[job.id for job in store.list(**way)] for way in ways]
    assert whole[0] == ids[::-1]
    for size in (1, 2, 3, 7, 14):
        monkeypatch.setattr("bertjobs.jobs.store.job_store.SLICE_SIZE", size)
        assert [[job.id for job in store.list(**way)] for way in ways] == whole


def test_no_call_of_a_list_looks_at_more_jobs_than_a_slice(store, submit, connection, monkeypatch):
    monkeypatch.setattr("bertjobs.jobs.store.job_store.SLICE_SIZE", 3)
    for _ in range(10):
        submit(user="ada")
    calls = []
    run = connection.run
    monkeypatch.setattr(connection, "run", lambda name, **arg: calls.append(run(name, **arg)) or calls[-1])
    assert len(store.list(user="ada", limit=None)) == 10
    assert [len(json.loads(document)) for document, _ in calls] == [3, 3, 3, 1]
