"""What happens to a job after an attempt failed. Pure: no clock, no Redis, no Ray.

failure                                                          decision
------------------------------------------------------------    ------------------------------------------
infrastructure (driver, worker or node lost, ...)                RETRYING from the last checkpoint, uncharged
storage or a download that may work again later                 as infrastructure
the job itself (data, config, an exception in the step)          RETRYING up to `max_retries`, then FAILED
out of memory, another version than the dispatcher's             FAILED: it would fail again
the queue was drained                                            RETRYING at once, uncharged, not a fault
no progress for too long                                         as infrastructure, once; then FAILED
cancelled, time limit                                            CANCELLED, TIMED_OUT
"""

from dataclasses import dataclass, replace

from bertjobs.errors import BertjobsError, as_sentence
from bertjobs.jobs.job import State

INFRASTRUCTURE = frozenset(
    {
        "DriverLost",  # its heartbeats stopped and Ray reports that it is gone
        "DriverStopped",  # SIGTERM from outside: the node is shut down, or someone stopped the Ray Job
        "WorkerLost",  # a training process was killed
        "HostOutOfMemory",  # Ray killed it, because its node ran out of memory
        "NodeLost",
        "StartDeadline",  # the workers did not start in time
        "SubmitFailed",  # Ray refused the job, or the driver ended before its first report
        "QueueError",  # the driver could not reach Redis
        "RayError",  # Ray itself failed under the driver
    }
)
"""Failure classes that the job has not caused."""

FINAL = frozenset({"OutOfMemory", "VersionMismatch"})
"""Failure classes that are never retried automatically: the next attempt would fail the same way."""

MAX_STALLS = 1
"""Stalled attempts that are retried: one may be the network's fault, two are the job's or the cluster's."""
MAX_FAULTS = 6
"""Infrastructure faults in a row, without a checkpoint in between, after which the job fails."""
FIRST_DELAY_S, MAX_DELAY_S = 2.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt failed."""

    word: str
    """Its class: `failure` of our errors, or one of `INFRASTRUCTURE`."""
    message: str
    may_pass: bool = False
    """Whether it is a fault, although its class is not always one: storage or a server was away."""


@dataclass(frozen=True, kw_only=True)
class RetryDecision:
    """The next state of a job whose attempt has ended."""

    state: State
    reason: str
    message: str
    delay_s: float = 0.0
    """Seconds until it goes back into the queue; only with RETRYING."""
    charged: bool = False
    """Whether the retry counts against `max_retries`."""
    is_free: bool = False
    """Whether it counts neither as a retry nor as a fault."""
    failure: str = ""
    """Class of the failure; empty for none."""


SUCCESS = RetryDecision(state=State.SUCCEEDED, reason="", message="")
"""The decision about an attempt that has done its work."""


def decide(
    failure: Failure, *, num_faults: int, num_charged: int, max_retries: int, num_stalls: int = 0
) -> RetryDecision:
    """Decide from the failure and from the earlier failures of the job."""
    if failure.word == "Stalled":
        decision = _after_stall(failure, num_stalls=num_stalls, num_faults=num_faults)
        return replace(decision, failure=failure.word)
    decision = _decide(failure, num_faults=num_faults, num_charged=num_charged, max_retries=max_retries)
    return replace(decision, failure=failure.word)


def _decide(failure: Failure, *, num_faults: int, num_charged: int, max_retries: int) -> RetryDecision:
    if failure.word == "Drained":
        message = (
            f"{as_sentence(failure.message)} Resumes from its last checkpoint once the queue is open again."
        )
        return RetryDecision(state=State.RETRYING, reason="Draining", message=message, is_free=True)
    if failure.word == "Cancelled":
        return RetryDecision(state=State.CANCELLED, reason="Cancelled", message=failure.message)
    if failure.word in INFRASTRUCTURE or failure.may_pass:
        return _after_fault(failure, num_faults=num_faults)
    if failure.word in FINAL or num_charged >= max_retries:
        return RetryDecision(state=State.FAILED, reason=failure.word, message=failure.message)
    delay_s = _delay_s(num_charged)
    return RetryDecision(
        state=State.RETRYING,
        reason="BackoffUntil",
        message=f"{failure.word}: {as_sentence(failure.message)} "
        f"Retry {num_charged + 1} of {max_retries} in {delay_s:g} s.",
        delay_s=delay_s,
        charged=True,
    )


def failure_of(error: BaseException) -> Failure:
    """Classify an exception: ours by their class, Ray's as RayError, others as an error of the user's
    code."""
    if isinstance(error, BertjobsError):
        return Failure(word=error.failure, message=str(error), may_pass=error.may_pass)
    if type(error).__module__.split(".")[0] == "ray":
        return Failure(word="RayError", message=_one_line(error))
    return Failure(word="UserError", message=f"{type(error).__name__}: {_one_line(error)}")


def _after_stall(failure: Failure, *, num_stalls: int, num_faults: int) -> RetryDecision:
    if num_stalls < MAX_STALLS:
        return _after_fault(failure, num_faults=num_faults)
    return RetryDecision(
        state=State.FAILED,
        reason=failure.word,
        message=f"{as_sentence(failure.message)} Given up: an earlier attempt stalled too. The stacks of its "
        "processes are in its log (`bertjobs logs`).",
    )


def _after_fault(failure: Failure, *, num_faults: int) -> RetryDecision:
    if num_faults >= MAX_FAULTS:
        return RetryDecision(
            state=State.FAILED,
            reason=failure.word,
            message=f"{as_sentence(failure.message)} Given up after {num_faults + 1} faults in a row without "
            "a checkpoint; `bertjobs retry` tries again.",
        )
    delay_s = _delay_s(num_faults)
    return RetryDecision(
        state=State.RETRYING,
        reason="BackoffUntil",
        message=f"{failure.word}: {as_sentence(failure.message)} Resumes from the last checkpoint in "
        f"{delay_s:g} s; not charged to the job.",
        delay_s=delay_s,
    )


def _delay_s(num_before: int) -> float:
    return min(FIRST_DELAY_S * 2.0**num_before, MAX_DELAY_S)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
