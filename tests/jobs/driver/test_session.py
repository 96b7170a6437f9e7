"""The driver's side of the lease, and its heart."""

import time

import pytest

from bertjobs.errors import Cancelled, DataError, LeaseLost
from bertjobs.jobs.driver import session as session_module
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.job import State
from bertjobs.jobs.retry import SUCCESS, decide, failure_of
from bertjobs.jobs.store import connection as connection_module
from bertjobs.jobs.store.connection import RedisDown
from redis_refusals import REFUSALS, refusing_writes

pytestmark = pytest.mark.redis


def test_a_session_knows_its_job_and_its_grant(session):
    assert session.job.config == {"train": {"epochs": 1}}
    assert (session.attempt.grant.workers, session.attempt.grant.cpus_per_worker) == (1, 1)


@pytest.mark.parametrize(("attempt", "token"), [(1, 2), (2, 1), (0, 1)])
def test_a_session_with_a_token_that_does_not_own_the_job_is_refused(settings, started, attempt, token):
    with pytest.raises(LeaseLost):
        JobSession.open(settings, job_id=started, attempt=attempt, token=token)


def test_the_first_step_makes_the_job_running_and_reports_in_between_are_held_back(world, session):
    session.start()
    session.set_phase("encoding")
    session.progress({"step": 0, "loss": None})
    assert world.store.get(session.job.id).state is State.STARTING
    session.progress({"step": 1, "loss": 0.7})
    session.progress({"step": 2, "loss": 0.6})
    job = world.store.get(session.job.id)
    assert (job.state, job.phase, job.progress) == (State.RUNNING, "encoding", {"step": 1, "loss": 0.7})


def test_the_last_progress_arrives_however_soon_after_another_it_comes(world, session):
    session.progress({"step": 1, "num_steps": 9})
    session.progress({"step": 2, "num_steps": 9})
    session.set_phase("writing predictions")
    assert world.store.get(session.job.id).progress["step"] == 2, "the end of a phase"
    session.progress({"step": 9, "num_steps": 9})
    assert world.store.get(session.job.id).progress["step"] == 9, "the last step"


@pytest.mark.parametrize("is_finished", [True, False])
def test_the_last_progress_before_the_end_of_a_process_arrives(world, session, is_finished):
    session.progress({"step": 1})
    session.progress({"step": 2})
    session.finish("SUCCEEDED") if is_finished else session.close()
    assert world.store.get(session.job.id).progress["step"] == 2


def test_two_processes_share_a_token_and_a_metric_is_one_line(world, session, settings):
    with JobSession.open(settings, job_id=session.job.id, attempt=1, token=1) as rank_0:
        rank_0.log_metrics({"step": 1, "loss": 0.7})
        session.log_metrics({"epoch": 1, "accuracy": 0.5})
    assert world.store.metrics(session.job.id) == [{"step": 1, "loss": 0.7}, {"epoch": 1, "accuracy": 0.5}]


def test_success_carries_metrics_and_artefacts(world, session):
    artifacts = {"model": "/x/model", "plots": ["/x/a.png"]}
    assert session.finish("SUCCEEDED", metrics={"accuracy": 0.8}, artifacts=artifacts) is State.SUCCEEDED
    document = world.store.get(session.job.id).to_json()
    assert document["metrics"] == {"accuracy": 0.8}
    assert document["artifacts"] == {"dir": session.job.job_dir.uri, "predictions": None, **artifacts}
    with pytest.raises(LeaseLost):
        session.publish_checkpoint("late", 1)


def test_a_users_error_is_retried_max_retries_times_and_then_final(world, session, settings):
    assert session.finish(DataError("dev.jsonl:3 is broken.")) is State.RETRYING
    world.ray.ends(session.attempt.submission_id, "FAILED", exit_code=1)
    world.turn()
    world.passes(3)
    world.turn(2)
    with JobSession.open(settings, job_id=session.job.id, attempt=2, token=2) as second:
        assert second.finish(DataError("dev.jsonl:3 is broken.")) is State.FAILED
    job = world.store.get(session.job.id)
    assert (job.reason, job.message, job.num_charged) == ("DataError", "dev.jsonl:3 is broken.", 1)


def test_a_cancelled_driver_gets_the_command_and_ends_as_cancelled(world, session):
    assert session.command() is None
    world.store.cancel(session.job.id)
    session.set_phase("training")
    assert session.command() == "cancel" and session.command() == "cancel"
    assert session.finish(Cancelled("stopped")) is State.CANCELLED


def test_a_driver_that_was_stopped_from_outside_is_retried(world, session):
    assert session.finish(Cancelled("SIGTERM")) is State.RETRYING
    assert "DriverStopped" in world.store.get(session.job.id).message


def test_a_lost_lease_stays_lost(world, session):
    world.connection.client.hset(f"bj:job:{session.job.id}:a1", "ended_at", 1)
    with pytest.raises(LeaseLost):
        session.progress({"step": 1})
    world.connection.client.hdel(f"bj:job:{session.job.id}:a1", "ended_at")
    for call in (session.command, lambda: session.log_metrics({}), lambda: session.finish("SUCCEEDED")):
        with pytest.raises(LeaseLost):
            call()


def test_progress_while_redis_is_down_is_dropped_and_training_continues(session, monkeypatch, caplog):
    def down(*_, **__):
        raise RedisDown("Redis is away.")

    monkeypatch.setattr(session._connection, "run", down)
    session.progress({"step": 1})
    session.log_metrics({"loss": 1})
    session.set_phase("training")
    assert caplog.text.count("Redis is away.") == 2, "the metric was not even tried"
    monkeypatch.undo()
    session._progress.sent_at = session._offline_until = float("-inf")
    session.progress({"step": 2})
    assert session._has_stepped


def test_finishing_waits_for_a_restart_of_redis(redis_server, world, session):
    # On a busy disk Redis holds a write back, for at most two seconds, while it waits for an earlier one.
    while world.connection.client.info("persistence")["aof_buffer_length"]:
        pass
    redis_server.kill()
    finish, outages = session._store.end, []

    def end(*args, **kwargs):
        try:
            return finish(*args, **kwargs)
        except RedisDown:
            outages.append(1)
            redis_server.start()
            raise

    session._store.end = end
    assert session.finish("SUCCEEDED") is State.SUCCEEDED
    assert outages == [1] and world.store.get(session.job.id).state is State.SUCCEEDED


def test_a_success_is_in_storage_before_redis_is_told_and_stays_there(world, session, monkeypatch):
    monkeypatch.setattr("bertjobs.jobs.driver.session.OUTAGE_S", 0.0)
    with refusing_writes(world.connection.client, "OOM"), pytest.raises(RedisDown):
        session.finish("SUCCEEDED", metrics={"accuracy": 0.8}, artifacts={"model": "/x"})
    assert session.has_result and world.store.get(session.job.id).state is State.STARTING
    world.ray.ends(session.attempt.submission_id, "SUCCEEDED", exit_code=0)
    world.turn()
    job = world.store.get(session.job.id)
    assert (job.state, job.metrics, job.num_attempts) == (State.SUCCEEDED, {"accuracy": 0.8}, 1)


def test_a_driver_that_lost_its_lease_writes_no_result(session, connection):
    connection.client.hset(f"bj:job:{session.job.id}:a1", "token", 9)
    with pytest.raises(LeaseLost):
        session.set_phase("training")
    with pytest.raises(LeaseLost):
        session.finish("SUCCEEDED")
    assert not session.job.job_dir.exists("results")


def test_the_next_attempt_finds_a_result_that_could_not_be_read(world, session, settings):
    session.progress({"step": 1})
    session._store.end = lambda *_, **__: State.SUCCEEDED  # the call is lost
    session.finish("SUCCEEDED", metrics={"accuracy": 0.8})
    assert session.earlier_result() is None, "it is no earlier one"
    world.connection.client.hset(f"bj:job:{session.job.id}", "storage", "/nowhere")
    world.ray.ends(session.attempt.submission_id, "FAILED", exit_code=-9)
    world.turn()
    world.passes(5)
    world.connection.client.hset(f"bj:job:{session.job.id}", "storage", session.job.storage)
    world.turn(2)
    with JobSession.open(settings, job_id=session.job.id, attempt=2, token=2) as second:
        assert second.earlier_result().metrics == {"accuracy": 0.8}


@pytest.mark.parametrize("word", REFUSALS)
def test_a_driver_takes_a_redis_that_refuses_writes_for_an_outage(world, session, word, monkeypatch):
    client, store = world.connection.client, world.store
    session.progress({"step": 1})
    with refusing_writes(client, word):
        session.progress({"step": 2, "num_steps": 2})
        session.log_metrics({"loss": 1})
        session.set_phase("training")
        monkeypatch.setattr("bertjobs.jobs.driver.session.OUTAGE_S", 0.0)
        with pytest.raises(RedisDown):
            session.publish_checkpoint("step-2", 2)
        with pytest.raises(RedisDown):
            session.finish("SUCCEEDED")
    monkeypatch.undo()
    job = store.get(session.job.id)
    assert (job.state, job.checkpoint, job.attempt.ended_at) == (State.RUNNING, None, None)
    session.publish_checkpoint("step-2", 2)
    assert session.finish("SUCCEEDED") is State.SUCCEEDED


@pytest.mark.parametrize("word", REFUSALS)
def test_a_dispatcher_takes_a_redis_that_refuses_writes_for_an_outage(world, session, submit, word):
    waiting = submit()
    with refusing_writes(world.connection.client, word), pytest.raises(RedisDown):
        world.turn()
    world.dispatcher.reset()
    world.turn()
    assert world.store.get(session.job.id).state is State.STARTING
    assert world.store.get(waiting).reason == "InsufficientCpus", "the pass has looked at it"


def test_the_heartbeat_process_survives_a_redis_that_refuses_writes(world, session, monkeypatch):
    client, key = world.connection.client, f"bj:job:{session.job.id}:a1"
    monkeypatch.setenv("BERTJOBS_REDIS_URL", world.connection.where)
    monkeypatch.setenv("BERTJOBS_RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("BERTJOBS_LEASE_S", "0.5")
    with session.keep_alive():
        wait_for(lambda: client.hget(key, "heartbeat_at"))
        with refusing_writes(client, "OOM"):
            before = client.info("errorstats").get("errorstat_ERR", {"count": 0})["count"]
            wait_for(lambda: client.info("errorstats")["errorstat_ERR"]["count"] >= before + 3)
        last = client.hget(key, "heartbeat_at")
        wait_for(lambda: client.hget(key, "heartbeat_at") != last)
        assert session._heartbeat.process.poll() is None


def test_a_heartbeat_process_that_died_is_started_again(world, session, monkeypatch, caplog):
    client, key = world.connection.client, f"bj:job:{session.job.id}:a1"
    monkeypatch.setenv("BERTJOBS_REDIS_URL", world.connection.where)
    monkeypatch.setenv("BERTJOBS_RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("BERTJOBS_LEASE_S", "0.5")
    monkeypatch.setattr("bertjobs.jobs.driver.session.HEARTBEAT_RESTART_S", 0.0)
    with session.keep_alive():
        wait_for(lambda: client.hget(key, "heartbeat_at"))
        first = session._heartbeat.process
        first.kill()
        first.wait()
        client.hdel(key, "heartbeat_at")
        wait_for(lambda: client.hget(key, "heartbeat_at"))
        second = session._heartbeat.process
        assert second.pid != first.pid
    assert second.poll() is not None
    assert "the heartbeat process ended" in caplog.text


def wait_for(condition):
    """Poll another process; the deadline only bounds a failure."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


def test_of_two_drivers_of_one_attempt_the_first_works_and_the_second_is_refused(world, session, settings):
    session.start()
    with (
        JobSession.open(settings, job_id=session.job.id, attempt=1, token=1) as second,
        pytest.raises(LeaseLost),
    ):
        second.start()
    session.progress({"step": 1})
    assert world.store.get(session.job.id).state is State.RUNNING


class Clock:
    """Time for the session, which sleeps without waiting."""

    def __init__(self, now_s):
        self.now_s = now_s

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(time.monotonic())
    monkeypatch.setattr(session_module, "time", clock)
    monkeypatch.setattr(connection_module, "time", clock)
    return clock


def test_files_may_be_written_for_two_leases_after_an_answer_of_redis(session, clock, monkeypatch):
    asked = []
    monkeypatch.setattr(session._store, "report", lambda **news: asked.append(news) or "")
    clock.now_s += 2 * session._lease_s - 1
    session.confirm_lease()
    assert not asked, "the answer to `open` is recent enough"
    clock.now_s += 2
    session.confirm_lease()
    session.confirm_lease()
    assert asked == [{"is_alive": True}], "once: its answer counts for the next two leases"
    clock.now_s += 2 * session._lease_s - 1
    session.progress({"step": 1})
    clock.now_s += 2
    session.confirm_lease()
    assert len(asked) == 2, "so does the answer to a report of progress"


def test_a_worker_that_can_renew_nowhere_waits_and_then_ends_to_be_resumed(session, clock, monkeypatch):
    def down(**_):
        raise RedisDown("Redis is away")

    monkeypatch.setattr(session._store, "report", down)
    began = clock.now_s = clock.now_s + 2 * session._lease_s
    with pytest.raises(RedisDown) as raised:
        session.confirm_lease()
    assert clock.now_s - began >= session_module.OUTAGE_S
    decision = decide(failure_of(raised.value), num_faults=0, num_charged=0, max_retries=0)
    assert (decision.state, decision.charged) == (State.RETRYING, False)


def test_a_worker_whose_attempt_was_ended_meanwhile_writes_nothing(world, session, clock):
    world.driver(session.job.id).end(SUCCESS, nonce="n", metrics={}, artifacts={})
    clock.now_s += 2 * session._lease_s
    for _ in range(2):
        with pytest.raises(LeaseLost):
            session.confirm_lease()
