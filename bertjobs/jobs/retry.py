"""What happens to a job after an attempt ended badly. Pure: no clock, no Redis, no Ray.

failure                                                          decided
------------------------------------------------------------    ------------------------------------------
the cluster's fault (driver, worker or node lost, ...)           RETRYING from the last checkpoint, free
the job's own fault (data, config, an exception in the step)     FAILED; RETRYING while `max_retries` lasts
out of memory, another version than the dispatcher's             FAILED: the same again would fail the same
the queue was drained                                            RETRYING at once, free, and no fault
cancelled, time is up                                            CANCELLED, TIMED_OUT
"""

from dataclasses import dataclass, replace

from bertjobs.errors import BertjobsError
from bertjobs.jobs.job import State

INFRASTRUCTURE = frozenset(
    {
        "DriverLost",  # its heartbeats stopped and Ray says it is gone
        "DriverStopped",  # SIGTERM from outside: the node is drained, or someone stopped the Ray Job
        "WorkerLost",  # a training process was killed
        "NodeLost",
        "StartDeadline",  # the gang was granted and never came up
        "SubmitFailed",  # Ray refused or lost the driver before it spoke
        "QueueError",  # the driver could not reach Redis
        "RayError",  # Ray itself failed under the driver
    }
)
"""Failure classes that are not the job's fault."""

FINAL = frozenset({"OutOfMemory", "VersionMismatch"})
"""Failure classes that are not tried again even when asked: nothing will have changed."""

MAX_FAULTS = 6
"""Infrastructure faults in a row, without a checkpoint between them, after which the job is given up."""
FIRST_DELAY_S, MAX_DELAY_S = 2.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt ended."""

    word: str
    """Its class: `failure` of our errors, or one of `INFRASTRUCTURE`."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of the job."""

    state: State
    reason: str
    message: str
    delay_s: float = 0.0
    """Seconds before it goes back into the queue; only with RETRYING."""
    charged: bool = False
    """Whether the retry counts against `max_retries`."""
    is_free: bool = False
    """Whether it counts as nothing at all: nobody is at fault."""
    failure: str = ""
    """Class of the failure that was decided on; empty for none."""


def decide(failure: Failure, *, num_faults: int, num_charged: int, max_retries: int) -> Decision:
    """Decide from the failure and what the job has been through already."""
    decision = _decide(failure, num_faults=num_faults, num_charged=num_charged, max_retries=max_retries)
    return replace(decision, failure=failure.word)


def _decide(failure: Failure, *, num_faults: int, num_charged: int, max_retries: int) -> Decision:
    if failure.word == "Drained":
        message = f"{failure.message} Goes on from its last checkpoint once the queue is open again."
        return Decision(state=State.RETRYING, reason="Draining", message=message, is_free=True)
    if failure.word == "Cancelled":
        return Decision(state=State.CANCELLED, reason="Cancelled", message=failure.message)
    if failure.word in INFRASTRUCTURE:
        return _after_fault(failure, num_faults=num_faults)
    if failure.word in FINAL or num_charged >= max_retries:
        return Decision(state=State.FAILED, reason=failure.word, message=failure.message)
    delay_s = _delay_s(num_charged)
    return Decision(
        state=State.RETRYING,
        reason="BackoffUntil",
        message=f"{failure.word}: {failure.message} "
        f"Retry {num_charged + 1} of {max_retries} in {delay_s:g} s.",
        delay_s=delay_s,
        charged=True,
    )


def failure_of(error: BaseException) -> Failure:
    """Name an exception for the decision: ours by their class, others as a fault of the step's code."""
    if isinstance(error, BertjobsError):
        return Failure(word=error.failure, message=str(error))
    if type(error).__module__.split(".")[0] == "ray":
        return Failure(word="RayError", message=_one_line(error))
    return Failure(word="UserError", message=f"{type(error).__name__}: {_one_line(error)}")


def _after_fault(failure: Failure, *, num_faults: int) -> Decision:
    if num_faults >= MAX_FAULTS:
        return Decision(
            state=State.FAILED,
            reason=failure.word,
            message=f"{failure.message} Given up after {num_faults + 1} faults in a row without a "
            "checkpoint; `bertjobs retry` starts again.",
        )
    delay_s = _delay_s(num_faults)
    return Decision(
        state=State.RETRYING,
        reason="BackoffUntil",
        message=f"{failure.word}: {failure.message} Goes on from the last checkpoint in {delay_s:g} s; "
        "not charged to the job.",
        delay_s=delay_s,
    )


def _delay_s(num_before: int) -> float:
    return min(FIRST_DELAY_S * 2.0**num_before, MAX_DELAY_S)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
