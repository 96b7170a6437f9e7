"""What to do about a live attempt, from what Redis and Ray report about it. Pure: no clock, no Redis, no Ray.

An attempt is gone when its actors are, not when Ray's record of the job says that it ended. Neither source is
trusted alone. A Ray Job that is FAILED while its driver still sends heartbeats is not dead;
a silent driver is not dead until Ray reports it; and a new token is issued only after the old driver is known
to be gone.
"""

from dataclasses import dataclass

from bertjobs.jobs.job import STARTING_WORKERS, State
from bertjobs.jobs.ray.api import RayJob
from bertjobs.jobs.retry import Failure
from bertjobs.jobs.scheduling.types import LiveAttempt
from bertjobs.settings import DEFAULT_START_DEADLINE_S


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long the dispatcher waits before it acts, in seconds."""

    lease_s: float
    """Silence after which a driver is considered lost."""
    start_s: float = DEFAULT_START_DEADLINE_S
    """For the driver to report, and for the workers of the gang to come up. No other phase counts."""
    cancel_s: float = 20.0
    """From the cancel command to the driver until Ray is asked to stop it."""
    drain_s: float = 120.0
    """From the drain command to the driver until Ray is asked to stop it: time for a step and a
    checkpoint."""
    leave_s: float = 20.0
    """From the end of an attempt until its driver process must have exited by itself."""


class NoAction:
    """Leave the attempt alone."""


class StartRayJob:
    """Submit it to Ray, or submit it again: the submission id makes both the same."""


class ReleaseResources:
    """The driver has exited: free what the attempt held."""


class TimeOut:
    """Tell the driver to stop; the job becomes TIMED_OUT."""


@dataclass(frozen=True, kw_only=True)
class StopRayJob:
    """Ask Ray to stop it, again and again until it is gone."""

    why: str


@dataclass(frozen=True, kw_only=True)
class EndAttempt:
    """End the attempt in Redis, because its driver can no longer do so."""

    failure: Failure


Action = NoAction | StartRayJob | ReleaseResources | TimeOut | StopRayJob | EndAttempt


def next_action(
    live: LiveAttempt, ray_job: RayJob | None, *, timeouts: Timeouts, observed_s: float
) -> Action:
    """Decide on one attempt.

    `ray_job` is None where Ray does not know it. `observed_s` is how long Redis has been reachable without a
    gap: while it was down no heartbeat could arrive, so silence before that does not count.
    """
    if live.ended_ago_s is not None:
        return _after_end(ray_job, ended_ago_s=live.ended_ago_s, timeouts=timeouts)
    is_silent = live.heartbeat_ago_s is None or min(live.heartbeat_ago_s, observed_s) >= timeouts.lease_s
    if ray_job is None:
        return _unknown_to_ray(live, is_silent=is_silent)
    if not ray_job.has_ended:
        return _running(live, is_silent=is_silent, timeouts=timeouts)
    # Ray marks a job FAILED when it loses contact with it. Without an exit code, wait for the lease to
    # expire.
    if ray_job.has_exited or is_silent:
        return EndAttempt(failure=_failure_of(live, ray_job, timeouts))
    return NoAction()


def _after_end(ray_job: RayJob | None, *, ended_ago_s: float, timeouts: Timeouts) -> Action:
    # The record of a driver with which Ray has lost contact says FAILED, while driver and workers live on.
    if ray_job is None or (ray_job.has_ended and not ray_job.has_actors):
        return ReleaseResources()
    if ended_ago_s >= timeouts.leave_s:
        what = "its actors live" if ray_job.has_ended else "its process has not exited"
        return StopRayJob(why=f"its attempt has ended and {what}")
    return NoAction()


def _unknown_to_ray(live: LiveAttempt, *, is_silent: bool) -> Action:
    if live.is_submitted or live.heartbeat_ago_s is not None:
        lost = Failure(word="DriverLost", message="Ray was restarted and no longer knows the driver.")
        return EndAttempt(failure=lost) if is_silent else NoAction()
    if live.state is State.CANCELLING:
        cancelled = Failure(word="Cancelled", message="Cancelled before its driver was started.")
        return EndAttempt(failure=cancelled)
    if live.drained_ago_s is not None:
        return EndAttempt(failure=Failure(word="Drained", message="Drained before its driver was started."))
    return StartRayJob()


def _running(live: LiveAttempt, *, is_silent: bool, timeouts: Timeouts) -> Action:
    if live.state is State.CANCELLING:
        is_overdue = live.cancel_ago_s is not None and live.cancel_ago_s >= timeouts.cancel_s
        return StopRayJob(why="it was told to stop and has not stopped") if is_overdue else NoAction()
    if live.time_left_s is not None and live.time_left_s <= 0:
        return TimeOut()
    if live.heartbeat_ago_s is not None and is_silent:
        return StopRayJob(why=f"its driver has sent no heartbeat for {live.heartbeat_ago_s:.0f} s")
    if live.drained_ago_s is not None and live.drained_ago_s >= timeouts.drain_s:
        return StopRayJob(why="the queue is drained and the driver has not written a checkpoint and exited")
    if _is_stuck(live, timeouts):
        return StopRayJob(why=f"its workers have not started within {live.progress_ago_s:.0f} s")
    return NoAction()


def _is_stuck(live: LiveAttempt, timeouts: Timeouts) -> bool:
    is_starting = live.heartbeat_ago_s is None or live.phase == STARTING_WORKERS
    return live.state is State.STARTING and is_starting and live.progress_ago_s >= timeouts.start_s


def _failure_of(live: LiveAttempt, ray_job: RayJob, timeouts: Timeouts) -> Failure:
    if live.drained_ago_s is not None:
        return Failure(word="Drained", message="The queue was drained.")
    if live.is_stalled:
        message = (
            f"No progress for {live.progress_ago_s:.0f} s, and the driver could not end the attempt itself."
        )
        return Failure(word="Stalled", message=message)
    if _is_stuck(live, timeouts):
        message = f"It did not come up within {timeouts.start_s:.0f} s."
        return Failure(word="StartDeadline", message=message)
    ray_report = f"Ray reports {ray_job.status}: {_tail(ray_job.message)}"
    if live.heartbeat_ago_s is None:
        message = f"The driver ended before its first report. {ray_report}"
        return Failure(word="SubmitFailed", message=message)
    return Failure(word="DriverLost", message=f"The driver is gone. {ray_report}")


def _tail(text: str, *, num_characters: int = 300) -> str:
    """Return the end of a message on one line: the last words of a traceback name the error."""
    line = " ".join(text.split()) or "no message."
    return line if len(line) <= num_characters else "... " + line[-num_characters:]
