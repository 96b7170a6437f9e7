"""The dispatcher, turn by turn, between a real Redis and a fake Ray."""

import uuid
from types import SimpleNamespace

import pytest

from bertjobs.errors import LeaseLost
from bertjobs.jobs.dispatcher.attempt_policy import NoAction, ReleaseResources
from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.dispatcher.log_copier import MAX_TRIES
from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.ray.api import RayJob
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.scheduling.admission import MAX_STARTS
from bertjobs.jobs.scheduling.types import Node
from bertjobs.jobs.store.connection import NotLeader, RolledBack, WrongState
from bertjobs.jobs.store.dispatch_store import DispatchStore

pytestmark = pytest.mark.redis

GRANT = Grant(workers=1, cpus_per_worker=1.0, gpus_per_worker=0, data_cpus=1.0)
DONE = RetryDecision(state=State.SUCCEEDED, reason="", message="")


def running(world, submit, **given):
    """Submit a job and bring it to RUNNING."""
    job_id = submit(**given)
    world.turn()
    world.driver(job_id).report(progress={"step": 1})
    return job_id


def finish(world, job_id):
    world.driver(job_id).end(DONE, nonce=uuid.uuid4().hex, metrics={"accuracy": 1.0}, artifacts={})


def test_a_job_goes_from_the_queue_to_success_and_frees_what_it_held(world, submit):
    job_id, second = submit(), submit()
    world.turn()
    job = world.store.get(job_id)
    assert job.state is State.STARTING and job.attempt.submission_id == f"bj-{job_id}-a1"
    assert world.ray.jobs[f"bj-{job_id}-a1"].message.endswith(f"-m bertjobs.runs {job_id} 1 1")
    assert world.store.get(second).reason == "InsufficientCpus"
    world.driver(job_id).report(progress={"step": 1})
    assert world.store.get(job_id).state is State.RUNNING
    finish(world, job_id)
    world.turn()
    assert world.store.get(second).state is State.QUEUED, "the driver has not left yet"
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    world.turn()
    assert world.store.get(second).state is State.STARTING
    done = world.store.get(job_id)
    assert (
        done.state is State.SUCCEEDED and done.metrics == {"accuracy": 1.0} and done.attempt.log_is_complete
    )


def test_a_job_that_exceeds_the_cluster_waits_with_advice_and_can_be_cancelled(world, submit):
    job_id, small = submit(resources={"gpus": 8}), submit()
    world.turn(3)
    job = world.store.get(job_id)
    assert (job.state, job.reason) == (State.QUEUED, "ExceedsCluster")
    assert job.message.startswith("Needs 8 GPUs, the cluster has 0. Submit with --gpus 0 to train on CPUs")
    assert world.store.get(small).state is State.STARTING, "it holds nobody up"
    assert len(world.store.events(job_id)) == 1, "waiting is no event"
    assert world.store.cancel(job_id).state is State.CANCELLED


def test_while_ray_is_down_jobs_stay_queued_and_start_when_it_is_back(world, submit):
    world.ray.is_down = True
    job_id = submit()
    world.turn(2)
    job = world.store.get(job_id)
    assert (job.state, job.reason, job.num_attempts) == (State.QUEUED, "RayUnreachable", 0)
    world.ray.is_down = False
    world.turn()
    assert world.store.get(job_id).state is State.STARTING


def test_a_start_whose_answer_is_lost_is_adopted_not_repeated(world, submit):
    world.ray.loses_answers = True
    job_id = submit()
    world.turn()
    world.ray.loses_answers = False
    world.turn(2)
    assert list(world.ray.jobs) == [f"bj-{job_id}-a1"]
    world.driver(job_id).report(progress={"step": 1})
    world.turn()
    assert world.store.get(job_id).state is State.RUNNING


def test_ray_going_down_between_grant_and_start_sends_the_same_id_later(world, submit):
    job_id = submit()
    start, world.ray.start = world.ray.start, lambda *_, **__: world.ray._answer()
    world.ray.is_down = False
    world.turn()  # carried out without an effect: as if the request had been lost
    world.connection.client.hdel(f"bj:job:{job_id}:a1", "submitted_at")
    world.ray.start = start
    world.turn()
    assert list(world.ray.jobs) == [f"bj-{job_id}-a1"]


def test_a_refused_start_is_retried_uncharged_and_fails_in_the_end(world, submit):
    world.ray.refuses = True
    job_id = submit()
    for _ in range(40):
        world.turn()
        world.passes(400)
    job = world.store.get(job_id)
    assert (job.state, job.reason, job.num_charged) == (State.FAILED, "SubmitFailed", 0)
    assert "Given up after 7 faults" in job.message and job.num_attempts == 7


def test_a_killed_driver_is_detected_by_its_exit_code_and_resumes_from_its_checkpoint(world, submit):
    job_id = running(world, submit)
    world.driver(job_id).publish_checkpoint("step-10", step=10)
    world.ray.ends(f"bj-{job_id}-a1", "FAILED", exit_code=-9, message="killed")
    world.turn()
    job = world.store.get(job_id)
    assert (job.state, job.attempt.reason, job.num_charged) == (State.RETRYING, "BackoffUntil", 0)
    assert "DriverLost" in job.message
    world.passes(5)
    world.turn(2)
    again = world.store.get(job_id)
    assert (again.state, again.num_attempts, again.checkpoint) == (State.STARTING, 2, "step-10")
    assert again.attempt.token == 2


def test_a_ray_job_that_says_failed_while_its_driver_heartbeats_is_not_dead(world, submit):
    job_id = running(world, submit)
    world.ray.ends(f"bj-{job_id}-a1", "FAILED", message="Job supervisor actor died")
    world.turn()
    world.passes(10)
    world.driver(job_id).report()
    world.passes(10)
    world.turn()
    assert world.store.get(job_id).state is State.RUNNING
    world.passes(15)
    world.turn()
    assert world.store.get(job_id).state is State.RETRYING


def test_a_silent_driver_is_stopped_and_only_then_replaced(world, submit):
    job_id = running(world, submit)
    old = world.driver(job_id)
    world.passes(16)
    world.turn(3)
    assert world.ray.stops == [f"bj-{job_id}-a1"], "asked once, not with every turn"
    assert world.store.get(job_id).state is State.RUNNING, "not dead until Ray says so"
    world.passes(11)
    world.turn()
    assert len(world.ray.stops) == 2, "a stop may be lost: it is asked again"
    world.ray.ends(f"bj-{job_id}-a1", "STOPPED")
    world.turn()
    world.passes(5)
    world.turn(2)
    assert world.store.get(job_id).attempt.token == 2
    for write in (
        old.report,
        lambda: old.publish_checkpoint("stale", step=99),
        lambda: old.log_metrics({"loss": 0}),
        lambda: old.end(DONE, nonce="x", metrics={}, artifacts={}),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert world.store.get(job_id).checkpoint is None


def test_no_second_attempt_starts_while_the_first_is_not_known_to_be_gone(world, submit):
    job_id = running(world, submit)
    failed = RetryDecision(state=State.FAILED, reason="DataError", message="broken")
    world.driver(job_id).end(failed, nonce="n", metrics={}, artifacts={})
    world.store.retry(job_id)
    world.turn(2)
    job = world.store.get(job_id)
    assert (job.state, job.reason, job.num_attempts) == (State.QUEUED, "LastAttemptAlive", 1)
    with pytest.raises(WrongState, match="still running its last attempt"):
        world.dispatcher._store.claim(job_id, grant=job.attempt.grant, placement={})
    world.ray.ends(f"bj-{job_id}-a1", "FAILED", exit_code=1)
    world.turn()
    assert world.store.get(job_id).num_attempts == 2


def test_silence_while_redis_was_down_does_not_count_against_the_driver(world, submit):
    job_id = running(world, submit)
    world.passes(100)
    world.dispatcher.reset()
    world.turn()
    assert world.ray.stops == []
    world.passes(16)
    world.turn()
    assert world.ray.stops == [f"bj-{job_id}-a1"]


def test_a_new_dispatcher_adopts_what_runs(world, submit):
    job_id = running(world, submit)
    world.restart_dispatcher()
    world.turn(2)
    assert world.store.get(job_id).state is State.RUNNING and len(world.ray.jobs) == 1
    finish(world, job_id)
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    world.turn()
    assert world.store.get(job_id).attempt.log_is_complete


def test_of_two_dispatchers_one_waits_and_the_old_one_is_fenced_off(world, submit):
    world.turn()
    second = world.new_dispatcher(owner="other:2")
    assert not second.run_pass()
    assert world.store.dispatcher() == "host:0.0"
    world.connection.client.delete("bj:leader")  # the first one slept through its lease
    assert second.run_pass()
    submit()
    with pytest.raises(NotLeader):
        world.dispatcher._store.promote()
    assert not world.dispatcher.run_pass()


def test_cancelling_tells_the_driver_and_stops_it_when_it_does_not_exit(world, submit):
    job_id = running(world, submit)
    assert world.store.cancel(job_id, by="ada").state is State.CANCELLING
    assert world.driver(job_id).report() == "cancel"
    world.turn()
    assert world.ray.stops == []
    world.passes(10)
    world.driver(job_id).report()
    world.passes(11)
    world.turn()
    assert world.ray.stops == [f"bj-{job_id}-a1"]
    world.ray.ends(f"bj-{job_id}-a1", "STOPPED")
    world.turn()
    job = world.store.get(job_id)
    assert (job.state, job.reason, job.message) == (State.CANCELLED, "Cancelled", "Cancelled by ada.")


def test_a_job_cancelled_before_ray_took_it_ends_without_a_driver(world, submit):
    job_id = submit()
    world.ray.loses_answers = True
    world.turn()
    world.ray.jobs.clear()
    world.connection.client.hdel(f"bj:job:{job_id}:a1", "submitted_at")
    world.store.cancel(job_id)
    world.turn(2)
    assert world.store.get(job_id).state is State.CANCELLED and world.ray.jobs == {}
    assert world.connection.client.scard("bj:live") == 0


def test_a_driver_that_finished_before_it_read_the_cancel_command_has_succeeded(world, submit):
    job_id = running(world, submit)
    world.store.cancel(job_id)
    finish(world, job_id)
    assert world.store.get(job_id).state is State.SUCCEEDED


def test_a_job_over_its_time_limit_is_told_to_stop_and_times_out(world, submit):
    job_id = running(world, submit, time_limit_s=60)
    world.passes(61)
    world.driver(job_id).report()
    world.turn()
    assert world.store.get(job_id).state is State.CANCELLING
    assert world.driver(job_id).report() == "cancel"
    stopped = RetryDecision(state=State.CANCELLED, reason="Cancelled", message="stopped")
    world.driver(job_id).end(stopped, nonce="n", metrics={}, artifacts={})
    job = world.store.get(job_id)
    assert (job.state, job.reason) == (State.TIMED_OUT, "TimeLimit")
    assert world.store.retry(job_id).used_s == 0


def test_a_gang_that_never_starts_is_stopped_at_the_start_deadline(world, submit):
    job_id = submit()
    world.turn()
    world.driver(job_id).report(phase="starting workers")
    for _ in range(70):
        world.passes(14)
        world.driver(job_id).report()
        world.turn()
    assert world.ray.stops[0] == f"bj-{job_id}-a1"
    world.ray.ends(f"bj-{job_id}-a1", "STOPPED")
    world.turn()
    assert "StartDeadline" in world.store.get(job_id).message


def test_a_driver_that_ended_before_its_first_report_shows_rays_message(world, submit):
    job_id = submit()
    world.turn()
    world.ray.ends(f"bj-{job_id}-a1", "FAILED", exit_code=1, message="No module named bertjobs")
    world.turn()
    job = world.store.get(job_id)
    assert job.state is State.RETRYING and "SubmitFailed" in job.message
    assert "No module named bertjobs" in job.message


def test_a_ray_that_was_restarted_and_forgot_a_silent_driver_gets_a_new_attempt(world, submit):
    job_id = running(world, submit)
    world.ray.jobs.clear()
    world.turn()
    assert world.store.get(job_id).state is State.RUNNING
    world.passes(16)
    world.turn()
    job = world.store.get(job_id)
    assert job.state is State.RETRYING and "no longer knows" in job.message


def test_a_job_waits_for_its_dependency_and_fails_with_it(world, submit):
    first = submit()
    second = submit(after=[first])
    third = submit(after=[second])
    world.turn()
    assert world.store.get(second).reason == "WaitingForDependency"
    world.driver(first).end(
        RetryDecision(state=State.FAILED, reason="DataError", message="broken"),
        nonce="n",
        metrics={},
        artifacts={},
    )
    world.turn(2)
    ended = [world.store.get(job_id) for job_id in (second, third)]
    assert [(job.state, job.reason) for job in ended] == [(State.FAILED, "DependencyFailed")] * 2
    assert ended[0].message == f"{first}, which must succeed first, ended as FAILED."


def test_two_gangs_that_each_need_the_whole_cluster_run_one_after_the_other(world, submit):
    world.ray.nodes = [Node(id=f"n{i}", cpus=16, gpus=4) for i in range(2)]
    gangs = [submit(resources={"gpus": 8}) for _ in range(2)]
    world.turn(3)
    states = [world.store.get(job_id).state for job_id in gangs]
    assert states == [State.STARTING, State.QUEUED]
    assert world.store.get(gangs[1]).message == "Needs 8 GPUs, 0 free."


def test_the_log_is_copied_while_it_grows_and_once_more_at_the_end(world, submit, tmp_path):
    job_id = running(world, submit, storage=str(tmp_path))
    submission = f"bj-{job_id}-a1"
    world.ray.logs[submission] = "one\n"
    world.passes(2)
    world.turn()
    copy = tmp_path / job_id / log_name(1)
    assert copy.read_text() == "one\n"
    finish(world, job_id)
    world.ray.logs[submission] = "one\ntwo\n"
    world.ray.ends(submission, "SUCCEEDED")
    world.turn()
    assert copy.read_text() == "one\ntwo\n"


def test_a_storage_that_cannot_be_written_does_not_stop_the_dispatcher(world, submit, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    job_id = running(world, submit, storage=str(tmp_path / "file"))
    world.ray.logs[f"bj-{job_id}-a1"] = "one\n"
    world.passes(2)
    world.turn()
    assert "its log is not copied" in caplog.text
    finish(world, job_id)
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    for _ in range(MAX_TRIES):
        assert not world.store.get(job_id).attempt.log_is_final
        world.turn()
        world.passes(60)
    attempt = world.store.get(job_id).attempt
    assert attempt.log_is_final and not attempt.log_is_complete
    assert "its log is incomplete" in caplog.text


def test_the_nodes_that_a_driver_reports_replace_the_planned_placement(world, submit):
    world.ray.nodes = [Node(id="n1", cpus=8, gpus=4), Node(id="n2", cpus=8, gpus=4)]
    job_id = submit(resources={"gpus": 4})
    world.turn()
    world.driver(job_id).report(nodes=["n2"] * 4)
    _, (live,) = world.dispatcher._store.live()
    assert list(live.placement) == ["n2"] and live.placement["n2"][1] == 4


def test_a_pass_starts_at_most_max_starts_jobs_and_the_next_follows_at_once(world, submit):
    world.ray.nodes = [Node(id=f"n{n}", cpus=64, gpus=8) for n in range(MAX_STARTS // 8 + 2)]
    for _ in range(MAX_STARTS + 3):
        submit(resources={"gpus": 1})
    world.turn()
    assert (len(world.ray.jobs), world.dispatcher.has_more) == (MAX_STARTS, True)
    world.turn()
    assert (len(world.ray.jobs), world.dispatcher.has_more) == (MAX_STARTS + 3, False)


def test_a_ray_job_has_the_job_and_its_user_as_metadata(world, submit):
    job_id = submit(name="first", user="ada")
    world.turn()
    assert world.ray.metadata[f"bj-{job_id}-a1"] == {
        "job_id": job_id,
        "kind": "finetune",
        "name": "first",
        "user": "ada",
    }


def test_an_attempt_whose_end_redis_has_lost_is_not_taken_for_gone(world, submit):
    job_id = running(world, submit)
    world.turn()
    (live,) = world.dispatcher._cache.attempts.all()
    # The race: its end was seen, then Redis was rolled back to before it.
    world.dispatcher._store.note_gone(live)
    client = world.connection.client
    assert client.smembers("bj:live") == {f"{job_id} 1"}
    assert not client.hexists(f"bj:job:{job_id}:a1", "gone_at")
    finish(world, job_id)
    world.dispatcher._store.note_gone(live)
    assert not client.smembers("bj:live")


@pytest.fixture
def dispatch_store(connection):
    """A leader that has read the changes once, as at the start of a pass."""
    store = DispatchStore(connection, owner="d1", lease_s=3600)
    store.lead()
    store.changes(since=-1)
    return store


@pytest.mark.parametrize("what", ["changes", "a claim"])
def test_nothing_is_claimed_once_redis_has_lost_what_admission_counted(
    dispatch_store, connection, submit, what
):
    first, second = submit(), submit()
    mark_before = connection.client.get("bj:mark")
    if what == "changes":
        dispatch_store.changes(since=0)
    else:
        dispatch_store.claim(first, grant=GRANT, placement={})
    connection.client.set("bj:mark", mark_before)  # what a Redis holds that was rolled back to before
    with pytest.raises(RolledBack, match="Redis has lost its last seconds"):
        dispatch_store.claim(second, grant=GRANT, placement={})
    assert connection.client.hget(f"bj:job:{second}", "state") == "QUEUED"
    dispatch_store.changes(since=-1)  # everything is read again
    assert dispatch_store.claim(second, grant=GRANT, placement={}).number == 1


def test_an_attempt_holds_its_grant_until_its_actors_are_dead_whatever_rays_record_says(world, submit):
    first, second = running(world, submit), submit()
    world.driver(first).end(DONE, nonce=uuid.uuid4().hex, metrics={}, artifacts={})
    # Ray's monitor has lost contact: the record says FAILED, driver and workers live on.
    world.ray.jobs[f"bj-{first}-a1"] = RayJob(status="FAILED", message="monitor", has_actors=True)
    world.turn(2)
    assert world.store.get(second).state is State.QUEUED
    world.passes(21)
    world.turn()
    assert world.ray.stops == [f"bj-{first}-a1"]
    world.ray.jobs[f"bj-{first}-a1"] = RayJob(status="FAILED", message="monitor")
    world.turn()
    assert world.store.get(second).state is State.STARTING


def test_until_the_poller_has_asked_for_its_actors_an_attempt_is_not_gone(world, submit, monkeypatch):
    job_id = running(world, submit)
    finish(world, job_id)
    supervisor = world.dispatcher._supervisor
    seen = RayJob(status="RUNNING", message="")
    monkeypatch.setattr(supervisor, "_poller", SimpleNamespace(job=lambda _: seen))
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    (live,) = world.dispatcher._store.live()[1]
    assert isinstance(supervisor._check(live)[0], NoAction)
    seen = RayJob(status="SUCCEEDED", message="")
    assert isinstance(supervisor._check(live)[0], ReleaseResources)
