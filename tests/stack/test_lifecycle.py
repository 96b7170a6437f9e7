"""Start, repair and stop of all members, with light stand-ins for Ray and the dispatcher."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from bertjobs import stack
from bertjobs.errors import ConfigError
from bertjobs.settings import load_settings
from bertjobs.stack import lifecycle, lock, process, ray_head
from bertjobs.stack.process import read_record

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("stand_ins")]

WATCHED = ("redis", "ray", "dispatcher")


def start(settings, paths, members=WATCHED):
    """What `ensure` does, without the watchdog: it is a process of its own and knows no stand-ins."""
    paths.make_folders()
    said = []
    with lock.hold(paths.lock, timeout_s=30, busy="") as fd:
        lifecycle.start_missing(settings, members=members, lock_fd=fd, announce=said.append)
    return said


def environment_of(paths, member):
    """What the running stand-in printed; it may still be starting."""
    record = read_record(paths.record_file(member))
    while True:
        found = [json.loads(line) for line in lines_of(paths, member)]
        if found and found[-1]["PID"] == str(record.pid):
            return {name: value for name, value in found[-1].items() if name != "PID"}
        assert record.is_alive, found


def lines_of(paths, member):
    """The complete lines of a log."""
    return paths.log_file(member).read_text().rpartition("\n")[0].splitlines()


def test_all_members_start_and_the_second_time_none(settings, paths):
    assert start(settings, paths) == [
        f"Starting Redis, Ray and the dispatcher under {settings.home}; `bertjobs cluster down` stops it."
    ]
    first = [read_record(paths.record_file(m)) for m in WATCHED]
    assert all(r.is_alive for r in first)
    assert start(settings, paths) == []
    assert [read_record(paths.record_file(m)) for m in WATCHED] == first


@pytest.mark.parametrize("member", WATCHED)
def test_a_killed_member_is_restarted_and_the_others_stay(settings, paths, member):
    start(settings, paths)
    before = {m: read_record(paths.record_file(m)) for m in WATCHED}
    process.stop(before[member], first=signal.SIGKILL, grace_s=5)
    (said,) = start(settings, paths)
    after = {m: read_record(paths.record_file(m)) for m in WATCHED}
    assert said.startswith(f"Restarting {member}, which ended, under ")
    assert [m for m in WATCHED if after[m] != before[m]] == [member]
    assert all(r.is_alive for r in after.values())


def test_a_ray_that_moves_to_other_ports_gets_a_new_dispatcher(settings, paths):
    start(settings, paths)
    before = {m: read_record(paths.record_file(m)) for m in WATCHED}
    process.stop(before["ray"], first=signal.SIGKILL, grace_s=5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", before["ray"].ports[1]))
        taken.listen()
        start(settings, paths)
        after = {m: read_record(paths.record_file(m)) for m in WATCHED}
    assert before["ray"].ports[1] not in after["ray"].ports
    assert after["dispatcher"].pid != before["dispatcher"].pid
    assert environment_of(paths, "dispatcher")["BERTJOBS_RAY_ADDRESS"] == after["ray"].address


def test_the_drivers_environment_names_this_stack_and_no_other(settings, paths, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "someone else's")
    monkeypatch.setenv("BERTJOBS_REDIS_PASSWORD", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    settings = replace(settings, metrics_port=9123)
    start(settings, paths)
    found = environment_of(paths, "ray")
    assert found.keys().isdisjoint(
        {"RAY_ADDRESS", "RAY_AUTH_TOKEN", "BERTJOBS_REDIS_PASSWORD", "OMP_NUM_THREADS"}
    )
    ours = stack.StackAddresses(found["BERTJOBS_REDIS_URL"], read_record(paths.record_file("ray")).address)
    assert load_settings(found) == replace(ours.fill(settings), is_stack_member=True)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(paths.ray_token)
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found["GOMP_SPINCOUNT"] == "1000"
    assert found["NO_PROXY"] == "127.0.0.1,localhost"
    dispatcher = environment_of(paths, "dispatcher")
    assert {k: v for k, v in dispatcher.items() if v != found[k]} == {
        process.MEMBER_VARIABLE: f"dispatcher@{settings.home}"
    }


def test_down_stops_all_members_in_order_with_their_descendants(settings, paths, monkeypatch):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    script = f"import subprocess, sys, time\n{child}\nprint('started', flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(ray_head, "command", lambda paths, *, ports: [sys.executable, "-c", script])
    start(settings, paths)
    head = read_record(paths.record_file("ray"))
    while lines_of(paths, "ray") != ["started"]:
        assert head.is_alive
    assert len(process.descendants("ray", home=settings.home, leader=head)) == 2
    said = []
    assert stack.down(settings, announce=said.append)
    assert said == ["Stopping dispatcher.", "Stopping ray.", "Stopping redis."]
    assert process.descendants("ray", home=settings.home, leader=head) == []
    assert list(paths.stack_dir.glob("*.json")) == []


def test_down_also_stops_the_watchdog_that_an_earlier_version_started_as_keeper(settings, paths):
    paths.make_folders()
    former = process.start(
        paths.record_file("keeper"),
        argv=[sys.executable, "-c", "import time; time.sleep(600)"],
        environ=dict(os.environ),
        cwd=paths.stack_dir,
        log=paths.log_file("keeper"),
        lock_fds=[],
    )
    said = []
    assert stack.down(settings, announce=said.append)
    assert said == ["Stopping keeper."]
    assert not former.is_alive


@pytest.mark.parametrize("delay_ms", [0, 60, 80, 100, 120, 150])
def test_a_down_killed_anywhere_is_finished_by_the_next(settings, paths, delay_ms):
    start(settings, paths)
    records = [read_record(paths.record_file(m)) for m in WATCHED]
    script = "from bertjobs import stack, settings; stack.down(settings.load_settings(), announce=print)"
    environ = {**os.environ, "BERTJOBS_HOME": str(settings.home)}
    with subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.DEVNULL) as command:
        time.sleep(delay_ms / 1000)  # where it hits varies; what must hold does not
        command.kill()
    stack.down(settings, announce=lambda line: None)
    assert not any(r.is_alive for r in records)
    assert list(paths.stack_dir.glob("*.json")) == []


def test_what_a_killed_ray_left_behind_is_ended_before_the_next_one(settings, paths, monkeypatch):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    script = f"import subprocess, sys, time\np = {child}\nprint(p.pid, flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(ray_head, "command", lambda paths, *, ports: [sys.executable, "-c", script])
    start(settings, paths)
    head = read_record(paths.record_file("ray"))
    while not lines_of(paths, "ray"):
        assert head.is_alive
    driver = process.identify(int(lines_of(paths, "ray")[0]))
    process.stop(head, first=signal.SIGKILL, grace_s=5)
    assert driver.is_alive
    start(settings, paths)
    assert not driver.is_alive


def test_a_program_that_cannot_be_run_is_an_error_and_leaves_no_lock(settings, paths, monkeypatch):
    monkeypatch.setattr(ray_head, "command", lambda paths, *, ports: ["/no/such/program"])
    with pytest.raises(
        stack.lifecycle.QueueError, match=r"/no/such/program cannot be started: .*No such file"
    ):
        start(settings, paths)
    monkeypatch.undo()
    fd = lock.open_lock(paths.lock)
    assert lock.try_lock(fd)
    lock.close(fd)


def test_down_before_anything_was_started_makes_no_folder(settings):
    assert stack.down(settings, announce=lambda line: None) is False
    assert not settings.home.exists()


def test_shared_addresses_start_nothing(tmp_path):
    shared = load_settings(
        {
            "BERTJOBS_HOME": str(tmp_path / "home"),
            "BERTJOBS_REDIS_URL": "unix:///nowhere.sock",
            "BERTJOBS_RAY_ADDRESS": "http://127.0.0.1:9",
        }
    )
    addresses = stack.ensure(shared, announce=pytest.fail)
    assert addresses == stack.StackAddresses("unix:///nowhere.sock", "http://127.0.0.1:9")
    assert not shared.home.exists()
    found = stack.status(shared)
    assert {m: v["state"] for m, v in found["members"].items()} == {
        "redis": "unreachable",
        "ray": "unreachable",
        "dispatcher": "unreachable",
    }
    assert "cannot be reached" in found["members"]["redis"]["problem"]
    with pytest.raises(ConfigError, match="not stopped from here"):
        stack.down(shared, announce=pytest.fail)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"BERTJOBS_REDIS_URL": "redis://h:1"}, "BERTJOBS_REDIS_URL is set and BERTJOBS_RAY_ADDRESS is not"),
        ({"BERTJOBS_RAY_ADDRESS": "http://h:1"}, "BERTJOBS_RAY_ADDRESS is set and BERTJOBS_REDIS_URL is not"),
    ],
)
def test_one_address_without_the_other_is_refused(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        stack.ensure(load_settings({"BERTJOBS_HOME": str(tmp_path), **given}), announce=pytest.fail)
