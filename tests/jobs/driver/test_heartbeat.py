"""The heartbeat process: what it reports, and when it stops the driver."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bertjobs.errors import LeaseLost
from bertjobs.jobs.driver.heartbeat import EXIT_TIMEOUT_S, beat
from bertjobs.jobs.job import State
from bertjobs.jobs.store.connection import RedisDown

pytestmark = pytest.mark.redis


def wait_for(condition):
    """Poll another process; the deadline only bounds a failure."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


class Driver:
    """Drives `beat` with scripted replies; each wait takes a second."""

    def __init__(self, replies, *, num_beats=50):
        self.replies, self.num_beats, self.now_s = list(replies), num_beats, 0.0
        self.signals, self.words = [], []

    def report(self):
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def wait(self):
        self.now_s += 1
        self.num_beats -= 1
        return self.num_beats > 0

    def run(self):
        beat(
            self.report,
            notify=self.words.append,
            wait=self.wait,
            kill=self.signals.append,
            clock=lambda: self.now_s,
        )
        return self.signals


def test_the_heartbeat_stops_a_cancelled_driver_once_and_keeps_its_lease():
    driver = Driver(["", "cancel"])
    assert driver.run() == [signal.SIGTERM]
    assert (driver.words, driver.num_beats) == (["cancel"], 0)


def test_the_heartbeat_kills_a_driver_that_lost_its_lease_and_does_not_exit():
    driver = Driver(["", LeaseLost("gone")])
    assert driver.run() == [signal.SIGTERM, signal.SIGKILL]
    assert (driver.words, driver.now_s) == (["lost"], 1 + EXIT_TIMEOUT_S)


def test_the_heartbeat_survives_an_outage_of_redis_and_exits_after_the_end():
    assert Driver([RedisDown("away"), "", "ended"]).run() == []


def test_the_heartbeat_is_a_process_of_its_own_that_ends_with_the_block(world, session, monkeypatch):
    monkeypatch.setenv("BERTJOBS_REDIS_URL", world.connection.where)
    monkeypatch.setenv("BERTJOBS_RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("BERTJOBS_LEASE_S", "0.5")
    key = f"bj:job:{session.job.id}:a1"
    with session.keep_alive():
        heard = [wait_for(lambda: world.connection.client.hget(key, "heartbeat_at"))]
        heard.append(wait_for(lambda: other(world.connection.client.hget(key, "heartbeat_at"), heard[0])))
    assert heard[0] < heard[1]


def test_a_cancellation_reaches_a_busy_driver_as_sigterm(world, started, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        "import signal, sys\n"
        "from bertjobs.errors import Cancelled\n"
        "from bertjobs.jobs.driver.session import JobSession\n"
        "from bertjobs.settings import load_settings\n"
        "def stop(*_): raise Cancelled('told to stop')\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"session = JobSession.open(load_settings(), job_id={started!r}, attempt=1, token=1)\n"
        "try:\n"
        "    with session.keep_alive():\n"
        "        session.set_phase('busy')\n"
        "        while True: pass\n"
        "except Cancelled as e:\n"
        "    assert session.command() == 'cancel'\n"
        "    session.finish(e)\n"
    )
    env = {
        **os.environ,
        "BERTJOBS_REDIS_URL": world.connection.where,
        "BERTJOBS_RAY_ADDRESS": "http://127.0.0.1:1",
        "BERTJOBS_LEASE_S": "0.5",
    }
    with subprocess.Popen([sys.executable, script], env=env) as driver:
        wait_for(lambda: world.store.get(started).phase == "busy")
        world.store.cancel(started)
        assert driver.wait(timeout=60) == 0
    assert world.store.get(started).state is State.CANCELLED


def other(value, than):
    return value if value != than else None
