"""The command line as a user has it, an empty home, and a real Redis for those who ask."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bertjobs.cli.main import main
from bertjobs.jobs.job import Grant, Job, State
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.settings import load_settings
from played_driver import Driver
from redis_process import RedisProcess

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the developer's own installation is seen; no address leads anywhere."""
    ours = {name for name in os.environ if name.startswith("BERTJOBS_")}
    for name in ours - {"BERTJOBS_TEST_DATA"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BERTJOBS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BERTJOBS_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("BERTJOBS_RAY_ADDRESS", "http://127.0.0.1:1")
    return tmp_path / "home"


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run one command: `run("list", "--json")`."""
    return lambda *words: CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.fixture
def store(redis_server: RedisProcess, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    """Return the store that the commands of this test use; it is empty."""
    monkeypatch.setenv("BERTJOBS_REDIS_URL", redis_server.url)
    store = connect(load_settings())
    store.connection.client.flushall()
    yield store
    store.close()


@pytest.fixture
def drive(store: JobStore) -> Callable[[str], Driver]:
    """Start an attempt at a job: `drive(job_id).step(3)`."""
    grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
    return lambda job_id: Driver(store.connection, job_id, grant=grant, placement={})


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """Make a job as the store returns it, submitted three minutes before noon of 2026-01-01."""
    return _make_job


def _make_job(**changes: Any) -> Job:
    facts: dict[str, Any] = {
        "id": "j-1t4k7wx3m",
        "kind": "finetune",
        "name": "",
        "user": "ada",
        "state": State.QUEUED,
        "reason": "",
        "message": "",
        "priority": 0,
        "num_attempts": 0,
        "place": None,
        "phase": "",
        "progress": {},
        "resources": {"gpus": 0, "workers": None, "cpus_per_worker": None},
        "submitted_at": NOON - timedelta(minutes=3),
        "started_at": None,
        "ended_at": None,
        "config": {},
        "storage": "/somewhere/jobs",
        "max_retries": 0,
        "time_limit_s": None,
        "after": (),
        "idempotency_key": None,
        "num_charged": 0,
        "num_faults": 0,
        "used_s": 0.0,
        "keep_s": None,
        "checkpoint": None,
        "checkpoint_step": None,
        "metrics": {},
        "artifacts": {},
    }
    return Job(**{**facts, **changes})
