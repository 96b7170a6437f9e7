"""`bertjobs web` and `bertjobs web token`."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from bertjobs.jobs.access import Role
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.token_store import TokenStore

pytestmark = pytest.mark.redis

Run = Callable[..., Result]


def test_a_token_is_made_listed_and_revoked(run: Run, store: JobStore) -> None:
    made = run("web", "token", "add", "bob", "--role", "reader", "--expires", "2h")
    text = made.stdout.strip()
    found = TokenStore(store.connection).find(text)
    assert found is not None
    assert (found.user, found.role) == ("bob", Role.READER)
    assert found.expires_at is not None
    assert (found.expires_at - found.created_at).total_seconds() == 7200
    assert made.stderr.startswith(f"{found.id}: reader bob, valid until 20")
    listed = run("web", "token", "list").stdout
    assert [line.split()[:3] for line in listed.splitlines()] == [
        ["ID", "USER", "ROLE"],
        [found.id, "bob", "reader"],
    ]
    assert text not in listed
    assert run("web", "token", "revoke", found.id).stdout == f"{found.id}  bob\n"
    assert TokenStore(store.connection).find(text) is None


def test_the_documents_have_stable_keys_and_the_secret_once(run: Run, store: JobStore) -> None:
    made = json.loads(run("web", "token", "add", "bob", "--never-expires", "--json").stdout)
    keys = {"id", "user", "role", "created_at", "created_by", "expires_at"}
    assert set(made) == keys | {"token"}
    assert made["expires_at"] is None
    assert json.loads(run("web", "token", "list", "--json").stdout) == [
        {key: made[key] for key in made if key in keys}
    ]
    (revoked,) = json.loads(run("web", "token", "revoke", "bob", "--json").stdout)
    assert revoked["id"] == made["id"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "a b"), "'a b' is not a name of a user"),
        (("add", "<b>"), "'<b>' is not a name of a user"),
        (("add", "bob", "--role", "king"), "Invalid value for '--role'"),
        (("add", "bob", "--expires", "soon"), "soon is not a duration"),
        (("revoke", "bob"), "There is no token and no user with tokens bob"),
    ],
)
def test_wrong_input_is_named(run: Run, store: JobStore, words: tuple[str, ...], message: str) -> None:
    result = run("web", "token", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert TokenStore(store.connection).all() == []


def test_no_tokens_are_no_answer_and_a_hint(run: Run, store: JobStore) -> None:
    result = run("web", "token", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "`bertjobs web token add NAME` makes one" in result.stderr


def test_a_port_that_is_taken_is_an_error_with_what_to_do(run: Run, store: JobStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("web", "--port", str(port), "--no-open")
    assert result.exit_code == 2
    assert f"--host 127.0.0.1 --port {port}: " in result.stderr
    assert "`--port 0` takes any that is free" in result.stderr


@pytest.mark.parametrize("url", ["jobs.example.org", "ftp://x", "https://jobs.example.org/path"])
def test_an_address_that_is_none_is_refused_before_anything_starts(run: Run, url: Any) -> None:
    result = run("web", "--url", url, "--no-open")
    assert result.exit_code == 2
    assert f"--url {url} is not the address of a page" in result.stderr
