"""After a job's end its metrics are in storage and no longer in Redis, and are read as before."""

import shutil

import pytest

from bertjobs.jobs.job import State
from bertjobs.jobs.move_series import move_ended_series
from bertjobs.jobs.retry import SUCCESS, RetryDecision
from bertjobs.jobs.store.connection import NotLeader
from bertjobs.jobs.store.series import SERIES_FILE
from bertjobs.storage import StorageRoots

pytestmark = pytest.mark.redis

ANYWHERE = StorageRoots(None)
FAILED = RetryDecision(state=State.FAILED, reason="UserError", message="")


@pytest.fixture
def running(world, submit, tmp_path):
    """Start a job with three points of its curves."""
    job_id = submit(storage=str(tmp_path))
    world.turn()
    driver = world.driver(job_id)
    for step in (1, 2, 3):
        driver.log_metrics({"step": step, "loss": 1 / step})
    return job_id, driver


def steps(store, job_id):
    return [values["step"] for values in store.metrics(job_id)]


def stream_exists(connection, job_id):
    return bool(connection.client.exists(f"bj:job:{job_id}:metrics"))


def term_of(connection):
    return int(connection.client.get("bj:term"))


def gone(world, job_id, number=1):
    """Let the driver exit and the dispatcher see it."""
    world.ray.ends(f"bj-{job_id}-a{number}", "SUCCEEDED")
    world.turn()


def move(world, connection, roots=ANYWHERE):
    return move_ended_series(connection, term=term_of(connection), roots=roots)


def test_the_series_of_an_ended_job_moves_to_its_folder(world, store, connection, running, tmp_path):
    job_id, driver = running
    assert move(world, connection) == 0, "it runs"
    driver.end(SUCCESS, nonce="n", metrics={}, artifacts={})
    gone(world, job_id)
    before = store.metrics(job_id)
    assert move(world, connection) == 1
    assert not stream_exists(connection, job_id)
    assert store.metrics(job_id) == before
    assert (tmp_path / job_id / SERIES_FILE).read_text().count("\n") == 3
    assert move(world, connection) == 0
    assert not connection.client.zcard("bj:series")


def test_a_retried_job_adds_to_what_is_in_storage(world, store, connection, running):
    job_id, driver = running
    driver.end(FAILED, nonce="n", metrics={}, artifacts={})
    gone(world, job_id)
    move(world, connection)
    store.retry(job_id)
    world.turn()
    again = world.driver(job_id)
    again.log_metrics({"step": 4, "loss": 0.1})
    assert steps(store, job_id) == [1, 2, 3, 4]
    again.end(SUCCESS, nonce="n", metrics={}, artifacts={})
    gone(world, job_id, 2)
    assert move(world, connection) == 1
    assert steps(store, job_id) == [1, 2, 3, 4]


def test_the_series_of_a_job_that_is_retried_stays_in_redis(world, store, connection, running):
    job_id, driver = running
    again = RetryDecision(state=State.RETRYING, reason="BackoffUntil", message="", delay_s=60)
    driver.end(again, nonce="n", metrics={}, artifacts={})
    gone(world, job_id)
    assert move(world, connection) == 0
    assert stream_exists(connection, job_id)
    store.cancel(job_id)
    connection.client.zadd("bj:series", {job_id: 0})  # an hour later
    assert move(world, connection) == 1
    assert steps(store, job_id) == [1, 2, 3]


def test_a_series_stays_in_redis_where_storage_cannot_be_written(world, store, connection, running, tmp_path):
    job_id, driver = running
    world.turn()
    shutil.rmtree(tmp_path / job_id, ignore_errors=True)
    (tmp_path / job_id).write_text("a file where the folder should be")
    driver.end(FAILED, nonce="n", metrics={}, artifacts={})
    gone(world, job_id)
    assert move(world, connection) == 0
    assert stream_exists(connection, job_id)
    assert steps(store, job_id) == [1, 2, 3]
    (tmp_path / job_id).unlink()
    connection.client.zadd("bj:series", {job_id: 0})  # an hour later
    assert move(world, connection) == 1


def test_nothing_is_written_outside_the_storage_roots(world, connection, running, tmp_path):
    job_id, driver = running
    driver.end(FAILED, nonce="n", metrics={}, artifacts={})
    gone(world, job_id)
    assert move(world, connection, StorageRoots(["/elsewhere"])) == 0
    assert not (tmp_path / job_id / SERIES_FILE).exists()
    assert stream_exists(connection, job_id)


def test_a_dispatcher_that_no_longer_leads_removes_no_series(world, connection, running):
    job_id, driver = running
    driver.end(FAILED, nonce="n", metrics={}, artifacts={})
    gone(world, job_id)
    with pytest.raises(NotLeader):
        move_ended_series(connection, term=term_of(connection) - 1, roots=ANYWHERE)
    assert stream_exists(connection, job_id)


def test_a_long_series_is_read_in_pages(world, store, connection, running, monkeypatch):
    monkeypatch.setattr("bertjobs.jobs.store.series.PAGE", 2)
    assert steps(store, running[0]) == [1, 2, 3]
