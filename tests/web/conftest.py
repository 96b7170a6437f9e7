"""A server on a real Redis, in a thread of its own, and browsers and programs that ask it."""

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.jobs.access import Role
from bertjobs.jobs.job import Grant
from bertjobs.jobs.store.connection import Connection, open_connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.token_store import TokenStore
from bertjobs.settings import Settings
from bertjobs.web.identity import LocalToken
from bertjobs.web.security import PublicAddress
from bertjobs.web.services import Services, open_services
from page_server import serving
from played_driver import Driver
from redis_process import RedisProcess


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Events:
    """The events of a stream, in their order."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def next(self, *names: str) -> Any:
        """Wait for the next event of one of these names; return what it carries."""
        for name, data in self:
            if name in names:
                return data
        raise AssertionError(f"the stream has ended without {' or '.join(names)}")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        name = ""
        for line in iter(self._response.readline, b""):
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


@dataclass
class Browser:
    """Sends requests as a page of ours does; keeps its cookies."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each request."""
    cookie: str = ""

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        own = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        return self.send("POST", path, body=json.dumps(body or {}), headers=own | headers)

    def send(self, method: str, path: str, *, body: str | None = None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            cookie = {"Cookie": self.cookie} if self.cookie else {}
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers={**cookie, **self.headers, **given})
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()
        if (cookie_given := answer.headers.get("Set-Cookie")) is not None:
            self.cookie = cookie_given.partition(";")[0]
        return answer

    @contextmanager
    def listen(self, path: str) -> Iterator["Events"]:
        """Open a stream of events; it is closed after the block."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie, **self.headers})
            response = connection.getresponse()
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
            yield Events(response)
        finally:
            connection.close()

    def log_in(self, token: str) -> "Browser":
        answer = self.post("/api/v1/login", {"token": token})
        assert answer.status == 200, answer.body
        return self


@pytest.fixture
def settings(redis_server: RedisProcess, tmp_path: Path) -> Settings:
    """Settings that lead to the session's Redis; jobs are stored in this test's own folder."""
    return replace(redis_server.settings(), storage=str(tmp_path / "jobs"))


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
def submit(store: JobStore, tmp_path: Path) -> Callable[..., str]:
    """Submit a small job and return its id; what a test does not care about is filled in."""

    def submit(kind: str = "finetune", config: Mapping[str, Any] | None = None, **given: Any) -> str:
        arguments: dict[str, Any] = {
            "storage": str(tmp_path / "jobs"),
            "user": "ada",
            "resources": {},
            **given,
        }
        job, _ = store.submit(kind, config or {"task": {"name": "snli"}}, **arguments)
        return job.id

    return submit


@pytest.fixture
def services(settings: Settings, connection: Connection) -> Services:
    """The parts of the server; it closes them."""
    public = PublicAddress.of(host="127.0.0.1", url=None)
    return open_services(settings, given=settings, public=public, local=LocalToken("ada"))


@pytest.fixture
def port(services: Services) -> Iterator[int]:
    """A running server."""
    with serving(services) as port:
        yield port


@pytest.fixture
def stranger(port: int) -> Browser:
    """A browser that is not logged in."""
    return Browser(port)


@pytest.fixture
def browser(port: int, services: Services) -> Browser:
    """A browser that is logged in with the link that `bertjobs web` prints."""
    local = services.logins.local
    assert local is not None
    return Browser(port).log_in(local.text)


@pytest.fixture
def logged_in(port: int, connection: Connection) -> Callable[..., Browser]:
    """Log somebody in with a token: `logged_in("bob", Role.USER)`."""

    def log_in(user: str, role: Role) -> Browser:
        _, text = TokenStore(connection).add(user, role=role, expires_s=3600, by="ada")
        return Browser(port).log_in(text)

    return log_in


GRANT = Grant(workers=1, gpus_per_worker=1, cpus_per_worker=2, data_cpus=1)


@pytest.fixture
def drive(connection: Connection) -> Callable[[str], Driver]:
    """Start an attempt at a job: `drive(job_id).step(3)`."""
    return lambda job_id: Driver(connection, job_id, grant=GRANT, placement={"n1": (3.0, 1.0)})
