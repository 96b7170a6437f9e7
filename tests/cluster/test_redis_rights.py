"""Redis as `cluster/redis` declares it, really started: every user can do its work and nothing else."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis_rights import JOBS, READERS, SCRIPTS_BESIDE, STORES, granted, needed, scripts_of

from bertjobs.errors import ConfigError, QueueError
from bertjobs.jobs.dispatcher.loop import run as run_dispatcher
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.quotas import QuotaStore
from bertjobs.jobs.retention import Retention
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.scheduling.types import WaitReason
from bertjobs.jobs.store.connection import AccessRefused, open_connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.records import DriverLaunch
from bertjobs.settings import Settings, load_settings
from bertjobs.stack.doctor.service_checks import check_queue, check_redis
from bertjobs.storage import StorageRoots
from secure_redis import SecureRedis

NO_RESOURCES = {"gpus": 0, "workers": None, "cpus_per_worker": None}


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureRedis]:
    """The declared Redis, on ports of this machine."""
    with tempfile.TemporaryDirectory(prefix="bj-") as folder:
        port, plain_port = free_ports()
        server = SecureRedis(Path(folder), names=["localhost"], port=port, plain_port=plain_port)
        data = Path(folder) / "data"
        data.mkdir()
        started = [
            subprocess.Popen(command.words, env=command.env, stdout=subprocess.DEVNULL)
            for command in server.commands(data=data, path="/usr/bin:/bin")
        ]
        try:
            wait_for_port(port)
            yield server
        finally:
            for process in started:
                process.kill()
                process.wait()


@pytest.fixture
def as_user(secure: SecureRedis, tmp_path: Path) -> Callable[[str], Settings]:
    """Return the settings of one of the users."""
    return lambda user: load_settings(
        {
            "BERTJOBS_HOME": str(tmp_path),
            "BERTJOBS_REDIS_URL": f"rediss://localhost:{secure.port}/0",
            "BERTJOBS_REDIS_USER": user,
            "BERTJOBS_REDIS_PASSWORD_FILE": str(secure.password_file(user)),
            "BERTJOBS_REDIS_CA_FILE": str(secure.ca_file),
        }
    )


@pytest.fixture
def connect(as_user) -> Iterator[Callable[[str], redis.Redis]]:
    """Return connections by user, closed at the end."""
    opened = []

    def connect(user: str):
        opened.append(open_connection(as_user(user)))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def free_ports() -> list[int]:
    """Return two ports that were free just now."""
    with socket.socket() as one, socket.socket() as two:
        for s in (one, two):
            s.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


def wait_for_port(port: int) -> None:
    """Wait for a server in another process."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "redis-server did not come up"
            time.sleep(0.02)


@pytest.mark.parametrize("user", STORES)
def test_a_user_may_run_what_its_scripts_run_and_no_other_command(user):
    assert granted(user).commands == needed(user).commands


def test_the_driver_reaches_all_its_keys_but_those_of_the_leadership():
    assert granted("driver").keys == needed("driver").keys - {"bj:leader", "bj:term"}
    for user in ("cli", "dispatcher"):
        assert granted(user).keys == {"bj:*"}
        assert all(key.startswith("bj:") for key in needed(user).keys)


def test_every_script_is_run_by_some_user():
    stores = {name for names in STORES.values() for name in names}
    run = set().union(*(scripts_of((JOBS / name).read_text()) for name in stores), *SCRIPTS_BESIDE.values())
    assert run == {path.stem for path in (JOBS / "store" / "lua").glob("*.lua")} - {"common"}
    runners = {str(path.relative_to(JOBS)) for path in JOBS.rglob("*.py") if scripts_of(path.read_text())}
    assert runners == stores - READERS


def test_a_whole_job_runs_with_the_rights_of_each_user(connect, as_user):
    users, dispatcher = JobStore(connect("cli")), DispatchStore(connect("dispatcher"), owner="a", lease_s=60)
    job, _ = users.submit("finetune", {}, storage="/nowhere", resources=NO_RESOURCES, user="ada")
    users.hold(job.id)
    users.release(job.id)
    assert dispatcher.lead()
    dispatcher.promote()
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
    live = dispatcher.claim(job.id, grant=grant, placement={})
    session = JobSession.open(as_user("driver"), job_id=job.id, attempt=live.number, token=live.token)
    session.start()
    session.report_nodes(["n1"])
    session.progress({"step": 1, "loss": 0.5})
    session.log_metrics({"step": 1, "loss": 0.5})
    session.publish_checkpoint("step-1", 1)
    assert session.finish("SUCCEEDED", metrics={"accuracy": 1.0}) is State.SUCCEEDED
    session.close()
    assert users.metrics(job.id) == [{"step": 1, "loss": 0.5}]
    assert [event.reason for event in users.events(job.id)][-1] == ""
    assert [found.id for found in users.list()] == [job.id]
    assert users.count()[State.SUCCEEDED] == 1
    assert users.dispatcher() == "a"
    dispatcher.note_gone(live)
    forgotten = Retention(dispatcher.connection, term=dispatcher.term, roots=StorageRoots(None)).clean(
        older_than_s=0
    )
    assert [cleaned.job_id for cleaned in forgotten] == [job.id]
    dispatcher.resign()


def test_the_dispatcher_may_read_and_change_the_jobs_of_users(connect):
    users, dispatcher = JobStore(connect("cli")), DispatchStore(connect("dispatcher"), owner="b", lease_s=60)
    submitted = [
        users.submit("finetune", {}, storage="/nowhere", resources=NO_RESOURCES, user="ada")[0] for _ in "ab"
    ]
    assert dispatcher.lead()
    assert [queued.waiting.job_id for queued in dispatcher.queue()] == [job.id for job in submitted]
    dispatcher.changes(since=dispatcher.changes(since=-1).version)
    dispatcher.reject(submitted[1].id, WaitReason(word="Never", message="It never fits."))
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
    live = dispatcher.claim(submitted[0].id, grant=grant, placement={})
    dispatcher.note_submitted([live])
    assert [found.job_id for found in dispatcher.live()[1]] == [live.job_id]
    dispatcher.stop_for_time(live)
    assert dispatcher.end(live, RetryDecision(state=State.FAILED, reason="", message="")) is State.TIMED_OUT
    dispatcher.note_gone(live)
    dispatcher.resign()
    for job in submitted:
        assert users.retry(job.id).state is State.QUEUED
        users.cancel(job.id)


def test_a_dispatcher_that_lacks_a_right_ends_and_names_it(as_user, tmp_path):
    # Port 9 of this machine: no Ray answers there, and none is needed to be refused.
    settings = replace(as_user("cli"), ray_address="http://127.0.0.1:9", storage=str(tmp_path))
    with pytest.raises(AccessRefused, match="does not let user cli do this"):
        run_dispatcher(settings, should_stop=lambda: False)


def test_users_may_read_how_drivers_are_started(connect):
    drivers = DriverLaunch(
        python="/opt/bertjobs/bin/python", env={"BERTJOBS_REDIS_URL": "rediss://redis:6380/0"}
    )
    dispatcher = DispatchStore(connect("dispatcher"), owner="c", lease_s=60, drivers=drivers)
    assert dispatcher.lead()
    assert JobStore(connect("cli")).drivers() == drivers
    dispatcher.resign()
    assert JobStore(connect("cli")).drivers() == drivers, "doctor needs no leader to check the nodes"


def test_users_may_set_quotas_and_drivers_may_not(connect):
    quotas = QuotaStore(connect("cli"))
    quotas.limit("ada", gpus=2)
    assert quotas.read().max_gpus == {"ada": 2.0}
    quotas.limit("ada", gpus=None)
    quotas.drain(by="ada")
    quotas.undrain()
    with pytest.raises(QueueError, match="does not let user driver do this"):
        QuotaStore(connect("driver")).limit("ada", gpus=1000)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("cli", ["FLUSHALL"]),
        ("cli", ["CONFIG", "GET", "*"]),
        ("cli", ["ACL", "LIST"]),
        ("cli", ["KEYS", "*"]),
        ("cli", ["SET", "somebody:else", "1"]),
        ("dispatcher", ["SHUTDOWN"]),
        ("dispatcher", ["CONFIG", "SET", "appendonly", "no"]),
        ("driver", ["SET", "bj:leader", "me"]),
        ("driver", ["INFO"]),
        ("driver", ["DEL", "bj:job:j-1"]),
        ("driver", ["HSET", "bj:limits", "ada", "1000"]),
    ],
)
def test_other_commands_and_keys_are_refused(connect, user, words):
    connection = connect(user)
    refused = pytest.raises(QueueError, match=f"does not let user {user} do this: ")
    with refused, connection.errors():
        connection.client.execute_command(*words)


def test_a_driver_can_neither_submit_nor_lead(connect):
    connection = connect("driver")
    with pytest.raises(QueueError, match="does not let user driver do this"):
        JobStore(connection).submit("finetune", {}, storage="/nowhere", resources=NO_RESOURCES)
    with pytest.raises(QueueError, match="does not let user driver do this"):
        DispatchStore(connection, owner="driver", lease_s=60).lead()


def test_a_wrong_or_missing_password_is_refused_with_what_to_set(as_user):
    cli = as_user("cli")
    remedy = r"BERTJOBS_REDIS_USER .* BERTJOBS_REDIS_PASSWORD_FILE"
    with pytest.raises(QueueError, match=rf"user cli has another password, or does not exist.*{remedy}"):
        open_connection(replace(cli, redis_password="wrong"))
    with pytest.raises(QueueError, match=rf"user nobody has another password, or does not exist.*{remedy}"):
        open_connection(replace(cli, redis_user="nobody"))
    with pytest.raises(QueueError, match=rf"asks for a password, and none is set.*{remedy}"):
        open_connection(replace(cli, redis_user=None, redis_password=None))


def test_a_plaintext_client_at_the_tls_port_is_told_to_use_tls(as_user, secure):
    plain = replace(as_user("cli"), redis_url=f"redis://localhost:{secure.port}/0", redis_ca_file=None)
    with pytest.raises(QueueError, match=r"uses TLS, and the address does not.*rediss://"):
        open_connection(plain)


def test_a_certificate_of_an_unknown_authority_is_not_trusted(as_user):
    with pytest.raises(QueueError, match=r"is not trusted: .*BERTJOBS_REDIS_CA_FILE"):
        open_connection(replace(as_user("cli"), redis_ca_file=None))


def test_a_certificate_of_another_host_is_not_trusted(as_user, secure):
    url = f"rediss://127.0.0.1:{secure.port}/0"
    with pytest.raises(QueueError, match=r"is not trusted: .*127\.0\.0\.1.*use a host name it names"):
        open_connection(replace(as_user("cli"), redis_url=url))


def test_a_ca_file_without_tls_and_one_that_is_not_there_are_refused(as_user, tmp_path):
    cli = as_user("cli")
    with pytest.raises(ConfigError, match=r"does not use TLS\. Give the address as rediss://"):
        open_connection(replace(cli, redis_url="redis://localhost:6379/0"))
    with pytest.raises(ConfigError, match=r"BERTJOBS_REDIS_CA_FILE=.*: there is no such file"):
        open_connection(replace(cli, redis_ca_file=tmp_path / "missing.crt"))


def test_tls_at_a_plaintext_port_is_explained(as_user, file_server):
    url = file_server.url.replace("http://127.0.0.1", "rediss://localhost")
    with pytest.raises(QueueError, match="does not use TLS on this port"):
        open_connection(replace(as_user("cli"), redis_url=url))


@pytest.mark.parametrize("user", ["cli", "dispatcher"])
def test_the_doctor_may_check_as_either_user(connect, user):
    found = [*check_redis(connect(user)), *check_queue(connect(user))]
    assert {check.name for check in found if check.verdict != "ok"} <= {"dispatcher"}  # none leads here
    assert len(found) == 8


def test_redis_persists_everything_and_evicts_nothing(connect):
    client = connect("cli").client
    assert client.info("persistence")["aof_enabled"] == 1
    assert client.info("memory")["maxmemory_policy"] == "noeviction"


@pytest.mark.parametrize(
    ("folder", "said"),
    [("empty", "redis-cli-password is empty"), ("missing", "missing/redis-cli-password: No such file")],
)
def test_it_does_not_start_without_a_password(secure, tmp_path, folder, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "redis-cli-password").write_text("\n")
    command = secure.commands(data=tmp_path, path="/usr/bin:/bin")[0]
    env = command.env | {"REDIS_SECRETS": str(tmp_path / folder)}
    done = subprocess.run(command.words, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stderr
