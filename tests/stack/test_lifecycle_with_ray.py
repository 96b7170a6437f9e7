"""The whole stack with its real Ray: up, private, repaired by its watchdog, side by side with another,
down."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs import stack
from bertjobs.jobs.ray.api import RayApi, RayUnauthorized, RayUnreachable
from bertjobs.settings import load_settings
from bertjobs.stack import process, ray_head
from bertjobs.stack.lifecycle import MEMBERS
from bertjobs.stack.paths import stack_paths
from bertjobs.stack.process import read_record
from waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.ray, pytest.mark.slow]


def until(is_so, what):
    """Look again until it is so."""
    wait_until(is_so, describe=lambda: what)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """One stack for all tests of this module."""
    settings = load_settings({"BERTJOBS_HOME": str(tmp_path_factory.mktemp("ray") / "home")})
    yield settings
    end(settings)


@pytest.fixture
def other(tmp_path):
    """A second stack, for what would hurt the first."""
    settings = load_settings({"BERTJOBS_HOME": str(tmp_path / "home")})
    yield settings
    end(settings)


def end(settings):
    """Take a stack down; nothing of it may be left."""
    head = read_record(stack_paths(settings).record_file("ray"))
    stack.down(settings, announce=lambda line: None)
    left = [r.pid for m in MEMBERS for r in process.descendants(m, home=settings.home, leader=head)]
    shutil.rmtree(stack_paths(settings).runtime_dir or settings.home / "ray", ignore_errors=True)
    assert left == []


def up(settings):
    stack.up(settings, announce=lambda line: None)
    return stack_paths(settings)


def states(settings):
    return {member: found["state"] for member, found in stack.status(settings)["members"].items()}


def cluster_of(paths):
    return RayApi(read_record(paths.record_file("ray")).address, token=ray_head.read_token(paths))


def started_job(paths, name, script):
    """Start a driver of one line, as soon as Ray takes jobs."""
    command = f"{sys.executable} -c {json.dumps(script)}"

    def is_started():
        try:
            cluster_of(paths).start(name, entrypoint=command, env={}, metadata={})
        except RayUnreachable:
            return False
        return True

    until(is_started, "Ray takes a job")


def listening(pids):
    """The addresses, as the kernel writes them, on which these processes listen."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(fd.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue  # closed between the listing and the look
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def test_up_starts_all_members_and_status_shows_it(settings):
    up(settings)
    assert states(settings) == dict.fromkeys(MEMBERS, "up")
    assert stack.status(settings)["state"] == "up"


def test_it_listens_on_loopback_only_and_asks_for_its_token(settings):
    paths = up(settings)
    head = read_record(paths.record_file("ray"))
    pids = [r.pid for r in process.descendants("ray", home=settings.home, leader=head)]
    addresses = listening(pids)
    assert len(pids) > 5
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses
    assert RayApi(head.address, token=None).requires_token()
    for token in (None, "0" * 64):
        with pytest.raises(RayUnauthorized):
            RayApi(head.address, token=token).version()
    assert RayApi(head.address, token=ray_head.read_token(paths)).version()


def test_a_driver_finds_ray_and_the_addresses_of_this_stack(settings):
    paths = up(settings)
    script = (
        "import ray; ray.init(log_to_driver=False); print('cpus', ray.cluster_resources()['CPU']); "
        "from bertjobs.settings import load_settings; print('redis', load_settings().redis_url)"
    )
    started_job(paths, "driver", script)
    until(lambda: cluster_of(paths).job("driver").has_ended, "the driver has ended")
    log = b"".join(cluster_of(paths).log("driver")).decode()
    assert f"cpus {float(ray_head.num_cpus())}" in log, log
    assert f"redis {read_record(paths.record_file('redis')).address}" in log, log


@pytest.mark.parametrize("member", ["ray", "redis", "dispatcher"])
def test_the_watchdog_restarts_what_is_killed(settings, member):
    paths = up(settings)
    before = read_record(paths.record_file(member))
    process.stop(before, first=signal.SIGKILL, grace_s=10)
    until(lambda: read_record(paths.record_file(member)).pid != before.pid, f"{member} is restarted")
    until(lambda: states(settings) == dict.fromkeys(MEMBERS, "up"), "all are up again")


def test_a_killed_watchdog_is_restarted_by_the_next_command(settings):
    paths = up(settings)
    before = read_record(paths.record_file("watchdog"))
    process.stop(before, first=signal.SIGKILL, grace_s=10)
    said = []
    stack.ensure(settings, announce=said.append)
    assert said == [
        f"Restarting watchdog, which ended, under {settings.home}; `bertjobs cluster down` stops it."
    ]
    assert read_record(paths.record_file("watchdog")).is_alive


def test_four_commands_at_once_one_of_them_killed_start_one_ray(other):
    script = "from bertjobs import stack, settings; stack.ensure(settings.load_settings(), announce=print)"
    environ = {**os.environ, "BERTJOBS_HOME": str(other.home)}
    commands = [
        subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.DEVNULL)
        for _ in "1234"
    ]
    commands[0].kill()
    assert [c.wait(timeout=PATIENCE_S) for c in commands[1:]] == [0, 0, 0]
    commands[0].wait()
    paths = up(other)
    head = read_record(paths.record_file("ray"))
    running = [
        Path(f"/proc/{r.pid}/cmdline") for r in process.descendants("ray", home=other.home, leader=head)
    ]
    lines = [line for line in map(read_bytes, running) if line.partition(b"\0")[0].endswith(b"/raylet")]
    assert len(lines) == 1


def read_bytes(path):
    """What is in a file of a process that may have ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_second_stack_runs_beside_it_and_stops_with_its_drivers(settings, other):
    first, second = up(settings), up(other)
    started_job(second, "stubborn", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)")
    until(lambda: cluster_of(second).job("stubborn").status == "RUNNING", "the driver runs")
    head = read_record(second.record_file("ray"))
    assert stack.down(other, announce=lambda line: None)
    left = [r.pid for m in MEMBERS for r in process.descendants(m, home=other.home, leader=head)]
    assert left == []
    assert states(settings) == dict.fromkeys(MEMBERS, "up")
    assert read_record(first.record_file("ray")).address != head.address


def test_deleting_the_home_stops_the_stack(other):
    paths = up(other)
    records = {m: read_record(paths.record_file(m)) for m in MEMBERS}
    shutil.rmtree(other.home)
    until(lambda: not any(r.is_alive for r in records.values()), "all have ended")
    until(lambda: process.descendants("ray", home=other.home, leader=records["ray"]) == [], "Ray is gone")
