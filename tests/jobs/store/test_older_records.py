"""A queue that an earlier version has written is read and continued.

`queue_of_e769eba.json` has all keys of a Redis after commit e769eba submitted, started and ended these jobs:
key -> its type and content. The delay of the retried job is over.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from bertjobs.config import load_config, stored_layer
from bertjobs.jobs.job import State
from bertjobs.jobs.quotas import QuotaStore
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.lease_store import LeaseStore

pytestmark = pytest.mark.redis

OLDER: dict[str, Any] = json.loads(Path(__file__).with_name("queue_of_e769eba.json").read_text())
JOBS: dict[str, str] = OLDER["jobs"]


@pytest.fixture
def older(store, connection):
    """Write the older queue, and return the store as people use it."""
    client = connection.client
    for key, (kind, value) in OLDER["keys"].items():
        if kind == "string":
            client.set(key, value)
        elif kind == "hash":
            client.hset(key, mapping=value)
        elif kind == "list":
            client.rpush(key, *value)
        elif kind == "set":
            client.sadd(key, *value)
        elif kind == "zset":
            client.zadd(key, dict(value))
        else:
            assert kind == "stream"
            for entry_id, fields in value:
                client.xadd(key, fields, id=entry_id)
    return store


@pytest.fixture
def dispatch_store(connection):
    """Return the store of a dispatcher that leads."""
    store = DispatchStore(connection, owner="host:1:1", lease_s=3600)
    assert store.lead()
    return store


def test_every_job_is_listed_in_its_state(older):
    states = {job.id: job.state for job in older.list()}
    assert {name: states[job_id] for name, job_id in JOBS.items()} == {
        "running": State.RUNNING,
        "done": State.SUCCEEDED,
        "lost": State.RETRYING,
        "waiting": State.QUEUED,
        "held": State.HELD,
        "cancelled": State.CANCELLED,
        "after": State.QUEUED,
    }


def test_every_configuration_is_valid_and_every_event_is_read(older):
    for job_id in JOBS.values():
        job = older.get(job_id)
        config = load_config(job.kind, stored_layer(job.config))
        assert config.optim.lr == 5e-4 and config.data.path == "/home/ada/sample/snli_1.0"
        assert older.events(job_id)[0].state in (State.QUEUED, State.HELD)
        json.dumps(job.to_json())


def test_what_a_job_has_reached_is_kept(older):
    assert older.get(JOBS["done"]).to_json()["metrics"] == {"accuracy": 0.5}
    for name in ("running", "lost"):
        job = older.get(JOBS[name])
        assert (job.checkpoint, job.num_attempts) == ("step-3", 1)


def test_a_dispatcher_goes_on_with_all_of_it(older, dispatch_store):
    dispatch_store.promote()
    waiting = {queued.waiting.job_id: queued.waiting for queued in dispatch_store.queue()}
    assert waiting.keys() == {JOBS[name] for name in ("waiting", "lost", "after")}
    assert waiting[JOBS["after"]].waits_for == JOBS["running"]
    assert QuotaStore(dispatch_store.connection).read().max_gpus == {"ben": 4.0}
    _, live = dispatch_store.live()
    assert [attempt.job_id for attempt in live] == [JOBS["running"]]
    grant = older.get(JOBS["running"]).attempt.grant
    claimed = dispatch_store.claim(JOBS["lost"], grant=grant, placement={})
    assert claimed.number == 2 and older.get(JOBS["lost"]).checkpoint == "step-3"


def test_the_driver_of_a_running_attempt_still_holds_its_lease_and_ends_it(older, connection):
    attempt = older.get(JOBS["running"]).attempt
    lease = LeaseStore(connection, job_id=JOBS["running"], attempt=1, token=attempt.token, lease_s=15)
    lease.report(progress={"step": 4})
    done = RetryDecision(state=State.SUCCEEDED, reason="", message="")
    assert lease.end(done, nonce="n", metrics={}, artifacts={}) is State.SUCCEEDED
    assert older.get(JOBS["after"]).place is not None
