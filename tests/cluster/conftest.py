"""A shared cluster on five hosts: Redis with TLS and an access list, a Ray head, two Ray workers, and a desk
with the dispatchers and whoever types. All they share is the storage and the secrets."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_seven import RestartedRedis, why_no_redis_7

import bertjobs
from bertjobs.runs.node_probe import MARK
from hosts import Host, Network, why_no_hosts
from secure_redis import SecureRedis
from waiting import wait_until

NAMES = ("redis", "ray-head", "ray-worker-1", "ray-worker-2", "desk")
CODE = Path(bertjobs.__file__).parents[1]
PYTHON = [sys.executable, "-m"]
# A node that does not answer is given up after 6 s, not 35 s.
QUICK_TO_NOTICE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "0",
}


class SharedCluster:
    """The hosts, what runs on them, and the commands of a user at the desk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        self.logs = folder / "logs"
        self.network = Network(folder, names=NAMES)
        self.redis = SecureRedis(folder, names=["redis"], port=6380, plain_port=6379)
        self.ray_token_file = self.redis.secrets / "ray-token"
        self.ray_token_file.write_text(secrets.token_hex(32))
        self.storage.mkdir()
        self.logs.mkdir()

    @property
    def hosts(self) -> dict[str, Host]:
        return self.network.hosts

    def start(self) -> None:
        """Bring everything up, and wait until Ray has all its nodes."""
        self.network.start()
        self.start_redis()
        self.start_node("ray-head")
        self.wait_until(lambda: self.num_nodes() >= 1)
        for name in ("ray-worker-1", "ray-worker-2"):
            self.start_node(name)
        self.start_dispatcher()
        self.start_dispatcher()
        self.wait_until(lambda: self.num_nodes() == 3)

    def start_redis(self) -> None:
        """Start Redis as cluster/redis does."""
        host = self.hosts["redis"]
        for command in self.redis.commands(data=host.local, path=os.environ["PATH"]):
            host.popen(command.words, env=command.env, log=self.logs / "redis")

    def start_node(self, name: str) -> None:
        """Start Ray on a host: the head, or a node that joins it."""
        host, ray = self.hosts[name], [*PYTHON, "ray.scripts.scripts", "start", "--block"]
        if name == "ray-head":
            how = "--head --port=6379 --dashboard-host=0.0.0.0 --dashboard-port=8265 --num-cpus=1"
            how += f" --temp-dir={host.local}/ray"
        else:
            how = f"--address={self.hosts['ray-head'].address}:6379 --num-cpus=2"
        always = f"--node-ip-address={host.address} --object-store-memory=100000000 --disable-usage-stats"
        host.popen([*ray, *how.split(), *always.split()], env=self.node_env(), log=self.logs / name)

    def start_node_again(self, name: str) -> None:
        """Start Ray on a host once all that ran there has ended, as a supervisor does."""
        self.wait_until(lambda: not self.hosts[name].processes())
        self.start_node(name)

    def start_dispatcher(self) -> None:
        """Start a dispatcher at the desk; the first leads, others stand by."""
        words = [*PYTHON, "bertjobs", "dispatcher"]
        self.hosts["desk"].popen(words, env=self.desk_env(user="dispatcher"), log=self.logs / "dispatcher")

    def node_env(self) -> dict[str, str]:
        """What a node of Ray has: the driver's rights to Redis, and Ray's token."""
        return {
            **self._any_env(user="driver"),
            **QUICK_TO_NOTICE,
            "RAY_JOB_STOP_WAIT_TIME_S": "20",
        }

    def desk_env(self, *, user: str = "cli", **changed: str) -> dict[str, str]:
        """What a user or a dispatcher at the desk has."""
        return {
            **self._any_env(user=user),
            "BERTJOBS_REDIS_URL": f"rediss://redis:{self.redis.port}/0",
            "BERTJOBS_RAY_ADDRESS": "http://ray-head:8265",
            "BERTJOBS_STORAGE": str(self.storage),
            "BERTJOBS_LEASE_S": "4",
            **changed,
        }

    def _any_env(self, *, user: str) -> dict[str, str]:
        local = self.network.hosts["desk"].local
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(local),
            "TMPDIR": str(local),
            "USER": "ada",
            "PYTHONPATH": str(CODE),
            "PYTHONUNBUFFERED": "1",
            "BERTJOBS_HOME": str(local / "home"),
            "BERTJOBS_REDIS_USER": user,
            "BERTJOBS_REDIS_PASSWORD_FILE": str(self.redis.password_file(user)),
            "BERTJOBS_REDIS_CA_FILE": str(self.redis.ca_file),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.ray_token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def type(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Type a command at the desk."""
        return self.hosts["desk"].run([*PYTHON, "bertjobs", *words], env=self.desk_env(**env))

    def run(self, *words: str) -> str:
        """Type a command that has to succeed; return its answer."""
        done = self.type(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """Type a command that has to succeed; read the document it answers with."""
        return json.loads(self.run(*words, "--json"))

    def wait_for(self, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the job's status until it is as described."""
        seen: dict[str, Any] = {}

        def is_there() -> bool:
            done = self.type("status", job, "--json")  # while Redis is down it fails
            if done.returncode == 0:
                seen.update(json.loads(done.stdout))
            if not seen or holds(seen):
                return bool(seen)
            assert seen["ended_at"] is None, f"{job} ended before it got there: {json.dumps(seen, indent=1)}"
            return False

        self.wait_until(is_there, or_tell=lambda: json.dumps(seen, indent=1))
        return seen

    def wait_until(self, holds: Callable[[], bool], *, or_tell: Callable[[], str] = lambda: "") -> None:
        """Look until it is so."""

        def look() -> tuple[bool, str]:
            return holds(), or_tell()

        wait_until(look, lambda seen: seen[0], interval_s=1.0, describe=self._ends_of_logs)

    def _ends_of_logs(self) -> str:
        logs = {path.name: path.read_text()[-2000:] for path in self.logs.iterdir()}
        return "\n".join(f"-- {name}\n{text}" for name, text in logs.items())

    def num_nodes(self) -> int:
        """Count Ray's living nodes, as a user at the desk could."""
        ask = (
            "from bertjobs.jobs.ray.api import RayApi, ray_token;"
            "print(len(RayApi('http://ray-head:8265', token=ray_token()).cluster().nodes))"
        )
        done = self.hosts["desk"].run([sys.executable, "-c", ask], env=self.desk_env())
        return int(done.stdout) if done.returncode == 0 else 0

    def leader(self) -> str | None:
        """Return the leading dispatcher: host, pid on it, start."""
        ask = (
            "from bertjobs.jobs.store.job_store import connect; from bertjobs.settings import load_settings;"
            "print(connect(load_settings()).dispatcher() or '')"
        )
        done = self.hosts["desk"].run([sys.executable, "-c", ask], env=self.desk_env())
        return done.stdout.strip() or None

    def kill_at_desk(self, leader: str) -> None:
        """Kill the dispatcher that leads."""
        self.hosts["desk"].run(["sh", "-c", f"kill -9 {leader.split(':')[1]}"], env=self.desk_env())

    def ask_nodes(self, **env: str) -> list[dict[str, Any]]:
        """Have every node answer the doctor's questions."""
        ask = (
            "from bertjobs.jobs.ray.code_package import code_to_send;"
            "from bertjobs.jobs.ray.api import RayApi, ray_token;"
            "from bertjobs.settings import load_settings;"
            "from bertjobs.stack.doctor.examine import driver_launch;"
            "from bertjobs.stack.doctor.node_checks import probe_nodes;"
            "s = load_settings();"
            "ray = RayApi(s.ray_address, token=ray_token(), code=code_to_send(s));"
            "print(probe_nodes(ray, storage=s.storage, drivers=driver_launch(s)))"
        )
        done = self.hosts["desk"].run([sys.executable, "-c", ask], env=self.desk_env(**env))
        marked = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        assert marked, f"{done.stdout}\n{done.stderr}"
        return [json.loads(line.removeprefix(MARK)) for line in marked]

    def everything_written(self) -> Iterator[tuple[str, bytes]]:
        """Read what the hosts have written: logs, sessions of Ray, jobs, the data of Redis."""
        roots = {name: Path(f"/proc/{host.pid}/root{host.local}") for name, host in self.hosts.items()}
        for name, root in {**roots, "storage": self.storage, "logs": self.logs}.items():
            for path in root.rglob("*"):
                with contextlib.suppress(OSError):  # what is removed meanwhile, and sockets
                    yield f"{name}: {path.relative_to(root)}", path.read_bytes()

    def stop(self) -> None:
        """End it all."""
        self.network.stop()


@pytest.fixture(scope="session")
def shared() -> Iterator[SharedCluster]:
    """Return the cluster; it skips where hosts cannot be made, and leaves nothing behind."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="bj-", dir="/tmp"))  # the paths of Ray's sockets are long
    cluster = SharedCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def redis_7(tmp_path: Path) -> Iterator[RestartedRedis]:
    """Return a server that has not been started yet; skip where there is no Redis 7."""
    if reason := why_no_redis_7():
        pytest.skip(reason)
    server = RestartedRedis(tmp_path)
    yield server
    if server.process is not None:
        server.kill()
