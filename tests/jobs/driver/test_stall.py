"""A stalled attempt is found, and nothing that still works is taken for one."""

import faulthandler
import signal
import subprocess
import sys

import pytest

from bertjobs.jobs.driver.heartbeat import CANCEL_TIMEOUT_S, EXIT_TIMEOUT_S, beat, command_of
from bertjobs.jobs.driver.stall import StallRule, StepTimes, dumping_stacks
from bertjobs.jobs.job import State
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.store.connection import RedisDown
from bertjobs.jobs.store.lease_store import Beat, LeaseStore


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def watch(*beats: Beat, timeout_s: float = 900.0, every_s: float = 3.0) -> list[bool]:
    clock = Clock()
    rule, found = StallRule(timeout_s=timeout_s, clock=clock), []
    for one in beats:
        found.append(rule.is_stalled(one))
        clock.now_s += every_s
    return found


def test_an_attempt_is_stalled_once_its_silence_is_confirmed_for_a_minute():
    beats = [Beat(command="", idle_s=890 + 3 * i, phase="loading the model") for i in range(30)]
    found = watch(*beats)
    assert found.index(True) == 24  # 4 beats until 900 s, 20 until the minute is over
    assert all(found[24:])


def test_twenty_median_steps_are_allowed_where_they_take_longer_than_the_timeout():
    slow = [Beat(command="", idle_s=1900, step_s=100.0)] * 30
    assert not any(watch(*slow))
    assert watch(*[Beat(command="", idle_s=2000, step_s=100.0)] * 30)[-1]


def test_starting_workers_has_a_deadline_of_its_own():
    assert not any(watch(*[Beat(command="", idle_s=5000, phase="starting workers")] * 30))


def test_the_minute_starts_again_after_a_report_and_after_an_outage_of_redis():
    old = Beat(command="", idle_s=1000)
    assert not any(watch(*[old] * 19, Beat(command="", idle_s=0.5), *[old] * 19))
    clock = Clock()
    rule = StallRule(timeout_s=900, clock=clock)
    for _ in range(3):
        assert not rule.is_stalled(old)
        clock.now_s += 40
        rule.forget()


def test_the_median_of_step_times_needs_five_and_ignores_a_first_step_that_compiles():
    clock = Clock()
    times = StepTimes(clock)
    for step, took_s in enumerate([0, 300, 1, 1, 1]):
        clock.now_s += took_s
        times.add(step)
        times.add(step)
        assert times.median_s() is None
    clock.now_s += 1
    times.add(5)
    assert times.median_s() == 1.0


class Driver:
    """A driver under `beat` that never exits; each wait takes ten seconds."""

    def __init__(self, replies) -> None:
        self.replies, self.clock, self.did = list(replies), Clock(), []

    def report(self) -> str:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def wait(self) -> bool:
        self.clock.now_s += 10
        return self.clock.now_s < 200

    def run(self) -> list[object]:
        beat(self.report, notify=self.did.append, wait=self.wait, kill=self.did.append, clock=self.clock)
        return self.did


def test_a_stalled_driver_writes_its_stacks_before_it_is_stopped_and_is_killed_if_it_stays():
    driver = Driver(["", "stalled"])
    assert driver.run() == [signal.SIGUSR1, "stalled", signal.SIGTERM, signal.SIGKILL]
    assert driver.clock.now_s == 10 + EXIT_TIMEOUT_S


@pytest.mark.redis
def test_redis_knows_of_the_stall_before_the_driver_is_stopped(world, submit, connection, let_pass):
    job_id = submit()
    world.turn()
    lease = world.driver(job_id)
    lease.report(phase="encoding")
    let_pass(1000)
    rule = StallRule(timeout_s=900, clock=(clock := Clock()))
    assert command_of(lease, rule) == ""
    clock.now_s += 60
    assert command_of(lease, rule) == "stalled"
    assert connection.client.hexists(f"bj:job:{job_id}:a1", "stalled_at")


@pytest.mark.redis
def test_evaluating_is_a_sign_of_life(world, submit, let_pass):
    job_id = submit()
    world.turn()
    lease = world.driver(job_id)
    lease.report(progress={"step": 1}, step_s=0.5)
    let_pass(1000)
    assert lease.beat().idle_s >= 1000
    lease.report(is_alive=True)
    found = lease.beat()
    assert found.idle_s < 60
    assert found.step_s == 0.5


def test_a_redis_that_is_away_makes_nobody_stalled():
    class Away(LeaseStore):
        def __init__(self) -> None:
            pass

        def beat(self, *, is_stalled: bool = False) -> Beat:
            raise RedisDown("away")

    rule = StallRule(timeout_s=900, clock=Clock())
    rule.is_stalled(Beat(command="", idle_s=1000))
    with pytest.raises(RedisDown):
        command_of(Away(), rule)
    assert not rule.is_stalled(Beat(command="", idle_s=1000))


def test_a_stall_is_retried_once():
    stalled = Failure(word="Stalled", message="No progress for 900 s")
    first = decide(stalled, num_faults=0, num_charged=0, max_retries=0, num_stalls=0)
    assert (first.state, first.charged, first.failure) == (State.RETRYING, False, "Stalled")
    second = decide(stalled, num_faults=0, num_charged=0, max_retries=5, num_stalls=1)
    assert (second.state, second.reason) == (State.FAILED, "Stalled")
    assert "an earlier attempt stalled too" in second.message


def test_a_worker_that_hangs_writes_its_stacks():
    code = (
        "from bertjobs.jobs.driver.stall import dumping_stacks\n"
        "import threading\n"
        "def hangs_here():\n"
        "    threading.Event().wait(2)\n"
        "with dumping_stacks(0.2):\n"
        "    hangs_here()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0
    assert "hangs_here" in ran.stderr


def test_the_timer_for_stacks_ends_with_its_block():
    with dumping_stacks(1000.0) as note:
        note()
    faulthandler.cancel_dump_traceback_later()


def test_the_driver_of_a_cancelled_job_that_ray_has_forgotten_is_killed():
    driver = Driver(["", "cancel"])
    assert driver.run() == ["cancel", signal.SIGTERM, signal.SIGKILL]
    assert driver.clock.now_s == 10 + CANCEL_TIMEOUT_S
