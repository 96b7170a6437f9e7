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
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.settings import load_settings
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


class Driver:
    """Plays the dispatcher and the driver in one attempt at a job."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._job_id = job_id
        self._dispatcher = DispatchStore(store.connection, owner="test", lease_s=60)
        assert self._dispatcher.lead()
        grant = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
        live = self._dispatcher.claim(job_id, grant=grant, placement={})
        self.lease = LeaseStore(
            store.connection, job_id=job_id, attempt=live.number, token=live.token, lease_s=60
        )

    def step(self, step: int, *, loss: float = 0.5) -> None:
        report = {"step": step, "num_steps": 40, "epoch": 0, "loss": loss, "lr": 1e-4, "grad_norm": 1.0}
        report |= {"examples_per_s": 123.4, "tokens_per_s": 3000.0, "eta_s": 65.0}
        self.lease.report(progress=report)
        self.lease.log_metrics(report)

    def end(self, state: State, *, reason: str = "", message: str = "", **results: Any) -> None:
        results = {"metrics": {}, "artifacts": {}, **results}
        self.lease.end(RetryDecision(state=state, reason=reason, message=message), nonce="once", **results)
        for live in self._dispatcher.live()[1]:
            if live.job_id == self._job_id:
                self._dispatcher.note_gone(live)
                self._dispatcher.note_log(live.job_id, live.number, outcome="complete")


@pytest.fixture
def drive(store: JobStore) -> Callable[[str], Driver]:
    """Start an attempt at a job: `drive(job_id).step(3)`."""
    return lambda job_id: Driver(store, job_id)


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
