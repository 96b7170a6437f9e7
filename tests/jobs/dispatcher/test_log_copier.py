"""Logs are copied beside the pass: one that cannot be read, or storage that hangs, concerns that log only."""

import threading
import uuid

import pytest

from bertjobs.jobs.dispatcher import driver_log
from bertjobs.jobs.dispatcher.driver_log import MAX_COPY_S, BoundedLog, LogCopy, LogTooSlow, log_name
from bertjobs.jobs.dispatcher.log_copier import MAX_CONCURRENT_COPIES, MAX_TRIES, STUCK_S
from bertjobs.jobs.job import State
from bertjobs.jobs.ray.api import RayUnreachable
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.scheduling.types import Node
from bertjobs.storage import JobDir

pytestmark = pytest.mark.redis

DONE = RetryDecision(state=State.SUCCEEDED, reason="", message="")


def exited(world, submit, **given):
    """Bring a job to its end, and let its driver exit. No pass has seen it."""
    job_id = submit(**given)
    world.dispatcher.run_pass()
    world.driver(job_id).report(progress={"step": 1})
    world.driver(job_id).end(DONE, nonce=uuid.uuid4().hex, metrics={}, artifacts={})
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    return job_id


def attempt_of(world, job_id):
    return world.store.get(job_id).attempt


def unreadable(submission_id):
    raise RayUnreachable("The log took too long.")


def test_a_log_that_cannot_be_read_keeps_no_grant_and_says_nothing_about_ray(world, submit, tmp_path):
    world.ray.log = unreadable
    job_id = exited(world, submit, storage=str(tmp_path))
    second = submit()
    for _ in range(3):
        world.passes(5)
        world.turn()
    assert world.store.get(second).state is State.STARTING, "what the first one held is free"
    assert world.connection.client.smembers("bj:live") == {f"{second} 1"}
    assert not world.dispatcher._supervisor.unreachable
    assert not attempt_of(world, job_id).log_is_final


def test_no_log_is_fetched_and_no_storage_is_touched_inside_a_pass(world, submit, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("inside a pass")

    world.ray.log = refuse
    monkeypatch.setattr(JobDir, "write_bytes", refuse)
    job_id = exited(world, submit)
    for _ in range(3):
        assert world.dispatcher.run_pass()
    assert world.connection.client.scard("bj:live") == 0
    assert world.store.get(job_id).state is State.SUCCEEDED


def test_a_log_that_stays_unreadable_is_given_up_and_is_incomplete(world, submit, tmp_path, caplog):
    world.ray.log = unreadable
    job_id = exited(world, submit, storage=str(tmp_path))
    for _ in range(MAX_TRIES):
        assert not attempt_of(world, job_id).log_is_final
        world.turn()
        world.passes(60)
    attempt = attempt_of(world, job_id)
    assert (attempt.log_is_final, attempt.log_is_complete) == (True, False)
    assert attempt.to_json()["log"] == "incomplete"
    assert not world.connection.client.exists("bj:logs")
    warnings = [text for text in caplog.messages if "its log is" in text]
    assert len(warnings) == 2, "the first failure and the last, not each of them"


def test_the_next_dispatcher_copies_what_an_earlier_one_left(world, submit, tmp_path):
    job_id = exited(world, submit, storage=str(tmp_path))
    world.ray.logs[f"bj-{job_id}-a1"] = "last words\n"
    world.dispatcher.run_pass()  # gone, and killed before its log was copied
    assert world.connection.client.smembers("bj:logs") == {f"{job_id} 1"}
    world.restart_dispatcher()
    world.turn()
    assert (tmp_path / job_id / log_name(1)).read_text() == "last words\n"
    assert attempt_of(world, job_id).log_is_complete
    assert not world.connection.client.exists("bj:logs")


def test_a_dispatcher_that_stands_by_copies_nothing(world, submit, tmp_path):
    job_id = exited(world, submit, storage=str(tmp_path))
    world.dispatcher.run_pass()
    world.connection.client.set("bj:leader", "another")
    assert not world.dispatcher.run_pass()
    world.logs.copy_due()
    assert not (tmp_path / job_id).exists() and not attempt_of(world, job_id).log_is_final


def test_a_log_that_ray_has_lost_meanwhile_is_incomplete_and_its_copy_stays(world, submit, tmp_path):
    job_id = submit(storage=str(tmp_path))
    world.turn()
    world.driver(job_id).report(progress={"step": 1})
    world.ray.logs[f"bj-{job_id}-a1"] = "one\n"
    world.passes(2)
    world.turn()
    world.ray.logs.clear()
    world.driver(job_id).end(DONE, nonce="n", metrics={}, artifacts={})
    world.ray.ends(f"bj-{job_id}-a1", "SUCCEEDED")
    world.turn()
    assert (tmp_path / job_id / log_name(1)).read_text() == "one\n"
    attempt = attempt_of(world, job_id)
    assert attempt.log_is_final and not attempt.log_is_complete


def test_copies_that_hang_are_given_up_and_the_other_logs_are_copied(world, submit, tmp_path):
    world.ray.nodes = [Node(id="n1", cpus=64, gpus=0)]
    released, log = threading.Event(), world.ray.log
    hanging = [
        exited(world, submit, storage=str(tmp_path), resources={"cpus_per_worker": 1})
        for _ in range(MAX_CONCURRENT_COPIES)
    ]
    world.dispatcher.run_pass()

    def hang(submission_id):
        if submission_id.split("-a")[0].removeprefix("bj-") in hanging:
            assert released.wait(60)
        return log(submission_id)

    world.ray.log = hang
    world.logs._start_due()
    other = exited(world, submit, storage=str(tmp_path))
    world.dispatcher.run_pass()
    world.ray.logs[f"bj-{other}-a1"] = "one\n"
    world.logs._start_due()
    assert world.logs._logs[f"bj-{other}-a1"].busy_since is None, "four hang, and do not count as hung yet"
    world.now_s += STUCK_S
    for _ in range(2):  # the first gives up what hangs, the second writes it down
        world.logs._start_due()
        for thread in threading.enumerate():
            if thread.name == "log-copy" and thread not in world.logs._hung:
                thread.join(60)
    assert (tmp_path / other / log_name(1)).read_text() == "one\n"
    assert attempt_of(world, other).log_is_complete
    for job_id in hanging:
        attempt = attempt_of(world, job_id)
        assert attempt.log_is_final and not attempt.log_is_complete
    hung = list(world.logs._hung)
    assert len(hung) == MAX_CONCURRENT_COPIES
    released.set()
    for thread in hung:
        thread.join(60)
    assert not attempt_of(world, hanging[0]).log_is_complete, "its thread changes nothing when it returns"


def test_of_a_long_log_the_beginning_and_the_end_are_kept(monkeypatch):
    monkeypatch.setattr(driver_log, "HEAD_BYTES", 100)
    monkeypatch.setattr(driver_log, "TAIL_BYTES", 200)
    lines = [f"line {n}\n".encode() for n in range(1000)]
    short, long = BoundedLog(), BoundedLog()
    for line in lines[:30]:
        short.add(line)
    assert short.content() == b"".join(lines[:30])
    for first in range(0, 1000, 7):
        long.add(b"".join(lines[first : first + 7]))
    head, _, rest = long.content().partition(b"\n[bertjobs: ")
    num_missing = int(rest.split()[0])
    tail = rest.partition(b"]\n\n")[2]
    assert head and b"".join(lines).startswith(head) and head.endswith(b"\n")
    assert tail and b"".join(lines).endswith(tail) and tail.startswith(b"line ")
    assert num_missing == len(b"".join(lines)) - len(head) - len(tail)
    assert len(long._head) + len(long._tail) <= 100 + 300


def test_a_log_that_comes_too_slowly_is_given_up_for_now(tmp_path):
    now = [0.0]

    def fetch():
        while True:
            now[0] += MAX_COPY_S / 2
            yield b"x"

    copy = LogCopy(JobDir(str(tmp_path), "j-000000000"), 1, clock=lambda: now[0])
    with pytest.raises(LogTooSlow, match="not fetched within 60 s"):
        copy.update(fetch)
    assert not (tmp_path / "j-000000000").exists()
