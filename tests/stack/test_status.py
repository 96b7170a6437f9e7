"""What `bertjobs cluster status` reports."""

import os
import signal
from dataclasses import replace

import pytest

from bertjobs import stack
from bertjobs.jobs.store.connection import open_connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.stack import process
from bertjobs.stack.paths import stack_paths
from bertjobs.stack.process import read_record

pytestmark = pytest.mark.redis


def ensure_redis(settings, said=None):
    announce = (said if said is not None else []).append
    return stack.ensure(settings, announce=announce, need_ray=False).redis_url


def test_status_shows_what_runs(settings):
    assert stack.status(settings)["state"] == "off"
    ensure_redis(settings)
    found = stack.status(settings)
    assert (found["state"], found["members"]["redis"]["state"]) == ("partial", "up")
    os.kill(found["members"]["redis"]["pid"], signal.SIGKILL)
    process.wait_gone(read_record(stack_paths(settings).record_file("redis")), timeout_s=5)
    found = stack.status(settings)
    assert (found["state"], found["members"]["redis"]["state"]) == ("down", "down")
    assert "It ended by itself" in found["members"]["redis"]["problem"]


def test_a_shared_cluster_without_a_leading_dispatcher_is_down(settings):
    shared = replace(settings, redis_url=ensure_redis(settings), ray_address="http://127.0.0.1:9")
    found = stack.status(shared)["members"]["dispatcher"]
    assert found["state"] == "down" and "None leads" in found["problem"]
    connection = open_connection(shared)
    try:
        assert DispatchStore(connection, owner="host-a:7:1", lease_s=60).lead()
    finally:
        connection.close()
    found = stack.status(shared)
    assert (found["members"]["dispatcher"]["state"], found["members"]["dispatcher"]["address"]) == (
        "up",
        "host-a",
    )
    assert found["state"] == "unreachable", "of Ray"


def test_the_dispatcher_of_a_shared_cluster_is_unknown_without_its_redis(settings, tmp_path):
    shared = replace(settings, redis_url=f"unix://{tmp_path}/none", ray_address="http://127.0.0.1:9")
    found = stack.status(shared)["members"]
    assert [found[name]["state"] for name in ("redis", "dispatcher")] == ["unreachable", "unreachable"]
