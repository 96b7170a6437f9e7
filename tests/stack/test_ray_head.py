"""The Ray head: ports, sizes, token, sessions."""

import inspect
import socket
import stat
from pathlib import Path

import pytest
import ray
from ray._private.parameter import RayParams

from bertjobs.settings import load_settings
from bertjobs.stack import process, ray_head
from bertjobs.stack.paths import stack_paths

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
    paths = stack_paths(load_settings({"BERTJOBS_HOME": str(tmp_path)}))
    fresh = ray_head.pick_ports(paths, last=None)
    last = process.ProcessRecord(
        pid=1, started="", since="", host="", log="", address=None, ports=(31001, 31002, 31003)
    )
    assert ray_head.pick_ports(paths, last=last) == last.ports
    with socket.socket() as s:
        s.bind(("127.0.0.1", 31002))
        s.listen()
        assert ray_head.pick_ports(paths, last=last) == fresh


def test_the_token_is_made_once_and_is_this_users_alone(settings, paths):
    paths.make_folders()
    ray_head.prepare(paths)
    token = paths.ray_token.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(paths.ray_token.stat().st_mode) == 0o600
    ray_head.prepare(paths)
    assert paths.ray_token.read_text() == token


def test_old_ray_sessions_are_dropped_but_the_last_two(settings, paths):
    paths.make_folders()
    names = [f"session_2026-11-{day:02}_10-00-00_000000_1" for day in range(1, 6)]
    for name in names:
        (paths.ray_dir / name / "logs").mkdir(parents=True)
    ray_head.prepare(paths)
    assert sorted(p.name for p in paths.ray_dir.iterdir()) == names[-2:]


def test_the_settings_of_ray_that_we_use_and_it_does_not_document_are_still_there(paths):
    """Fails first when another version of Ray changes them."""
    root = Path(ray.__file__).parent
    scripts = (root / "scripts" / "scripts.py").read_text()
    constants = (root / "_private" / "ray_constants.py").read_text()
    supervisor = (root / "dashboard" / "modules" / "job" / "job_supervisor.py").read_text()
    assert 'RAY_START_HOOK = "RAY_START_HOOK"' in constants
    assert "load_class(os.environ[ray_constants.RAY_START_HOOK])(ray_params, head)" in scripts
    assert "ray_client_server_port" in inspect.signature(RayParams.__init__).parameters
    assert '"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"' in constants
    assert '"RAY_JOB_STOP_WAIT_TIME_S"' in supervisor
    assert b"worker_niceness" in (root / "_raylet.so").read_bytes()
    used = {name for name in ray_head.environment(paths) if not name.startswith("RAY_AUTH")}
    assert used == {
        "RAY_USAGE_STATS_ENABLED",
        "RAY_START_HOOK",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "RAY_worker_niceness",
        "RAY_JOB_STOP_WAIT_TIME_S",
    }
