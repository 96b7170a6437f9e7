"""A Docker engine for the container tests: the one that DOCKER_HOST names, else a `dockerd` of their own.

    python tests/containers/engine.py    say whether there is one; exit 3 where not

A daemon of their own keeps everything below one folder, which is removed at the end with the network rules
that it made, so images of the user's own engine are neither used nor changed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NO_ENGINE = 3
"""Exit status where there is none: neither a failed test nor a passed one."""
_WITHOUT_BUILDX = 23
"""The first major version of Docker whose BuildKit is a plugin of its own."""
_START_S = 60.0


class ContainerError(Exception):
    """A command of the engine failed; the message has its output."""


def why_no_engine() -> str | None:
    """Return what is missing for container tests; None if nothing is."""
    if _client() is None:
        return "no `docker` with BuildKit is installed: `apt-get install docker.io`, or Docker with buildx"
    if compose_command() is None:
        return "neither `docker compose` nor `docker-compose` is installed: `apt-get install docker-compose`"
    if "DOCKER_HOST" in os.environ:
        return None
    if shutil.which("dockerd") is None:
        return "no `dockerd` is installed and DOCKER_HOST is not set: `apt-get install docker.io`"
    if os.geteuid() != 0:
        return "a `dockerd` of our own needs root: run as root, or set DOCKER_HOST"
    return None


def compose_command() -> list[str] | None:
    """Return the words of Compose: the plugin of the client, else the older program."""
    client = _client()
    if client is not None and _succeeds([client, "compose", "version"]):
        return [client, "compose"]
    older = shutil.which("docker-compose")
    return None if older is None else [older, "--compatibility"]  # which reads `deploy.replicas`


class Engine:
    """The engine, and the commands given to it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is for a daemon of our own: its images and containers, its socket and its log."""
        client, compose = _client(), compose_command()
        assert client is not None and compose is not None, why_no_engine()
        self._client, self._compose, self._folder = client, compose, folder
        self._daemon: subprocess.Popen[bytes] | None = None
        self._rules_before = ""
        self._host = os.environ.get("DOCKER_HOST", f"unix://{folder}/docker.sock")

    @property
    def env(self) -> dict[str, str]:
        """The environment of a command of the engine."""
        return {**os.environ, "DOCKER_HOST": self._host, "DOCKER_BUILDKIT": "1"}

    def start(self) -> None:
        """Start a daemon, unless DOCKER_HOST names one. Raises: ContainerError: it does not answer."""
        if "DOCKER_HOST" not in os.environ:
            self._rules_before = _output(["iptables-save"])
            folder = self._folder
            words = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
            words += ["--pidfile", f"{folder}/pid", "--host", self._host]
            with (folder / "dockerd.log").open("ab") as log:
                self._daemon = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not _succeeds([self._client, "info"], env=self.env):
            has_ended = self._daemon is not None and self._daemon.poll() is not None
            if has_ended or time.monotonic() > deadline:
                log_file = self._folder / "dockerd.log"
                log_tail = log_file.read_text()[-2000:] if log_file.exists() else ""
                raise ContainerError(f"the engine at {self._host} does not answer\n{log_tail}")
            time.sleep(0.3)  # for a process outside, not for our own code

    def stop(self) -> None:
        """End a daemon of our own, with its mounts, and restore the network rules that it found."""
        if self._daemon is None:
            return
        self._daemon.terminate()
        self._daemon.wait(timeout=120)
        # The daemon leaves its network namespace mounted, and the folder could not be removed.
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split()[1]
            if Path(place).is_relative_to(self._folder):
                subprocess.run(["umount", place], check=True)
        subprocess.run(
            ["iptables-restore"], input=rules_to_restore(self._rules_before), text=True, check=True
        )
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)

    def kill(self, pid: int) -> None:
        """Kill a process of a container by its number on the engine's machine."""
        if self._daemon is not None:
            os.kill(pid, signal.SIGKILL)
            return
        words = ["run", "--rm", "--privileged", "--pid", "host", "--user", "0", "--entrypoint", "sh"]
        self.docker(*words, "bertjobs-control:0.1.0", "-c", f"kill -9 {pid}")

    def docker(self, *words: str, stdin: str | None = None, timeout_s: float = 900.0) -> str:
        """Run a `docker` command and return its output. Raises: ContainerError: it failed."""
        return _output([self._client, *words], env=self.env, stdin=stdin, timeout_s=timeout_s)

    def try_docker(self, *words: str, timeout_s: float = 900.0) -> subprocess.CompletedProcess[str]:
        """Run a `docker` command that may fail."""
        return subprocess.run(
            [self._client, *words], env=self.env, capture_output=True, text=True, timeout=timeout_s
        )

    def compose(self, *words: str, env: Mapping[str, str]) -> str:
        """Run a Compose command. Raises: ContainerError: it failed."""
        return _output([*self._compose, *words], env={**self.env, **env})

    @property
    def is_older_compose(self) -> bool:
        """Whether Compose is the older program, which knows fewer keys."""
        return len(self._compose) == 2 and self._compose[1] == "--compatibility"

    def has_image(self, name: str) -> bool:
        """Return whether the image is there."""
        return self.try_docker("image", "inspect", name).returncode == 0


def rules_to_restore(saved: str) -> str:
    """Return what `iptables-restore` needs to undo all rules: it leaves tables that it is not given alone."""
    chains = {
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    }
    missing = [name for name in chains if f"*{name}\n" not in saved]
    empty = [
        "\n".join([f"*{name}", *(f":{chain} ACCEPT [0:0]" for chain in chains[name]), "COMMIT\n"])
        for name in missing
    ]
    return saved + "".join(empty)


def _client() -> str | None:
    """Return the first `docker` on PATH that builds with BuildKit."""
    for folder in os.get_exec_path():
        path = shutil.which("docker", path=folder)
        found = re.search(r"version (\d+)\.", _output([path, "--version"])) if path else None
        if path and found and (int(found[1]) < _WITHOUT_BUILDX or _succeeds([path, "buildx", "version"])):
            return path
    return None


def _succeeds(words: Sequence[str], **how: Any) -> bool:
    return subprocess.run(words, capture_output=True, **how).returncode == 0


def _output(
    words: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout_s: float = 900.0,
) -> str:
    done = subprocess.run(words, env=env, input=stdin, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        said = f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}".strip()
        raise ContainerError(f"{' '.join(words)}: exit status {done.returncode}\n{said}")
    return done.stdout


if __name__ == "__main__":
    if reason := why_no_engine():
        sys.stderr.write(f"test-containers: {reason}\n")
        sys.exit(NO_ENGINE)
