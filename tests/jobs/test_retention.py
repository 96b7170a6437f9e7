"""What is removed of ended jobs in time, and what stays."""

import pytest

from bertjobs.jobs.job import State
from bertjobs.jobs.retention import CleanupThread, Retention
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.store.connection import JobUnknown
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.storage import StorageRoots

EVERYWHERE = StorageRoots(None)

pytestmark = pytest.mark.redis

KEPT = ["checkpoints/step-00000010/model", "checkpoints/step-00000020/model", "config.json", "model/weights"]
DROPPED = ["checkpoints/step-00000015/model", "logs/a1.log", "tensorboard/events"]


@pytest.fixture
def finished(world, submit, tmp_path):
    """Bring a job to its end with the folder of one that has worked."""

    def finished(**given):
        job_id = submit(storage=str(tmp_path), **given)
        world.turn()
        driver = world.driver(job_id)
        driver.report(progress={"step": 1})
        driver.publish_checkpoint("step-00000020", step=20)
        done = RetryDecision(state=State.SUCCEEDED, reason="", message="")
        driver.end(done, nonce="n", metrics={"best_step": 10}, artifacts={})
        for name in KEPT + DROPPED:
            path = tmp_path / job_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
        world.turn()
        return job_id

    return finished


@pytest.fixture
def later(connection):
    """Let the time of all ended jobs pass."""

    def later(seconds):
        for job_id, at in connection.client.zrange("bj:expiry", 0, -1, withscores=True):
            connection.client.zadd("bj:expiry", {job_id: at - 1000 * seconds})

    return later


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def everything(connection):
    return sorted(connection.client.keys("bj:job:*"))


def test_a_job_whose_retention_time_is_over_is_forgotten_and_its_results_stay(
    connection, store, finished, later, tmp_path
):
    job_id = finished(keep_s=60.0, idempotency_key="nightly")
    assert list(Retention(connection, roots=EVERYWHERE).clean()) == []
    later(61)
    (would,) = Retention(connection, roots=EVERYWHERE).clean(is_dry_run=True)
    assert files_of(tmp_path / job_id) == sorted(KEPT + DROPPED), "a dry run removes nothing"
    (cleaned,) = Retention(connection, roots=EVERYWHERE).clean()
    assert cleaned == would
    assert cleaned.is_forgotten
    assert cleaned.removed == ("logs", "tensorboard", "checkpoints/step-00000015")
    assert files_of(tmp_path / job_id) == sorted(KEPT)
    with pytest.raises(JobUnknown):
        store.get(job_id)
    assert everything(connection) == [] and store.list() == [] and sum(store.count().values()) == 0
    for index in ("bj:all", "bj:ids", "bj:expiry", "bj:idempotency"):
        assert not connection.client.exists(index), index
    assert list(Retention(connection, roots=EVERYWHERE).clean()) == []


def test_a_job_that_another_follows_or_uses_is_only_pruned_until_that_one_is_forgotten(
    connection, store, submit, finished, later, tmp_path
):
    for link in ("after", "uses"):
        model = finished(keep_s=1.0)
        user = submit(**{link: [model]})
        later(2)
        (cleaned,) = Retention(connection, roots=EVERYWHERE).clean()
        assert (cleaned.job_id, cleaned.is_forgotten) == (model, False)
        assert store.get(model).state is State.SUCCEEDED
        assert files_of(tmp_path / model) == sorted(KEPT)
        assert list(Retention(connection, roots=EVERYWHERE).clean()) == [], "nothing is left to do with it"
        store.cancel(user)
        cleaned_too = list(Retention(connection, roots=EVERYWHERE).clean(older_than_s=0))
        assert user in [job.job_id for job in cleaned_too if job.is_forgotten]
        list(Retention(connection, roots=EVERYWHERE).clean(older_than_s=0))
        with pytest.raises(JobUnknown):
            store.get(model)


def test_a_job_that_has_not_ended_or_whose_driver_may_run_is_never_touched(
    world, connection, store, submit, later, tmp_path
):
    running, waiting = submit(keep_s=1.0, storage=str(tmp_path)), submit(keep_s=1.0)
    world.turn()
    driver = world.driver(running)
    driver.report(progress={"step": 1})
    assert list(Retention(connection, roots=EVERYWHERE).clean(older_than_s=0)) == []
    driver.end(RetryDecision(state=State.FAILED, reason="", message=""), nonce="n", metrics={}, artifacts={})
    later(2)
    assert list(Retention(connection, roots=EVERYWHERE).clean()) == [], "its driver has not left"
    assert store.get(running).state is State.FAILED
    store.retry(running)
    assert connection.client.zcard("bj:expiry") == 0, "a job that was retried has not ended"
    assert {job.id for job in store.list()} == {running, waiting}


def test_a_failed_job_keeps_all_its_checkpoints(world, connection, store, submit, tmp_path):
    job_id = submit(storage=str(tmp_path))
    world.turn()
    driver = world.driver(job_id)
    driver.publish_checkpoint("step-00000020", step=20)
    driver.end(RetryDecision(state=State.FAILED, reason="", message=""), nonce="n", metrics={}, artifacts={})
    for step in (10, 20):
        (tmp_path / job_id / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    world.ray.ends(f"bj-{job_id}-a1", "FAILED", exit_code=1)
    world.turn()
    (cleaned,) = Retention(connection, roots=EVERYWHERE).clean(older_than_s=0)
    assert cleaned.is_forgotten
    assert len(list((tmp_path / job_id / "checkpoints").iterdir())) == 2


def test_the_leader_cleans_up_by_itself_and_a_standby_does_not(
    connection, store, world, finished, later, caplog
):
    job_id = finished(keep_s=1.0)
    later(2)
    CleanupThread(DispatchStore(connection, owner="standby", lease_s=60), roots=EVERYWHERE).clean()
    assert store.get(job_id).state is State.SUCCEEDED
    caplog.set_level("INFO")
    CleanupThread(world.dispatcher._store, roots=EVERYWHERE).clean()
    assert f"{job_id}: forgotten; removed from" in caplog.text
    assert store.list() == []


def test_forgetting_a_job_twice_changes_nothing_more(connection, finished, monkeypatch):
    finished()
    run = connection.run
    monkeypatch.setattr(
        connection, "run", lambda script, /, **arg: (run(script, **arg), run(script, **arg))[1]
    )
    (cleaned,) = Retention(connection, roots=EVERYWHERE).clean(older_than_s=0)
    assert cleaned.is_forgotten and everything(connection) == []


def test_beyond_their_number_the_oldest_ended_jobs_are_forgotten_unless_others_follow_them(
    world, finished, store, submit, connection
):
    followed, oldest, newer, newest = (finished() for _ in range(4))
    waiting = submit(after=[followed])
    dispatch = DispatchStore(connection, owner=str(connection.client.get("bj:leader")), lease_s=60)
    assert dispatch.lead()
    CleanupThread(dispatch, roots=EVERYWHERE, max_ended=2).clean()
    assert {job.id for job in store.list()} == {followed, newest, waiting}
    for gone in (oldest, newer):
        with pytest.raises(JobUnknown):
            store.get(gone)
    CleanupThread(dispatch, roots=EVERYWHERE, max_ended=2).clean()
    assert len(store.list()) == 3
