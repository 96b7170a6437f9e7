"""The queue in a real Redis: submission, reading, and what people may do to a job."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import bertjobs.jobs.store
from bertjobs.errors import ConfigError, QueueError
from bertjobs.jobs.job import REOPENED_BY_RETRY, TRANSITIONS, Grant, State
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.store.connection import JobUnknown, open_connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.jobs.store.lease_store import LeaseStore

pytestmark = pytest.mark.redis

LUA = Path(bertjobs.jobs.store.__file__).parent / "lua"
GRANT = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)


def test_python_and_lua_agree_on_every_transition(connection):
    dump = (LUA / "common.lua").read_text() + "\nreturn cjson.encode({NEXT, REOPENED, WAITING, TERMINAL})"
    following, reopened, waiting, terminal = json.loads(connection.client.eval(dump, 0, "{}"))
    pairs = {(a, b) for a in following for b in following[a]}
    assert set(following) == {str(state) for state in State}
    assert pairs == {(str(a), str(b)) for a in TRANSITIONS for b in TRANSITIONS[a]}
    assert set(reopened) == {str(state) for state in REOPENED_BY_RETRY}
    assert set(waiting) == {str(state) for state in State if state.is_waiting}
    assert set(terminal) == {str(state) for state in State if state.is_terminal}


@pytest.mark.parametrize("source", list(State))
@pytest.mark.parametrize("target", list(State))
def test_lua_moves_a_job_exactly_where_the_table_allows(connection, store, source, target, submit):
    job_id = submit()
    connection.client.hset(f"bj:job:{job_id}", "state", str(source))
    move = (LUA / "common.lua").read_text() + "\nreturn {pcall(move, arg.id, arg.to, 'Word', 'Sentence.')}"
    connection.client.eval(move, 0, json.dumps({"id": job_id, "to": str(target)}))
    moved = connection.client.hget(f"bj:job:{job_id}", "state")
    assert moved == str(target if target in TRANSITIONS[source] else source)


def test_no_script_walks_the_keyspace():
    scripts = sorted(LUA.glob("*.lua"))
    assert len(scripts) == 28
    for script in scripts:
        assert not re.search(r"call\('(KEYS|SCAN|FLUSH\w+)'", script.read_text()), script.name


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
    again, created = store.submit("finetune", {}, storage="/x", resources={}, idempotency_key="nightly")
    assert (again.id, created) == (first, False)
    assert sum(store.count().values()) == 1


def test_the_queue_goes_by_priority_then_by_submission(store, submit):
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


def test_a_job_is_found_by_a_beginning_that_is_its_alone(store, submit, monkeypatch):
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


def test_cancel_ends_a_waiting_job_at_once_and_twice_is_once(store, submit):
    job_id = submit()
    assert store.cancel(job_id, by="ada").state is State.CANCELLED
    assert store.cancel(job_id).message == "Cancelled by ada."
    assert [e.state for e in store.events(job_id)] == [State.QUEUED, State.CANCELLED]
    assert store.get(job_id).place is None


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


def test_every_script_that_writes_leaves_the_same_when_it_is_sent_twice(
    store, connection, monkeypatch, submit, let_pass
):
    """What redis-py does after a timeout: the first call was carried out, its answer was lost."""
    run = connection.run

    def run_twice(script, /, **arg):
        run(script, **arg)
        return run(script, **arg)

    monkeypatch.setattr(connection, "run", run_twice)
    dispatch = DispatchStore(connection, owner="here:1", lease_s=60)
    job_id = submit(max_retries=1)
    assert sum(store.count().values()) == 1
    store.hold(job_id)
    store.release(job_id)
    assert dispatch.lead()
    live = dispatch.claim(job_id, grant=GRANT, placement={})
    assert (live.number, live.token) == (1, 1)
    lease = LeaseStore(connection, job_id=job_id, attempt=1, token=1, lease_s=15)
    lease.report(progress={"step": 1})
    lease.log_metrics({"loss": 1.0})
    lease.log_metrics({"loss": 0.5})
    lease.publish_checkpoint("step-1", step=1)
    failed = decide(Failure(word="UserError", message="no"), num_faults=0, num_charged=0, max_retries=1)
    assert lease.end(failed, nonce="n", metrics={}, artifacts={}) is State.RETRYING
    assert store.get(job_id).num_charged == 1
    let_pass(60)
    dispatch.note_gone(dispatch.live()[1][0])
    dispatch.promote()
    store.cancel(job_id)
    store.retry(job_id)
    assert store.metrics(job_id) == [{"loss": 1.0}, {"loss": 0.5}]
    expected = (
        "Submitted Held Submitted Admitted Stepping Checkpoint BackoffUntil Submitted Cancelled Submitted"
    )
    assert [e.reason for e in store.events(job_id)] == expected.split()


def test_a_password_in_the_address_is_refused_without_repeating_it(settings):
    with pytest.raises(ConfigError, match="contains a password") as error:
        connect(replace(settings, redis_url="redis://:s3cret@host/0"))
    assert "s3cret" not in str(error.value)


def test_no_address_and_a_wrong_one_say_what_to_set(settings):
    with pytest.raises(ConfigError, match="BERTJOBS_REDIS_URL, or run `bertjobs cluster up`"):
        connect(replace(settings, redis_url=None))
    with pytest.raises(ConfigError, match="is not the address of a Redis"):
        connect(replace(settings, redis_url="http://host"))


def test_a_redis_that_is_down_is_an_error_with_a_remedy(settings):
    with pytest.raises(QueueError, match=r"cannot be reached.*bertjobs cluster up"):
        connect(replace(settings, redis_url="redis://127.0.0.1:1/0"))


def test_a_wrong_password_is_an_error_that_names_the_variable(settings, connection):
    connection.client.config_set("requirepass", "right")
    try:
        for given in ("wrong", None):
            with pytest.raises(QueueError, match=r"refuses us.*BERTJOBS_REDIS_PASSWORD") as error:
                connect(replace(settings, redis_password=given))
            assert error.value.exit_code == 2
        connect(replace(settings, redis_password="right")).close()
    finally:
        connection.client.config_set("requirepass", "")


def test_a_user_without_rights_is_told_which_are_needed(settings, connection):
    connection.client.acl_setuser("reader", enabled=True, passwords=["+pw"], categories=["+@connection"])
    try:
        limited = JobStore(open_connection(replace(settings, redis_user="reader", redis_password="pw")))
        with pytest.raises(QueueError, match=r"does not let user reader do this.*BERTJOBS_REDIS_USER"):
            limited.list()
        limited.close()
    finally:
        connection.client.acl_deluser("reader")


def test_a_redis_killed_and_started_again_has_lost_no_job(redis_server, store, submit):
    ids = [submit(priority=n) for n in range(20)]
    # On a busy disk Redis holds a write back, for at most two seconds, while it waits for an earlier one.
    while store.connection.client.info("persistence")["aof_buffer_length"]:
        pass
    redis_server.kill()
    redis_server.start()
    assert [job.id for job in store.list()] == ids[::-1]
    assert store.get(ids[-1]).place == 1
