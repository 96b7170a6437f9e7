"""A driver of tests: what the dispatcher and the driver of one attempt do to a real Redis, step by step."""

from collections.abc import Mapping
from typing import Any

from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.lease_store import LeaseStore


class Driver:
    """Plays the dispatcher and the driver in one attempt at a job."""

    def __init__(
        self,
        connection: Connection,
        job_id: str,
        *,
        grant: Grant,
        placement: Mapping[str, tuple[float, float]],
    ) -> None:
        self._dispatcher = DispatchStore(connection, owner="test", lease_s=60)
        assert self._dispatcher.lead()
        live = self._dispatcher.claim(job_id, grant=grant, placement=placement)
        self.lease = LeaseStore(connection, job_id=job_id, attempt=live.number, token=live.token, lease_s=60)
        self._job_id = job_id

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
