"""What `bertjobs cluster status` reports."""

import os
import signal

import pytest

from bertjobs import stack
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
