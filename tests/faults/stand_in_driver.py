"""A driver that trains nothing: `python -m faults.stand_in_driver JOB ATTEMPT TOKEN`.

Everything but the work is real: the lease, the heartbeat process, the session, publishing, the end. Where the
file that FAULTS_STORAGE_FAILS names exists, half of all writes to storage fail, object by object.
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from bertjobs.errors import Cancelled, RunError, StorageError
from bertjobs.jobs.attempt_result import AttemptResult
from bertjobs.jobs.driver.session import JobSession
from bertjobs.runs import driver as real_driver
from bertjobs.runs.run_context import remaining_checkpoint
from bertjobs.storage import JobDir
from bertjobs.training.checkpoints.checkpoint_names import checkpoint_name, superseded

NUM_STEPS = 6


class Drained(RunError):
    """The queue is drained."""

    failure = "Drained"


class Stopped(RunError):
    """SIGTERM without a command."""

    failure = "DriverStopped"


def work(session: JobSession, _: Any) -> AttemptResult:
    """Count to NUM_STEPS, with a checkpoint at each; the order of effects is that of the real loop."""
    job_dir = JobDir(session.job.storage, session.job.id, writer=f"a{session.attempt.number}")
    job_dir.check_writable()
    job_dir.recover()
    session.set_phase("encoding")
    previous = remaining_checkpoint(job_dir, session.job.checkpoint)
    steps = job_dir.read_json(f"checkpoints/{previous}/state.json")["steps"] if previous else []
    while len(steps) < NUM_STEPS:
        steps.append(len(steps) + 1)
        time.sleep(float(os.environ["FAULTS_STEP_S"]))
        session.progress({"step": len(steps), "num_steps": NUM_STEPS})
        command = session.command()
        session.confirm_lease()
        name = checkpoint_name(len(steps), writer=job_dir.writer)
        _write(session, job_dir, f"checkpoints/{name}/state.json", steps)
        session.publish_checkpoint(name, len(steps))
        for old in superseded(job_dir.list("checkpoints"), published=name, previous=previous, best_step=None):
            job_dir.remove(f"checkpoints/{old}")
        previous = name
        if command:
            raise _reason(command)
    session.confirm_lease()
    _write(session, job_dir, f"{job_dir.own('model')}/model.json", steps)
    _write(session, job_dir.outputs(), "metrics.json", steps)
    artifacts = {"dir": job_dir.uri, "model": job_dir.path_of(job_dir.own("model"))}
    return AttemptResult(metrics={"steps": len(steps)}, artifacts=artifacts)


def _write(session: JobSession, job_dir: JobDir, name: str, steps: list[int]) -> None:
    attempt = session.attempt
    job_dir.write_json(name, {"attempt": attempt.number, "token": attempt.token, "steps": steps})


def _reason(command: str | None) -> BaseException:
    if command == "cancel":
        return Cancelled("Cancelled while it ran")
    return Drained("The queue was drained") if command == "drain" else Stopped("Stopped from outside")


def _failing_writes(marker: Path) -> None:
    real = JobDir.write_bytes

    def write_bytes(self: JobDir, name: str, data: bytes) -> None:
        if marker.exists() and random.random() < 0.5:
            raise StorageError(f"{self.path_of(name)}: the object store is away", may_pass=True)
        real(self, name, data)

    JobDir.write_bytes = write_bytes  # type: ignore[method-assign]


def _record_ends(journal: Path) -> None:
    real = JobSession.finish

    def finish(self: JobSession, outcome: Any, **given: Any) -> Any:
        state = real(self, outcome, **given)
        line = {"job": self.job.id, "token": self.attempt.token, "state": str(state), "at": time.time()}
        with journal.open("a") as f:  # one write of a short line: others append too
            f.write(json.dumps(line) + "\n")
        return state

    JobSession.finish = finish  # type: ignore[method-assign]


def main(job_id: str, attempt: str, token: str) -> int:
    """Run the real driver over the work above."""
    _failing_writes(Path(os.environ["FAULTS_STORAGE_FAILS"]))
    _record_ends(Path(os.environ["FAULTS_JOURNAL"]))
    real_driver._run_job = work
    # The real one imports torch to say the same.
    real_driver._reason_of_sigterm = lambda session: _reason(session.command())
    return real_driver.main(job_id, attempt=int(attempt), token=int(token))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
