"""The session's real Redis, emptied for each test, and what plays Ray, drivers and time around it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pytest

from bertjobs.jobs.dispatcher.attempt_policy import Timeouts
from bertjobs.jobs.dispatcher.log_copier import LogCopier
from bertjobs.jobs.dispatcher.loop import Dispatcher
from bertjobs.jobs.dispatcher.result_reader import ResultReader
from bertjobs.jobs.ray.api import RayJob, RayRefused, RayUnreachable
from bertjobs.jobs.scheduling.types import Cluster, Node
from bertjobs.jobs.store.connection import Connection, open_connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.settings import Settings
from bertjobs.storage import StorageRoots
from redis_process import RedisProcess


@pytest.fixture
def settings(redis_server: RedisProcess) -> Settings:
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
        for member in client.smembers(
            "bj:live"
        ):  # what the dispatcher remembers of it is not so old any more
            client.zadd("bj:changed", {member.split()[0]: client.incr("bj:version")})

    return let_pass


class FakeRay:
    """A Ray whose jobs do only what a test says."""

    def __init__(self) -> None:
        self.nodes = [Node(id="n1", cpus=2, gpus=0)]
        self.jobs: dict[str, RayJob] = {}
        self.stops: list[str] = []
        self.logs: dict[str, str] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.is_down = False
        self.loses_answers = False
        self.refuses = False

    def cluster(self) -> Cluster:
        self._answer()
        return Cluster(nodes=tuple(self.nodes))

    def start(
        self, submission_id: str, *, entrypoint: str, env: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        self._answer()
        self.metadata[submission_id] = dict(metadata)
        if self.refuses:
            raise RayRefused("Ray refused: no.")
        assert submission_id not in self.jobs, "RayApi.start adopts what is there"
        self.jobs[submission_id] = RayJob(status="RUNNING", message=entrypoint)
        if self.loses_answers:
            raise RayUnreachable("The answer was lost.")

    def job(self, submission_id: str) -> RayJob | None:
        self._answer()
        return self.jobs.get(submission_id)

    def watch(self, submission_ids: Collection[str]) -> None:
        """Be its own poller, whose data is always new."""

    def stop(self, submission_id: str) -> None:
        self._answer()
        self.stops.append(submission_id)

    def log(self, submission_id: str) -> Iterator[bytes]:
        self._answer()
        yield self.logs.get(submission_id, "").encode()

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
        self.roots = StorageRoots(None)
        self._let_pass = let_pass
        self.restart_dispatcher()

    def restart_dispatcher(self) -> None:
        """Kill the dispatcher and start another one; the old one's leadership lapses."""
        self.connection.client.delete("bj:leader")
        self.dispatcher = self.new_dispatcher(owner=f"host:{self.now_s}")

    def new_dispatcher(self, *, owner: str) -> Dispatcher:
        store = DispatchStore(self.connection, owner=owner, lease_s=3600)
        self.logs = LogCopier(store, self.ray, roots=self.roots, clock=lambda: self.now_s)
        return Dispatcher(
            store,
            self.ray,
            self.ray,
            env={},
            timeouts=Timeouts(lease_s=15),
            clock=lambda: self.now_s,
            logs=self.logs,
            results=ResultReader(roots=self.roots, clock=lambda: self.now_s, start=lambda read: read()),
        )

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.dispatcher.run_pass()
            self.logs.copy_due()

    def passes(self, seconds: float) -> None:
        """Let time pass for the stored times and for the dispatcher."""
        self.now_s += seconds
        self._let_pass(seconds)

    def driver(self, job_id: str) -> LeaseStore:
        """Return the store of the driver that has the job's latest token."""
        attempt = self.store.get(job_id).attempt
        assert attempt is not None
        return LeaseStore(
            self.connection, job_id=job_id, attempt=attempt.number, token=attempt.token, lease_s=15
        )


@pytest.fixture
def world(connection: Connection, let_pass: Callable[[float], None]) -> World:
    return World(connection, let_pass)
