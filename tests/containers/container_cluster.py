"""The cluster of docker/compose.yaml for the container tests, and the people who use it.

It is started as docker/README.md says, under a project name of its own. Grafana is left out where its image
cannot be pulled: nothing depends on it.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import Engine
from images import ROOT

from waiting import wait_until

PROJECT = "bertjobs-test"
SERVICES = {"redis": 1, "ray-head": 1, "ray-worker": 2, "dispatcher": 2, "prometheus": 1, "alertmanager": 1}
WITH_HEALTH_CHECK = ("redis", "ray-head", "ray-worker", "dispatcher")
STORAGE_GID = 1000
"""The default of compose.yaml: the group of the image's user."""


class ContainerCluster:
    """The containers, and the machine that they run on."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.storage = folder / "storage"
        self._folder = folder
        self._secrets = folder / "docker" / "secrets"
        self.kills: dict[str, int] = {}

    def start(self) -> None:
        """Follow docker/README.md: secrets, storage, `up`. Returns when all health checks pass."""
        self._copy_declarations()
        subprocess.run(["sh", str(self._folder / "docker" / "make-secrets.sh")], check=True)
        words = ["install", "-d", "-o", "1000", "-g", str(STORAGE_GID), "-m", "2775", str(self.storage)]
        subprocess.run(words, check=True)
        self._compose("up", "--detach", "--no-build", *SERVICES)
        self.wait_until_healthy()

    def _copy_declarations(self) -> None:
        """Copy docker/ and cluster/, so that secrets are made beside the copy."""
        for name in ("docker", "cluster"):
            subprocess.run(["cp", "-r", str(ROOT / name), str(self._folder / name)], check=True)
        if self.engine.is_older_compose:
            path = self._folder / "docker" / "compose.yaml"
            path.write_text(re.sub(r"^name: .*\n", "", path.read_text(), flags=re.M))

    def stop(self) -> None:
        """Remove the containers, their networks and their volumes."""
        self._compose("down", "--volumes", "--remove-orphans")

    def _compose(self, *words: str) -> str:
        env = self._environment_of_env_sh()
        files = ["--file", str(self._folder / "docker" / "compose.yaml"), "--project-name", PROJECT]
        return self.engine.compose(*files, *words, env=env)

    def _environment_of_env_sh(self) -> dict[str, str]:
        """Return what `. docker/env.sh` sets."""
        script = ". docker/env.sh && env"
        env = {"PATH": os.environ["PATH"], "BERTJOBS_STORAGE": str(self.storage)}
        done = subprocess.run(
            ["sh", "-c", script], cwd=self._folder, env=env, capture_output=True, text=True, check=True
        )
        lines = (line.partition("=") for line in done.stdout.splitlines())
        return {name: value for name, _, value in lines if re.match("BERTJOBS_|RAY_|WORKER_", name)}

    def host_user(self, uid: int) -> "Person":
        """Return somebody on the machine of the cluster, with the environment of docker/env.sh."""
        return Person(self, uid, network="host", env=self._environment_of_env_sh(), files=self._secrets)

    def remote_user(self, uid: int, folder: Path) -> "Person":
        """Return somebody at another machine, who has the storage and own copies of the three files."""
        own = folder / f"user-{uid}"
        own.mkdir()
        for name in ("redis-cli-password", "redis-tls/ca.crt", "ray-token"):
            (own / Path(name).name).write_bytes((self._secrets / name).read_bytes())
        env = {
            "BERTJOBS_REDIS_URL": "rediss://redis:6380/0",
            "BERTJOBS_REDIS_USER": "cli",
            "BERTJOBS_REDIS_PASSWORD_FILE": str(own / "redis-cli-password"),
            "BERTJOBS_REDIS_CA_FILE": str(own / "ca.crt"),
            "BERTJOBS_RAY_ADDRESS": "http://ray-head:8265",
            "RAY_AUTH_TOKEN_PATH": str(own / "ray-token"),
            "BERTJOBS_STORAGE": str(self.storage),
        }
        return Person(self, uid, network=f"{PROJECT}_default", env=env, files=own)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return what the engine knows of a service's containers."""
        label = "label=com.docker.compose"
        filters = [
            "--filter",
            f"{label}.project={PROJECT}",
            "--filter",
            f"{label}.service={service}",
            "--filter",
            f"{label}.oneoff=False",
        ]
        ids = self.engine.docker("ps", "--all", "--quiet", *filters).split()
        return sorted(
            json.loads(self.engine.docker("inspect", *ids)) if ids else [], key=lambda found: found["Name"]
        )

    def name_of(self, service: str, number: int = 0) -> str:
        """Return the name of a service's container."""
        return str(self.containers(service)[number]["Name"]).lstrip("/")

    def kill(self, service: str, name: str | None = None) -> None:
        """Kill the main process of a container, as when memory runs out.

        Not with the engine's own `kill`, after which it would not be restarted.
        """
        name = name or self.name_of(service)
        (found,) = json.loads(self.engine.docker("inspect", name))
        self.engine.kill(int(found["State"]["Pid"]))
        self.kills[service] = self.kills.get(service, 0) + 1

    def restart(self, service: str) -> None:
        """Restart a service's containers in an orderly way."""
        for found in self.containers(service):
            self.engine.docker("restart", "--time", "10", found["Id"])

    def run_in(self, name: str, *words: str) -> str:
        """Run a command in a container and return its output."""
        return self.engine.docker("exec", name, *words)

    def states(self) -> dict[str, list[str]]:
        """Return the state of every container by service: its health where it has a check."""
        return {service: [_state(found) for found in self.containers(service)] for service in SERVICES}

    def restarts(self) -> dict[str, int]:
        """Return how often the engine has restarted the containers of each service."""
        return {
            service: sum(found["RestartCount"] for found in self.containers(service)) for service in SERVICES
        }

    def wait_until_healthy(self) -> None:
        """Wait until every container runs and answers its health check."""
        expected = {
            service: ["healthy" if service in WITH_HEALTH_CHECK else "running"] * count
            for service, count in SERVICES.items()
        }
        wait_until(self.states, lambda seen: seen == expected, interval_s=1.0, describe=self.logs)

    def logs(self) -> str:
        """Return the ends of all logs."""
        return self._compose("logs", "--no-color", "--tail", "15")


class Person:
    """Somebody who types `bertjobs`, as a user id of a machine, in a container of the control image."""

    def __init__(
        self, cluster: ContainerCluster, uid: int, *, network: str, env: Mapping[str, str], files: Path
    ) -> None:
        self.uid = uid
        self._cluster = cluster
        for path in [files, *files.rglob("*")]:  # whoever made the secrets owns them
            os.chown(path, uid, uid)
        home = files.parent / f"home-{uid}"
        home.mkdir(exist_ok=True)
        os.chown(home, uid, uid)
        self.home = home
        self._words = ["run", "--rm", "--interactive", "--network", network, "--user", f"{uid}:{uid}"]
        self._words += ["--group-add", str(STORAGE_GID), "--workdir", str(home), "--entrypoint", "bertjobs"]
        for folder in (files, home, cluster.storage):
            self._words += ["--volume", f"{folder}:{folder}"]
        for name, value in {**env, "HOME": str(home), "BERTJOBS_HOME": f"{home}/.bertjobs"}.items():
            self._words += ["--env", f"{name}={value}"]
        self._words += ["--env", f"USER=user-{uid}", "bertjobs-control:0.1.0"]

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type a command that may fail."""
        return self._cluster.engine.try_docker(*self._words, *words)

    def run(self, *words: str) -> str:
        """Type a command that has to succeed; return its answer."""
        done = self.type(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def json(self, *words: str) -> Any:
        """Type a command that has to succeed; read the document that it prints."""
        return json.loads(self.run(*words, "--json"))

    def wait_for(self, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for a job's status until it is as described; Redis may be away meanwhile."""
        seen: dict[str, Any] = {}

        def look() -> dict[str, Any]:
            done = self.type("status", job, "--json")
            if done.returncode == 0:
                seen.update(json.loads(done.stdout))
            return dict(seen)

        return wait_until(
            look,
            lambda found: bool(found) and holds(found),
            is_final=lambda found: bool(found) and found["ended_at"] is not None,
            interval_s=0.5,
            describe=lambda: f"{self.type('logs', job).stdout[-3000:]}\n{self._cluster.logs()}",
        )


def _state(found: dict[str, Any]) -> str:
    state = found["State"]
    return str(
        state["Health"]["Status"] if state["Status"] == "running" and "Health" in state else state["Status"]
    )
