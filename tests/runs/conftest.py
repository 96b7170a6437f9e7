"""One real stack for all tests of this folder, driven by commands as a user would, in a home of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bertjobs.cli.main import main
from waiting import wait_until

OF_RAY_DATA = ("_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")
"""What Ray Data starts once and keeps for all jobs; they take no resources."""


class Cluster:
    """A stack of its own under a home that nothing else uses."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("BERTJOBS_", "RAY_"))}
        self._own = {"BERTJOBS_HOME": str(home), "BERTJOBS_LEASE_S": "4"}
        if forced := os.environ.get("BERTJOBS_TEST_PRECISION"):
            self._own["BERTJOBS_TEST_PRECISION"] = forced
        self._env = ours | self._own

    def run(self, *words: str, code: int = 0) -> str:
        """Run one command; return its answer."""
        done = subprocess.run(
            [sys.executable, "-m", "bertjobs", *words], env=self._env, capture_output=True, text=True
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str, code: int = 0) -> Any:
        """Run one command and read the document it answers with, whatever its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "bertjobs", *words, "--json"],
            env=self._env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def wait_for(self, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the job's status until it is as described."""
        return dict(wait_until(lambda: self._status(job), holds))

    def processes(self, title: str) -> list[int]:
        """Return the pids of this stack's processes whose command line contains `title`."""
        mark = f"BERTJOBS_HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = mark in (folder / "environ").read_bytes().split(b"\0")
                if is_ours and title in (folder / "cmdline").read_text().replace("\0", " "):
                    found.append(int(folder.name))
            except (OSError, UnicodeDecodeError):
                continue  # it ended meanwhile
        return found

    def _status(self, job: str) -> Any:
        """Ask by `bertjobs status`, in this process: one of its own each time would keep a core busy."""
        not_ours = dict.fromkeys(name for name in os.environ if name not in self._env)
        done = CliRunner().invoke(main, ["status", job, "--json"], env={**not_ours, **self._own})
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def kill(self, title: str) -> None:
        """Kill what the title names, as the kernel does when memory runs out."""
        pids = self.processes(title)
        assert pids, f"there is no process {title!r} to kill"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def left_in_ray(self, table: str) -> list[dict[str, Any]]:
        """Return the actors or placement groups of jobs that are not dead or removed."""
        status = self.json("cluster", "status")
        token = Path(status["ray_token_file"]).read_text().strip()
        url = f"{status['members']['ray']['address']}/api/v0/{table}?limit=1000&detail=true"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
        return [
            row
            for row in rows
            if row["state"] not in ("DEAD", "REMOVED") and row.get("class_name") not in OF_RAY_DATA
        ]

    def kill_members(self, *names: str) -> None:
        """Kill parts of the stack, all at once."""
        members = self.json("cluster", "status")["members"]
        for name in names:
            os.kill(members[name]["pid"], signal.SIGKILL)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a stack that starts with the first job and is proved to be gone after the last test."""
    cluster = Cluster(tmp_path_factory.mktemp("home"))
    yield cluster
    cluster.run("cluster", "down")
    assert cluster.processes("") == []
