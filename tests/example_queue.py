"""A queue with jobs in every state: a real Redis, and what plays the dispatcher and the drivers."""

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.scheduling.types import LiveAttempt
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.storage import JobDir

LEASE_S = 3600.0


@dataclass
class ExampleJob:
    """One job and, once it was started, the store of its driver."""

    id: str
    connection: Connection
    folder: Path
    num_steps: int = 400
    driver: LeaseStore | None = None
    live: LiveAttempt | None = None
    attempt: int = 0
    log: list[str] = field(default_factory=list)

    @property
    def _driver(self) -> LeaseStore:
        assert self.driver is not None, "start it first"
        return self.driver

    @property
    def job_dir(self) -> JobDir:
        return JobDir(str(self.folder), self.id)

    def phase(self, text: str) -> None:
        self._driver.report(phase=text, driver=f"driver-{self.id}")

    def step(self, step: int, *, lr: float = 5e-5, seed: int = 0) -> None:
        """Report one step, as a training run does."""
        line = step_line(step, self.num_steps, lr=lr, seed=seed)
        self._driver.report(progress=line)
        self._driver.log_metrics(line)

    def evaluation(self, step: int, *, accuracy: float, is_best: bool = True) -> None:
        self._driver.log_metrics(
            {
                "step": step,
                "epoch": step * 3 // self.num_steps,
                "valid_loss": 1.2 - accuracy,
                "valid_accuracy": accuracy,
                "is_best": is_best,
            }
        )

    def write_log(self, *lines: str) -> None:
        """Append lines to the copy of the driver's log in storage."""
        self.log += lines
        text = "".join(f"{line}\n" for line in self.log)
        self.job_dir.write_bytes(f"logs/a{self.attempt}.log", text.encode())

    def end(self, state: State, *, reason: str, message: str, metrics: dict[str, Any] | None = None) -> None:
        decision = RetryDecision(state=state, reason=reason, message=message)
        artifacts = {"dir": self.job_dir.path_of("").rstrip("/"), "model": self.job_dir.path_of("model")}
        self._driver.end(
            decision, nonce=f"end-{self.id}-{self.attempt}", metrics=metrics or {}, artifacts=artifacts
        )


def step_line(step: int, num_steps: int, *, lr: float, seed: int) -> dict[str, Any]:
    """Return what a run reports after a step: a loss that falls, with noise that only depends on `seed`."""
    noise = random.Random(seed * 100_003 + step)
    share = step / num_steps
    return {
        "step": step,
        "num_steps": num_steps,
        "epoch": min(2, int(3 * share)),
        "loss": 0.35 + 0.8 * math.exp(-4 * share) + 0.02 * seed + noise.gauss(0, 0.025),
        "lr": lr * min(1.0, 10 * share) * (1 - max(0.0, share - 0.1)),
        "grad_norm": 1.0 + noise.random(),
        "examples_per_s": 1180 + noise.gauss(0, 18),
        "tokens_per_s": 28_400 + noise.gauss(0, 420),
        "eta_s": (num_steps - step) * 0.9,
    }


class ExampleQueue:
    """Submits jobs and plays what happens to them."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self.connection = connection
        self.folder = folder
        self.store = JobStore(connection)
        self.dispatch = DispatchStore(connection, owner="example:1", lease_s=LEASE_S)
        assert self.dispatch.lead()

    def submit(
        self, kind: str = "finetune", config: dict[str, Any] | None = None, **given: Any
    ) -> ExampleJob:
        """Submit a job; what a test does not care about is filled in."""
        arguments: dict[str, Any] = {"storage": str(self.folder), "user": "ada", **given}
        arguments["resources"] = {
            "gpus": 0,
            "workers": None,
            "cpus_per_worker": None,
            **given.get("resources", {}),
        }
        job, _ = self.store.submit(
            kind, config or {"task": {"name": "snli"}, "train": {"epochs": 3}}, **arguments
        )
        return ExampleJob(job.id, self.connection, self.folder)

    def start(self, job: ExampleJob, *, node: str = "n1", gpus: int = 0) -> ExampleJob:
        """Grant a job its resources and let its driver report itself."""
        grant = Grant(workers=max(1, gpus), gpus_per_worker=1 if gpus else 0, cpus_per_worker=1, data_cpus=1)
        placement = {node: (grant.cpus, float(gpus))}
        live = self.dispatch.claim(job.id, grant=grant, placement=placement)
        self.dispatch.note_submitted([live])
        job.attempt, job.live = live.number, live
        job.driver = LeaseStore(
            self.connection, job_id=job.id, attempt=live.number, token=live.token, lease_s=LEASE_S
        )
        job.phase("encoding train")
        return job

    def clean_up(self, job: ExampleJob) -> None:
        """Let the dispatcher see that the driver is gone and its log is copied."""
        assert job.live is not None
        self.dispatch.note_gone(job.live)
        self.dispatch.note_log(job.id, job.attempt, outcome="complete")

    def date_back(self, job: ExampleJob, *seconds_ago: float) -> None:
        """Make a job older, for pictures: its events happened so many seconds ago, in their order."""
        client: Any = self.connection.client
        now_ms = int(client.time()[0]) * 1000
        times = [now_ms - int(ago * 1000) for ago in seconds_ago]
        key = f"bj:job:{job.id}"
        entries = client.xrange(f"{key}:events")
        assert len(entries) == len(times), [fields for _, fields in entries]
        client.delete(f"{key}:events")
        for (_, fields), at in zip(entries, times, strict=True):
            client.xadd(f"{key}:events", fields, id=f"{at}-1")
        client.hset(key, "submitted_at", times[0])
        attempt = f"{key}:a{job.attempt}"
        fields_at = [(key, "started_at", 1), (attempt, "claimed_at", 1), (attempt, "started_at", 2)]
        for name, field_name, event in [*fields_at, (key, "ended_at", 3), (attempt, "ended_at", 3)]:
            if event < len(times) and client.hexists(name, field_name):
                client.hset(name, field_name, times[event])
