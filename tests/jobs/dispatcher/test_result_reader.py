"""Results are read beside the pass, and a lost driver's work counts once it is found."""

import pytest

from bertjobs.errors import StorageError
from bertjobs.jobs.attempt_result import AttemptResult, write_result
from bertjobs.jobs.dispatcher import result_reader
from bertjobs.jobs.dispatcher.result_reader import GIVE_UP_S, ResultReader
from bertjobs.jobs.job import State
from bertjobs.storage import JobDir, StorageRoots

pytestmark = pytest.mark.redis

RESULT = AttemptResult(metrics={"accuracy": 0.9}, artifacts={"model": "/x/model"})


@pytest.fixture
def running(world, submit, tmp_path):
    """A job that runs, whose storage can be written."""
    job_id = submit(storage=str(tmp_path))
    world.turn()
    world.driver(job_id).report(progress={"step": 1})
    world.turn()
    return job_id


def leave_result(world, job_id, *, attempt=1, token=1):
    job_dir = world.store.get(job_id).job_dir
    write_result(job_dir, job_id=job_id, attempt=attempt, token=token, result=RESULT)


def end_in_ray(world, job_id, status="SUCCEEDED", exit_code=0):
    world.ray.ends(f"bj-{job_id}-a1", status, exit_code=exit_code)


def test_a_success_of_which_redis_was_never_told_is_believed(world, running):
    leave_result(world, running)
    end_in_ray(world, running)
    world.turn(2)
    job = world.store.get(running)
    assert (job.state, job.metrics, job.num_attempts) == (State.SUCCEEDED, {"accuracy": 0.9}, 1)
    assert job.to_json()["artifacts"]["model"] == "/x/model"
    assert not world.connection.client.smembers("bj:live")


def test_a_driver_killed_after_its_result_has_succeeded(world, running):
    leave_result(world, running)
    end_in_ray(world, running, "FAILED", -9)
    world.turn()
    assert world.store.get(running).state is State.SUCCEEDED


def test_a_job_that_ray_has_forgotten_has_succeeded_where_it_left_a_result(world, running):
    leave_result(world, running)
    del world.ray.jobs[f"bj-{running}-a1"]
    world.passes(20)
    world.turn()
    assert world.store.get(running).state is State.SUCCEEDED


def test_a_cancelled_job_whose_work_was_done_has_succeeded(world, running):
    leave_result(world, running)
    world.store.cancel(running)
    end_in_ray(world, running, "STOPPED", None)
    world.turn()
    assert world.store.get(running).state is State.SUCCEEDED


def test_an_attempt_without_a_result_of_its_own_is_lost(world, running):
    leave_result(world, running, attempt=1, token=7)
    end_in_ray(world, running)
    world.turn()
    assert world.store.get(running).state is State.RETRYING


@pytest.mark.parametrize("fault", ["hangs", "fails"])
def test_a_storage_without_an_answer_holds_up_no_pass_and_is_given_up(world, running, monkeypatch, fault):
    reads = []
    results = world.dispatcher._supervisor._results
    monkeypatch.setattr(results, "_start", lambda read: reads.append(read) if fault == "hangs" else read())

    def fails(*_):
        reads.append(fails)
        raise StorageError("It is away")

    monkeypatch.setattr(JobDir, "exists", fails)
    end_in_ray(world, running)
    world.turn(3)
    assert world.store.get(running).state is State.RUNNING and len(reads) == 1
    world.passes(GIVE_UP_S)
    world.turn()
    assert world.store.get(running).state is State.RETRYING


def test_a_storage_that_answers_again_is_read_again(world, running, monkeypatch):
    leave_result(world, running)
    end_in_ray(world, running)

    def fails(*_, **__):
        raise StorageError("It is away")

    monkeypatch.setattr(result_reader, "read_result", fails)
    world.turn()
    assert world.store.get(running).state is State.RUNNING
    monkeypatch.undo()
    world.passes(5)
    world.turn()
    assert world.store.get(running).state is State.SUCCEEDED


def test_nothing_is_read_outside_the_places_of_storage(world, running, tmp_path):
    leave_result(world, running)
    (live,) = world.dispatcher._cache.attempts.all()
    reader = ResultReader(roots=StorageRoots([str(tmp_path / "elsewhere")]), start=lambda read: read())
    assert reader.ask(live) == (True, None)
    reader = ResultReader(roots=StorageRoots([str(tmp_path)]), start=lambda read: read())
    assert reader.ask(live) == (True, RESULT)
    reader.keep([])
    assert reader._readings == {}
