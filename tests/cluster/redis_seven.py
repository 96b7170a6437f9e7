"""Redis 7 as `cluster/redis` declares it, for tests: started, killed and started again."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from bertjobs.jobs.store.connection import open_connection, retry_while_down
from bertjobs.settings import Settings, load_settings
from secure_redis import REDIS, Command, SecureRedis, find_server

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
        self.data = folder / "data"
        self.data.mkdir()
        self._url = f"rediss://localhost:{port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the server as `start.sh` does, and wait until it has loaded its file."""
        (command,) = self.commands()
        self.process = subprocess.Popen(
            [*command.words, *options], env=command.env, stdout=subprocess.DEVNULL
        )
        retry_while_down(lambda: open_connection(self.settings("cli")), for_s=START_S).close()

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

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

    def commands(self) -> list[Command]:
        """Return what starts the server."""
        return self._files.commands(data=self.data, path="/usr/bin:/bin")

    def backup(self) -> subprocess.CompletedProcess[bytes]:
        """Run backup.sh; the archive is its output."""
        env = {"PATH": os.environ["PATH"], "REDIS_DATA": str(self.data)}
        return subprocess.run(["sh", str(REDIS / "backup.sh")], env=env, capture_output=True)
