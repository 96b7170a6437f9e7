"""What the driver of an attempt writes to Redis. Each call carries the attempt's token and is refused once
the token is outdated."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertjobs.jobs.job import State
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.store.connection import Connection


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a heartbeat learns."""

    command: str
    """For the driver; empty for none."""
    idle_s: float = 0.0
    """Since the last report of a phase, of progress or of other work that has advanced."""
    step_s: float | None = None
    """Median time between two reports of steps; None while it is not known."""
    phase: str = ""


class LeaseStore:
    """Redis under one attempt's token. Not thread-safe; `JobSession` locks."""

    def __init__(
        self, connection: Connection, *, job_id: str, attempt: int, token: int, lease_s: float
    ) -> None:
        self.connection = connection
        # Part of every call: the script compares the token before it writes.
        self._lease = {"id": job_id, "number": attempt, "token": token}
        self._lease_ms = int(lease_s * 1000)
        # The driver and its rank 0 worker may both append lines; each counts its own.
        self._writer = uuid.uuid4().hex
        self._num_lines = 0

    def report(
        self,
        *,
        phase: str | None = None,
        progress: Mapping[str, Any] | None = None,
        step_s: float | None = None,
        nodes: list[str] | None = None,
        is_alive: bool = False,
        driver: str | None = None,
    ) -> str:
        """Renew the lease, with news if there are any. Returns the command for the driver, or ''.

        `driver` names the process of the driver, once, when it starts: a second one is refused.

        Raises: LeaseLost: the token is outdated; RedisDown.
        """
        return self._report(
            phase=phase,
            progress=None if progress is None else json.dumps(progress),
            # Apart from the JSON text, which the script stores without parsing it.
            step=None if progress is None else progress["step"],
            step_ms=None if step_s is None else int(step_s * 1000),
            nodes=None if nodes is None else json.dumps(nodes),
            is_alive=is_alive or None,
            driver=driver,
        ).command

    def beat(self, *, is_stalled: bool = False) -> Beat:
        """Renew the lease, and return what there is to know about the attempt. is_stalled: record that it is.

        Raises: LeaseLost: the token is outdated; RedisDown.
        """
        return self._report(is_stalled=is_stalled or None)

    def _report(self, **news: Any) -> Beat:
        command, idle_ms, step_ms, phase = self.connection.run(
            "report",
            **self._lease,
            lease_ms=self._lease_ms,
            **news,
        )
        return Beat(
            command=str(command),
            idle_s=int(idle_ms) / 1000,
            step_s=int(step_ms) / 1000 if step_ms else None,
            phase=str(phase),
        )

    def log_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics. Raises: LeaseLost, RedisDown."""
        # The number tells a line that was sent twice. A line lost in an outage only leaves a gap.
        self._num_lines += 1
        self.connection.run(
            "metrics", **self._lease, writer=self._writer, line=self._num_lines, values=json.dumps(values)
        )

    def publish_checkpoint(self, name: str, *, step: int) -> None:
        """Make this checkpoint the one to resume from. Raises: LeaseLost, RedisDown."""
        self.connection.run("checkpoint", **self._lease, name=name, step=step)

    def end(
        self, decision: RetryDecision, *, nonce: str, metrics: Mapping[str, Any], artifacts: Mapping[str, Any]
    ) -> State:
        """End the attempt as decided; a call with the same nonce has no further effect. Returns the job's new
        state.

        Raises: LeaseLost, RedisDown.
        """
        (state,) = self.connection.run(
            "end_attempt",
            **self._lease,
            **decision_fields(decision),
            nonce=nonce,
            # Left out where empty: what the job has already stays.
            metrics=json.dumps(metrics) if metrics else None,
            artifacts=json.dumps(artifacts) if artifacts else None,
        )
        return State(state)


def decision_fields(decision: RetryDecision) -> dict[str, Any]:
    """Return a decision as arguments of `end_attempt.lua`."""
    return {
        "target": str(decision.state),
        "reason": decision.reason,
        "failure": decision.failure,
        "message": decision.message,
        "delay_ms": int(decision.delay_s * 1000),
        "charged": decision.charged,
        "is_free": decision.is_free,
    }
