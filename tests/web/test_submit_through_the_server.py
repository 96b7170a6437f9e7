"""The tests of `submit` once more, through a server instead of Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.jobs.store.job_store import JobStore
from cli.commands.test_submit import *  # noqa: F403
from cli.conftest import drive, home, run  # noqa: F401
from page_server import server_for_commands
from redis_process import RedisProcess


@pytest.fixture
def store(redis_server: RedisProcess, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:  # noqa: F811
    """Return the store behind the server that the commands of this test use; it is empty."""
    with server_for_commands(redis_server, home, monkeypatch) as store:
        yield store
