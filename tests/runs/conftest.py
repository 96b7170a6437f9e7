"""One real stack for all tests of this folder, driven by commands as a user would, in a home of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bertjobs.cli.main import main
from ray_leftovers import Leftover, Process, leftovers
from waiting import wait_until

ENDING_S = 60.0
"""How long nothing may change in what ended jobs left: Ray kills it within seconds."""


def has_ended(status: dict[str, Any]) -> bool:
    return status["ended_at"] is not None


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

    @contextmanager
    def through_a_server(self) -> Iterator[dict[str, str]]:
        """Start `bertjobs web`, and let commands reach the queue through it only; yield address and token."""
        command = [sys.executable, "-m", "bertjobs", "web", "--port", "0", "--no-open"]
        server = subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, text=True)
        before, answer = self._env, server.stdout
        assert answer is not None
        try:
            address, _, token = answer.readline().strip().partition("/#token=")
            ours = {"BERTJOBS_SERVER": address, "BERTJOBS_TOKEN": token}
            # Without the home a command that used the stack would start another one.
            self._env = {**before, **ours, "BERTJOBS_HOME": str(self.home / "nobody")}
            yield ours
        finally:
            self._env = before
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
            answer.close()

    def wait_for(self, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the job's status until it is as described."""
        return dict(wait_until(lambda: self._status(job), holds, is_final=has_ended))

    def processes(self, title: str) -> list[int]:
        """Return the pids of this stack's processes whose command line contains `title`."""
        return [process.pid for process in self._processes() if title in process.title]

    def assert_nothing_is_left(self) -> None:
        """Wait until all is gone that jobs had which have ended; fail at once for what nothing will end."""
        wait_until(
            self._left_behind,
            lambda left: not left,
            is_final=lambda left: any(one.never_ends for one in left),
            patience_s=ENDING_S,
        )

    def _left_behind(self) -> list[Leftover]:
        stack = self._answer("cluster", "status")
        address = stack["members"]["ray"]["address"]
        if address is None:
            return []  # no test has started it yet
        token = Path(stack["ray_token_file"]).read_text().strip()

        def ask(path: str) -> Any:
            request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)

        def table(name: str) -> Any:
            return ask(f"/api/v0/{name}?limit=10000&detail=true")["data"]["result"]["result"]

        return leftovers(
            live=[job["id"] for job in self._answer("list", "--all") if job["ended_at"] is None],
            ray_jobs=ask("/api/jobs/"),
            actors=table("actors"),
            placement_groups=table("placement_groups"),
            processes=self._processes(),
        )

    def _processes(self) -> list[Process]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                env = dict(
                    line.split("=", 1)
                    for line in (folder / "environ").read_text(errors="replace").split("\0")
                    if "=" in line
                )
                title = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
            except OSError:
                continue  # it ended meanwhile
            if env.get("BERTJOBS_HOME") == str(self.home):
                found.append(Process(pid=int(folder.name), title=title, ray_job=env.get("RAY_JOB_ID", "")))
        return found

    def _status(self, job: str) -> Any:
        return self._answer("status", job)

    def _answer(self, *words: str) -> Any:
        """Run a command in this process: one of its own each time would keep a core busy."""
        not_ours = dict.fromkeys(name for name in os.environ if name not in self._env)
        done = CliRunner().invoke(main, [*words, "--json"], env={**not_ours, **self._own})
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def kill(self, title: str) -> None:
        """Kill what the title names, as the kernel does when memory runs out."""
        pids = self.processes(title)
        assert pids, f"there is no process {title!r} to kill"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

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


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """See after each test that uses the stack that of its ended jobs no actor and no process is alive."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").assert_nothing_is_left()
