"""What the doctor says of things that are well, that are not, and that cannot be asked."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bertjobs import __version__
from bertjobs.jobs.dispatcher.loop import LEADER_LEASE_S
from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.stack.doctor import node_checks, service_checks
from bertjobs.stack.doctor.examine import examine

WELL = {
    "redis_version": "7.0.15",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
    "maxmemory": 0,
    "used_memory": 5 << 20,
}


def verdicts(checks) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("6.2.14", "ok"), ("7.0.15", "ok"), ("10.1.0", "ok"), ("6.0.16", "broken"), ("5.0.7", "broken")],
)
def test_a_redis_that_is_too_old_is_broken(version, verdict):
    check = service_checks.check_redis_version(WELL | {"redis_version": version})
    assert (check.verdict, check.found) == (verdict, version)
    assert check.remedy == ("" if verdict == "ok" else "Update Redis to 6.2 or later.")


def test_a_redis_without_persistence_or_with_eviction_is_broken():
    assert service_checks.check_persistence(WELL).verdict == "ok"
    without = service_checks.check_persistence(WELL | {"aof_enabled": 0})
    assert (without.verdict, without.remedy[:22]) == ("broken", "Set `appendonly yes` i")
    full = service_checks.check_persistence(WELL | {"aof_last_write_status": "err"})
    assert (full.verdict, full.remedy) == ("broken", "Free space on its disk.")
    evicting = service_checks.check_eviction(WELL | {"maxmemory_policy": "allkeys-lru"})
    assert evicting.verdict == "broken"
    assert "jobs are deleted" in evicting.found


def test_a_redis_that_is_nearly_full_is_a_warning():
    assert service_checks.check_memory(WELL).found == "5 MiB used"
    assert service_checks.check_memory(WELL | {"maxmemory": 100 << 20}).verdict == "ok"
    full = service_checks.check_memory(WELL | {"maxmemory": 5 << 20})
    assert (full.verdict, full.found) == ("warning", "5 MiB used of 5")


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("rediss://redis:6380/0", "ok"),
        ("unix:///tmp/redis.sock", "ok"),
        ("redis://127.0.0.1:6379/0", "ok"),
        ("redis://localhost", "ok"),
        ("redis://[::1]:6379", "ok"),
        ("redis://redis:6379/0", "warning"),
        ("redis://10.0.0.1:6379/0", "warning"),
    ],
)
def test_unencrypted_passwords_on_a_network_are_a_warning(url, verdict):
    assert service_checks.check_encryption(url).verdict == verdict


def test_a_ray_of_another_version_or_without_nodes_is_broken():
    assert service_checks.check_ray_version("2.60.0").verdict == "ok"
    assert service_checks.check_ray_version("2.60").verdict == "ok"
    for other in ("2.61.0", "2.6.0", "2.600.1", "3.0.0"):
        assert service_checks.check_ray_version(other).verdict == "broken"
    assert service_checks.check_nodes(Cluster(nodes=())).verdict == "broken"
    found = service_checks.check_nodes(
        Cluster(nodes=(Node(id="a", cpus=8, gpus=1), Node(id="b", cpus=1, gpus=0)))
    )
    assert (found.verdict, found.found) == ("ok", "2 nodes, 9 CPUs, 1 GPU")


def test_our_version_of_ray_is_that_of_the_project():
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert f">={service_checks.RAY_SERIES},<2.61" in project


def test_a_dashboard_that_requires_no_token_is_a_warning():
    assert service_checks.check_token(is_open=True, has_token=True).verdict == "warning"
    assert service_checks.check_token(is_open=False, has_token=True).verdict == "ok"


@pytest.mark.parametrize(
    ("ahead_s", "verdict"), [(0.0, "ok"), (-4.9, "ok"), (5.1, "warning"), (-60.0, "warning")]
)
def test_clocks_that_are_apart_are_a_warning(ahead_s, verdict):
    check = service_checks.check_clock("node 10.0.0.1", ahead_s)
    assert check.verdict == verdict
    assert check.found.startswith("node 10.0.0.1 is ")


def test_the_leader_is_shown_with_its_age_and_no_leader_is_broken(redis_server):
    connection = open_connection(redis_server.settings())
    connection.client.flushall()
    assert verdicts(service_checks.check_queue(connection)) == {"dispatcher": "broken", "clock": "ok"}
    assert DispatchStore(connection, owner="host:7:1", lease_s=LEADER_LEASE_S).lead()
    leader, _ = service_checks.check_queue(connection)
    connection.close()
    assert leader.verdict == "ok"
    assert leader.found.startswith("host (pid 7) leads, renewed ")


def test_a_real_redis_is_checked_by_its_own_info(redis_server):
    connection = open_connection(redis_server.settings())
    try:
        assert set(verdicts(service_checks.check_redis(connection)).values()) == {"ok"}
        connection.client.config_set("maxmemory-policy", "allkeys-lru")
        assert verdicts(service_checks.check_redis(connection))["redis eviction"] == "broken"
    finally:
        connection.client.config_set("maxmemory-policy", "noeviction")
        connection.close()


def test_an_embedded_stack_that_was_not_started_is_not_a_fault(settings):
    assert verdicts(examine(settings)) == {"stack": "unknown", "storage": "ok"}
    assert not (settings.home / "stack").exists()


def test_a_service_that_is_down_does_not_keep_the_others_from_being_checked(settings):
    shared = replace(settings, redis_url="redis://127.0.0.1:1/0", ray_address="http://127.0.0.1:1")
    found = list(examine(shared))
    assert verdicts(found) == {
        "redis": "broken", "dispatcher": "unknown", "storage": "ok", "ray": "broken", "nodes": "unknown",
    }  # fmt: skip
    assert all(check.remedy for check in found if check.verdict == "broken")


def test_one_address_without_the_other_is_named(settings, dashboard, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    found = list(examine(replace(settings, ray_address=dashboard)))
    assert verdicts(found)["redis"] == "broken"
    assert verdicts(found)["nodes"] == "unknown"
    found = list(examine(replace(settings, redis_url="redis://127.0.0.1:1/0")))
    assert found[-1].remedy == "Set BERTJOBS_RAY_ADDRESS, or run `bertjobs cluster up`."


def test_a_storage_that_cannot_be_written_is_broken(settings, tmp_path):
    (tmp_path / "file").write_text("")
    check = node_checks.check_storage_here(str(tmp_path / "file"))
    assert check.verdict == "broken"
    assert "BERTJOBS_STORAGE" in check.remedy


def node(address: str, **found) -> dict[str, object]:
    well = {"version": __version__, "storage": None, "redis": None, "ahead_s": 0.1}
    return {"node": address, "own_address": address, **well, **found}


def test_healthy_nodes_are_one_line():
    checks = list(node_checks.checks_of([node("10.0.0.1"), node("10.0.0.2")], storage="/s"))
    assert verdicts(checks) == {"clock": "ok", "nodes": "ok"}
    assert checks[-1].found == "2 nodes: /s can be written, and Redis knows the driver"


def test_a_node_that_differs_is_named():
    answers = [
        node("10.0.0.1", storage="/s: Read-only file system."),
        node("10.0.0.2", redis="Redis refuses us."),
        node("10.0.0.3", version="0.0.1"),
        node("10.0.0.4", ahead_s=-90.0),
        {"node": "10.0.0.5", "error": "The node died."},
    ]
    checks = list(node_checks.checks_of(answers, storage="/s"))
    said = [f"{check.name}: {check.verdict}" for check in checks]
    wrong = ["nodes: broken", "storage: broken", "redis rights: broken"]
    assert said == [*wrong, "nodes: broken", "clock: warning"]
    for check, address in zip(checks, (5, 1, 2, 3, 4), strict=True):
        assert f"10.0.0.{address}" in check.found


def test_a_node_that_resolves_its_name_to_loopback_is_a_warning_with_a_remedy():
    loopback, *_ = node_checks.checks_of([node("10.0.0.1", own_address="127.0.1.1")], storage="/s")
    assert loopback.verdict == "warning"
    assert "node 10.0.0.1 resolves its own name to 127.0.1.1" in loopback.found
    assert "/etc/hosts" in loopback.remedy
    alone = [node("127.0.0.1", own_address="127.0.1.1")]
    assert {check.verdict for check in node_checks.checks_of(alone, storage="/s")} == {"ok"}


class FakeDashboard(BaseHTTPRequestHandler):
    """Answers as a Ray that asks for a token."""

    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == "Bearer right"
        self.send_response(200 if is_known else 401)
        self.end_headers()
        self.wfile.write(ANSWERS[self.path.partition("?")[0]] if is_known else b"Unauthorized")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


ANSWERS = {
    "/api/version": b'{"ray_version": "2.60.0"}',
    "/api/v0/nodes": b'{"data": {"result": {"result": []}}}',
    "/api/cluster_status": b'{"data": {"clusterStatus": null}}',
}


@pytest.fixture
def dashboard() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeDashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_missing_ray_token_is_broken_and_named(dashboard):
    (check,) = service_checks.check_ray(RayApi(dashboard, token=None), has_token=False)
    assert check.verdict == "broken"
    assert "refuses us (401)" in check.found
    assert "RAY_AUTH_TOKEN_PATH" in check.remedy
    with_token = service_checks.check_ray(RayApi(dashboard, token="right"), has_token=True)
    assert verdicts(with_token) == {"ray version": "ok", "ray nodes": "broken", "ray token": "ok"}
