"""The tests of the commands on jobs once more, through a server instead of Redis."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertjobs.cli.context import open_queue
from bertjobs.errors import QueueError
from bertjobs.jobs.access import AccessDenied, Role
from bertjobs.jobs.job import State
from bertjobs.jobs.remote_queue import RemoteQueue
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.token_store import TokenStore
from cli.commands.test_jobs import *  # noqa: F403
from cli.conftest import drive, home, make_job, run  # noqa: F401
from page_server import server_for_commands
from redis_process import RedisProcess

pytestmark = pytest.mark.redis

Run = Callable[..., Any]


@pytest.fixture
def store(redis_server: RedisProcess, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:  # noqa: F811
    """Return the store behind the server that the commands of this test use; it is empty."""
    with server_for_commands(redis_server, home, monkeypatch) as store:
        yield store


@pytest.fixture
def as_user(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Role], None]:
    """Let the commands have another user's token."""

    def as_user(user: str, role: Role) -> None:
        _, text = TokenStore(store.connection).add(user, role=role, expires_s=60, by="ada")
        monkeypatch.setenv("BERTJOBS_TOKEN", text)

    return as_user


def test_a_wrong_password_is_said_with_what_to_do(
    run: Run,  # noqa: F811
    store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a server's users this is the token."""
    monkeypatch.setenv("BERTJOBS_TOKEN", "wrong")
    result = run("list")
    assert result.exit_code == 2
    assert "refuses the token: it is wrong, expired or revoked" in result.stderr
    assert "hint: Set BERTJOBS_TOKEN_FILE to a file with a valid one." in result.stderr


def test_a_user_cannot_change_another_users_job_nor_a_reader_any(
    run: Run,  # noqa: F811
    store: JobStore,
    home: Path,  # noqa: F811
    as_user: Callable[[str, Role], None],
) -> None:
    job = submit(store, home, user="ada")  # noqa: F405
    as_user("eve", Role.USER)
    for command in (["cancel"], ["hold"], ["retry"], ["release"], ["prioritize", "--priority", "3"]):
        result = run(*command, job)
        assert result.exit_code == 2, command
        assert f"{job} belongs to ada, and eve may change own jobs only" in result.stderr
    assert json.loads(run("list", "--json").stdout)[0]["id"] == job
    as_user("ada", Role.READER)
    assert "ada has the role reader and may change no job" in run("cancel", job).stderr
    as_user("ada", Role.USER)
    assert run("cancel", job).exit_code == 0
    assert store.get(job).message == "Cancelled by ada."


@pytest.mark.parametrize(
    "words", [["cluster", "limit"], ["cluster", "drain"], ["cluster", "clean"], ["web", "token", "list"]]
)
def test_what_needs_redis_itself_is_refused(run: Run, store: JobStore, words: list[str]) -> None:  # noqa: F811
    result = run(*words)
    assert result.exit_code == 2
    assert "this command needs Redis itself" in result.stderr


def test_a_job_is_read_as_from_redis(
    run: Run,  # noqa: F811
    store: JobStore,
    home: Path,  # noqa: F811
    drive: Callable[[str], Any],  # noqa: F811
) -> None:
    job = submit(store, home)  # noqa: F405
    drive(job).step(3)
    queue = open_queue()
    assert isinstance(queue, RemoteQueue)
    assert queue.get(job[:6]) == store.get(job)
    assert queue.list() == store.list()
    assert queue.list(states=[State.QUEUED]) == []
    assert queue.events(job) == store.events(job)
    assert queue.metrics(job) == store.metrics(job)
    assert json.loads(run("status", job, "--json").stdout)["dashboard_url"].endswith(
        f"/ray/#/jobs/bj-{job}-a1"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "explode"}, "`kind` and `config` have to be a kind of job and its configuration"),
        ({"config": {"optim": {"lr": "x"}}}, "optim.lr: "),
        ({"config": {"oops": 1}}, "oops: "),
        ({"options": {"user": "eve"}}, "options.user: 'eve' is not allowed"),
        ({"options": {"storage": "/etc"}}, "options.storage: '/etc' is not allowed"),
        ({"options": {"priority": 1001}}, "options.priority: 1001 is out of bounds"),
        ({"options": {"priority": True}}, "options.priority: 'True' is not allowed"),
        ({"options": {"after": ["../x"]}}, "'../x' is not the id of a job"),
        ({"options": {"keep_s": -1}}, "options.keep_s: -1 is out of bounds"),
    ],
)
def test_a_server_checks_what_is_submitted(store: JobStore, change: dict[str, Any], message: str) -> None:
    queue = open_queue()
    assert isinstance(queue, RemoteQueue)
    given = {"kind": "finetune", "config": {}, "options": {}, **change}
    with pytest.raises(QueueError, match=re.escape(message)):
        queue._post("jobs", given)
    assert store.list() == []


def test_the_server_says_who_submits_and_where_it_is_stored(
    store: JobStore,
    home: Path,  # noqa: F811
    as_user: Callable[[str, Role], None],
) -> None:
    as_user("bob", Role.USER)
    queue = open_queue()
    job, is_new = queue.submit(
        "finetune", {}, storage="/etc", resources={}, user="root", name="x", idempotency_key="k"
    )
    again, is_new_again = queue.submit("finetune", {}, storage="/", resources={}, idempotency_key="k")
    assert (is_new, is_new_again, again.id) == (True, False, job.id)
    found = store.get(job.id)
    assert (found.user, found.storage, found.name) == ("bob", str(home / "jobs"), "x")
    as_user("bob", Role.READER)
    with pytest.raises(AccessDenied, match="bob has the role reader and may submit no job"):
        open_queue().submit("finetune", {}, storage="/", resources={})


@pytest.mark.parametrize(
    ("server", "token", "message"),
    [
        ("jobs.example.org", "x", "BERTJOBS_SERVER=jobs.example.org is not the address of a server"),
        ("https://a:b@jobs.example.org", "x", "is not the address of a server"),
        ("https://jobs.example.org", "", "BERTJOBS_SERVER is set, and no token"),
        ("http://127.0.0.1:1", "x", "The server at http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_server_that_is_wrong_or_away_is_said_so(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    token: str,
    message: str,
) -> None:
    monkeypatch.setenv("BERTJOBS_SERVER", server)
    monkeypatch.setenv("BERTJOBS_TOKEN", token)
    result = run("list")
    assert result.exit_code == 2
    assert message in result.stderr
