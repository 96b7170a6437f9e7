"""Stacks in folders of their own, ended by pid whatever a test leaves behind."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from bertjobs import stack
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import process, ray_head
from bertjobs.stack.lifecycle import MEMBERS
from bertjobs.stack.paths import StackPaths, stack_paths

SLEEPER = "import time\nwhile True: time.sleep(60)"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home that holds nothing yet, and nothing any more when the test has ended."""
    settings = load_settings({"BERTJOBS_HOME": str(tmp_path / "home")})
    yield settings
    end_stack(settings)


def end_stack(settings: Settings) -> None:
    """End a stack and everything that carries its mark, and prove it."""
    paths = stack_paths(settings)
    stack.down(settings, announce=quiet)
    for member in MEMBERS:
        process.stop_descendants(member, home=settings.home, grace_s=2.0)
        assert process.descendants(member, home=settings.home) == []
    if paths.runtime_dir is not None:
        shutil.rmtree(paths.runtime_dir, ignore_errors=True)


@pytest.fixture
def paths(settings: Settings) -> StackPaths:
    return stack_paths(settings)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something light stand in for Ray and the dispatcher: it prints its environment and sleeps."""
    script = (
        f"import json, os\nprint(json.dumps(dict(os.environ, PID=str(os.getpid()))), flush=True)\n{SLEEPER}"
    )
    command = [sys.executable, "-c", script]
    monkeypatch.setattr(ray_head, "command", lambda paths, *, ports: command)
    monkeypatch.setattr("bertjobs.stack.lifecycle._python_command", lambda module: command)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any stack."""
    with subprocess.Popen([sys.executable, "-c", SLEEPER]) as child:
        yield child
        child.kill()


@pytest.fixture
def client() -> Iterator[Callable[[str], redis.Redis]]:
    """Clients by address, closed at the end."""
    opened: list[redis.Redis] = []

    def connect(url: str) -> redis.Redis:
        opened.append(redis.Redis.from_url(url, decode_responses=True))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def quiet(_line: str) -> None:
    """Hear an announcement and say nothing."""
