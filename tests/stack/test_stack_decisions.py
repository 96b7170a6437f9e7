"""What the stack decides from numbers alone: ports, sizes, restarts; and who a process is."""

import itertools
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from bertjobs.settings import load_settings
from bertjobs.stack import process, ray_head, watchdog
from bertjobs.stack.home import layout_of

MIB = 1 << 20


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("3200000 100000", 8)],
)
def test_processors_are_those_the_container_may_use(tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(ray_head.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert ray_head.num_cpus(cgroup=tmp_path) == expected


def test_processors_of_an_old_container_and_of_none(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_head.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert ray_head.num_cpus(cgroup=tmp_path) == 8
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert ray_head.num_cpus(cgroup=tmp_path) == 4


@pytest.mark.parametrize(
    ("shm", "store"), [(64 * MIB, 128 * MIB), (1000 * MIB, 300 * MIB), (64 << 30, 2 << 30), (0, 128 * MIB)]
)
def test_the_object_store_is_bounded(shm, store):
    assert ray_head.store_bytes(shm) == store


def test_ports_are_the_first_free_ones_from_the_homes_own_place_round_the_range():
    busy = {31999, 20001}
    assert ray_head.free_ports(11998, is_free=lambda port: port not in busy) == (31998, 20000, 20002)


def test_a_port_someone_listens_on_is_not_free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        assert not ray_head.is_free(port)
    assert ray_head.is_free(port)


def test_ports_of_last_time_are_taken_again_unless_in_use(tmp_path):
    layout = layout_of(load_settings({"BERTJOBS_HOME": str(tmp_path)}))
    fresh = ray_head.pick_ports(layout, last=None)
    last = process.Record(
        pid=1, started="", since="", host="", log="", address=None, ports=(31001, 31002, 31003)
    )
    assert ray_head.pick_ports(layout, last=last) == last.ports
    with socket.socket() as s:
        s.bind(("127.0.0.1", 31002))
        s.listen()
        assert ray_head.pick_ports(layout, last=last) == fresh


def test_the_keeper_restarts_at_once_then_ever_later():
    deaths = {member: [] for member in watchdog.KEPT}
    times = [now / 2 for now in range(600) if "ray" in watchdog.restarts_due({}, deaths, now=now / 2)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert (times[0], gaps[:5]) == (0.0, [2.0, 4.0, 8.0, 16.0, 32.0])
    assert max(gaps) <= 60.0


def test_the_keeper_forgives_after_a_quiet_time_and_leaves_the_living_alone(sleeper):
    deaths = {member: [] for member in watchdog.KEPT}
    alive = process.identify(sleeper.pid)
    known = {"redis": alive, "dispatcher": alive}
    assert watchdog.restarts_due(known, deaths, now=0.0) == ["ray"]
    assert watchdog.restarts_due(known, deaths, now=1.0) == []
    assert watchdog.restarts_due({**known, "ray": alive}, deaths, now=2.0) == []
    assert watchdog.restarts_due(known, deaths, now=1000.0) == ["ray"]
    assert deaths["ray"] == [1000.0]


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    record = process.identify(child.pid)
    child.stdout.read()
    child.stdout.close()
    try:
        assert process.wait_gone(record, timeout_s=20)  # nobody has waited for it yet
    finally:
        child.wait()


def test_a_process_under_the_same_pid_gets_no_signal(sleeper):
    impostor = replace(process.identify(sleeper.pid), started="another boot:1")
    process.send(impostor, signal.SIGKILL)
    process.stop(impostor, grace_s=0.1)
    assert sleeper.poll() is None


def test_a_process_that_ignores_sigterm_is_killed():
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    script = f"{deaf}; print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        process.stop(process.identify(child.pid), grace_s=0.2)
        assert child.wait(timeout=10) == -signal.SIGKILL


def test_a_session_whose_number_a_stranger_has_now_is_left_alone(sleeper):
    gone = replace(process.identify(sleeper.pid), started=process.launch.boot() + ":1")
    assert process.descendants("ray", home="/nowhere", leader=gone) == []


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {i}\n" for i in range(20000)))
    assert process.tail(log, num_lines=2) == "line 19998\nline 19999"
    assert process.tail(tmp_path / "none", num_lines=2) == ""
