"""All members together, with something light in the place of Ray and the dispatcher."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from bertjobs import stack
from bertjobs.settings import load_settings
from bertjobs.stack import lifecycle, lock, process, ray_head
from bertjobs.stack.process import read_record

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("stand_ins")]

KEPT = ("redis", "ray", "dispatcher")


def start(settings, layout, members=KEPT):
    """What `ensure` does, without the keeper: it is a process of its own and knows no stand-ins."""
    layout.make_folders()
    said = []
    with lock.hold(layout.lock, timeout_s=30, busy="") as fd:
        lifecycle.start_missing(settings, members=members, lock_fd=fd, announce=said.append)
    return said


def environment_of(layout, member):
    """What the running stand-in printed; it may still be starting."""
    record = read_record(layout.record(member))
    while True:
        found = [json.loads(line) for line in lines_of(layout, member)]
        if found and found[-1]["PID"] == str(record.pid):
            return {name: value for name, value in found[-1].items() if name != "PID"}
        assert record.is_alive, found


def lines_of(layout, member):
    """The complete lines of a log."""
    return layout.log(member).read_text().rpartition("\n")[0].splitlines()


def test_all_start_and_the_second_time_none(settings, layout):
    assert start(settings, layout) == [
        f"Starting Redis, Ray and the dispatcher under {settings.home}; `bertjobs cluster down` stops it."
    ]
    first = [read_record(layout.record(m)) for m in KEPT]
    assert all(r.is_alive for r in first)
    assert start(settings, layout) == []
    assert [read_record(layout.record(m)) for m in KEPT] == first


@pytest.mark.parametrize("member", KEPT)
def test_the_one_that_was_killed_is_restarted_and_the_others_stay(settings, layout, member):
    start(settings, layout)
    before = {m: read_record(layout.record(m)) for m in KEPT}
    process.stop(before[member], first=signal.SIGKILL, grace_s=5)
    (said,) = start(settings, layout)
    after = {m: read_record(layout.record(m)) for m in KEPT}
    assert said.startswith(f"Restarting what ended ({member})")
    assert [m for m in KEPT if after[m] != before[m]] == [member]
    assert all(r.is_alive for r in after.values())


def test_a_ray_that_must_move_to_other_ports_takes_its_dispatcher_along(settings, layout):
    start(settings, layout)
    before = {m: read_record(layout.record(m)) for m in KEPT}
    process.stop(before["ray"], first=signal.SIGKILL, grace_s=5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", before["ray"].ports[1]))
        taken.listen()
        start(settings, layout)
        after = {m: read_record(layout.record(m)) for m in KEPT}
    assert before["ray"].ports[1] not in after["ray"].ports
    assert after["dispatcher"].pid != before["dispatcher"].pid
    assert environment_of(layout, "dispatcher")["BERTJOBS_RAY_ADDRESS"] == after["ray"].address


def test_the_drivers_environment_names_this_stack_and_no_other(settings, layout, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "someone else's")
    monkeypatch.setenv("BERTJOBS_REDIS_PASSWORD", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = replace(settings, metrics_port=9123)
    start(settings, layout)
    found = environment_of(layout, "ray")
    assert found.keys().isdisjoint(
        {"RAY_ADDRESS", "RAY_AUTH_TOKEN", "BERTJOBS_REDIS_PASSWORD", "OMP_NUM_THREADS"}
    )
    ours = stack.StackAddresses(found["BERTJOBS_REDIS_URL"], read_record(layout.record("ray")).address)
    assert load_settings(found) == replace(ours.fill(settings), is_stack_member=True)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(layout.ray_token)
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found["NO_PROXY"] == "127.0.0.1,localhost"
    dispatcher = environment_of(layout, "dispatcher")
    assert {k: v for k, v in dispatcher.items() if v != found[k]} == {
        process.MEMBER_VARIABLE: f"dispatcher@{settings.home}"
    }


def test_the_token_is_made_once_and_is_this_users_alone(settings, layout):
    start(settings, layout)
    token = layout.ray_token.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(layout.ray_token.stat().st_mode) == 0o600
    ray_head.prepare(layout)
    assert layout.ray_token.read_text() == token


def test_old_ray_sessions_are_dropped_but_the_last_two(settings, layout):
    layout.make_folders()
    names = [f"session_2026-11-{day:02}_10-00-00_000000_1" for day in range(1, 6)]
    for name in names:
        (layout.ray_dir / name / "logs").mkdir(parents=True)
    ray_head.prepare(layout)
    assert sorted(p.name for p in layout.ray_dir.iterdir()) == names[-2:]


def test_down_ends_all_in_order_and_what_they_had_started(settings, layout, monkeypatch):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    script = f"import subprocess, sys, time\n{child}\nprint('started', flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(ray_head, "command", lambda layout, *, ports: [sys.executable, "-c", script])
    start(settings, layout)
    head = read_record(layout.record("ray"))
    while lines_of(layout, "ray") != ["started"]:
        assert head.is_alive
    assert len(process.descendants("ray", home=settings.home, leader=head)) == 2
    said = []
    assert stack.down(settings, announce=said.append)
    assert said == ["Stopping dispatcher.", "Stopping ray.", "Stopping redis."]
    assert process.descendants("ray", home=settings.home, leader=head) == []
    assert list(layout.stack_dir.glob("*.json")) == []


@pytest.mark.parametrize("delay_ms", [0, 60, 80, 100, 120, 150])
def test_a_down_killed_anywhere_is_finished_by_the_next(settings, layout, delay_ms):
    start(settings, layout)
    records = [read_record(layout.record(m)) for m in KEPT]
    script = "from bertjobs import stack, settings; stack.down(settings.load_settings(), announce=print)"
    environ = {**os.environ, "BERTJOBS_HOME": str(settings.home)}
    with subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.DEVNULL) as command:
        time.sleep(delay_ms / 1000)  # where it hits varies; what must hold does not
        command.kill()
    stack.down(settings, announce=lambda line: None)
    assert not any(r.is_alive for r in records)
    assert list(layout.stack_dir.glob("*.json")) == []


def test_what_a_killed_ray_left_behind_is_ended_before_the_next_one(settings, layout, monkeypatch):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    script = f"import subprocess, sys, time\np = {child}\nprint(p.pid, flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(ray_head, "command", lambda layout, *, ports: [sys.executable, "-c", script])
    start(settings, layout)
    head = read_record(layout.record("ray"))
    while not lines_of(layout, "ray"):
        assert head.is_alive
    driver = process.identify(int(lines_of(layout, "ray")[0]))
    process.stop(head, first=signal.SIGKILL, grace_s=5)
    assert driver.is_alive
    start(settings, layout)
    assert not driver.is_alive


def test_a_program_that_cannot_be_run_is_an_error_and_leaves_no_lock(settings, layout, monkeypatch):
    monkeypatch.setattr(ray_head, "command", lambda layout, *, ports: ["/no/such/program"])
    with pytest.raises(
        stack.lifecycle.QueueError, match=r"/no/such/program cannot be started: .*No such file"
    ):
        start(settings, layout)
    monkeypatch.undo()
    fd = lock.open_lock(layout.lock)
    assert lock.try_lock(fd)
    lock.close(fd)


def test_a_lock_that_is_held_too_long_is_an_error(layout):
    layout.make_folders()
    with (
        lock.hold(layout.lock, timeout_s=1, busy=""),
        pytest.raises(stack.lifecycle.QueueError, match="someone else is at it"),
        lock.hold(layout.lock, timeout_s=0.05, busy="someone else is at it"),
    ):
        pytest.fail("two hold one lock")


def test_importing_the_room_costs_none_of_the_heavy_ones():
    script = "import sys, bertjobs.stack; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "bertjobs.stack" in loaded
    assert {"torch", "ray", "pyarrow", "numpy", "pandas", "redis", "urllib.request"}.isdisjoint(loaded)
