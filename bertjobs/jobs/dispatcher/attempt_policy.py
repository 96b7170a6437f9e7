"""What to do about an attempt whose Ray Job is not known to be gone, from what Redis and Ray say of it. Pure.

Neither is believed alone. A Ray Job that says FAILED while its driver still heartbeats is not dead; a silent
driver is not dead until Ray says so; and a new token is given only after the old driver is known to be gone.
"""

from dataclasses import dataclass

from bertjobs.jobs.job import State
from bertjobs.jobs.ray.api import RayJob
from bertjobs.jobs.retry import Failure
from bertjobs.jobs.scheduling.types import Live


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to be patient, in seconds."""

    lease_s: float
    """Silence after which a driver is asked for."""
    start_s: float = 900.0
    """STARTING without a sign of progress: a gang that never came up, a driver that never spoke."""
    cancel_s: float = 20.0
    """From telling the driver to stop until Ray is told to stop it."""
    drain_s: float = 120.0
    """From telling the driver that the queue is drained until Ray is told to stop it: time for a step and a
    checkpoint."""
    leave_s: float = 20.0
    """From the end of an attempt until its driver must have left by itself."""


class Keep:
    """Leave it alone."""


class Start:
    """Hand it to Ray, or hand it over again: the submission id makes both the same."""


class Gone:
    """Its driver has left: what it held is free."""


class TimeIsUp:
    """Tell the driver to stop; the job becomes TIMED_OUT."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Have Ray stop it; look again until it is gone."""

    why: str


@dataclass(frozen=True, kw_only=True)
class End:
    """End the attempt for a driver that cannot."""

    failure: Failure


Action = Keep | Start | Gone | TimeIsUp | Stop | End


def judge(live: Live, ray_job: RayJob | None, *, limits: Limits, watched_s: float) -> Action:
    """Decide on one attempt.

    `ray_job` is None where Ray does not know it. `watched_s` is how long Redis has been there without a gap:
    while it was down no driver could be heard, so that silence does not count.
    """
    if live.ended_ago_s is not None:
        return _after_end(ray_job, ended_ago_s=live.ended_ago_s, limits=limits)
    is_silent = live.heard_ago_s is None or min(live.heard_ago_s, watched_s) >= limits.lease_s
    if ray_job is None:
        return _unknown_to_ray(live, is_silent=is_silent)
    if ray_job.has_ended:
        return End(failure=_lost(live, ray_job, limits)) if ray_job.has_exited or is_silent else Keep()
    return _running(live, is_silent=is_silent, limits=limits)


def _after_end(ray_job: RayJob | None, *, ended_ago_s: float, limits: Limits) -> Action:
    if ray_job is None or ray_job.has_ended:
        return Gone()
    return (
        Stop(why="its attempt has ended and it does not leave") if ended_ago_s >= limits.leave_s else Keep()
    )


def _unknown_to_ray(live: Live, *, is_silent: bool) -> Action:
    if live.is_submitted or live.heard_ago_s is not None:
        lost = Failure(word="DriverLost", message="Ray was restarted and no longer knows the driver.")
        return End(failure=lost) if is_silent else Keep()
    if live.state is State.CANCELLING:
        return End(failure=Failure(word="Cancelled", message="Cancelled before its driver was started."))
    if live.drained_ago_s is not None:
        return End(failure=Failure(word="Drained", message="Drained before its driver was started."))
    return Start()


def _running(live: Live, *, is_silent: bool, limits: Limits) -> Action:
    if live.state is State.CANCELLING:
        overdue = live.told_ago_s is not None and live.told_ago_s >= limits.cancel_s
        return Stop(why="it was told to stop and did not") if overdue else Keep()
    if live.time_left_s is not None and live.time_left_s <= 0:
        return TimeIsUp()
    if live.heard_ago_s is not None and is_silent:
        return Stop(why=f"its driver has been silent for {live.heard_ago_s:.0f} s")
    if live.drained_ago_s is not None and live.drained_ago_s >= limits.drain_s:
        return Stop(why="the queue is drained and it has not written its checkpoint and left")
    if _is_stuck(live, limits):
        return Stop(why=f"it has been STARTING without progress for {live.alive_ago_s:.0f} s")
    return Keep()


def _is_stuck(live: Live, limits: Limits) -> bool:
    return live.state is State.STARTING and live.alive_ago_s >= limits.start_s


def _lost(live: Live, ray_job: RayJob, limits: Limits) -> Failure:
    if live.drained_ago_s is not None:
        return Failure(word="Drained", message="The queue was drained.")
    if _is_stuck(live, limits):
        waited = f"It did not come up within {limits.start_s:.0f} s."
        return Failure(word="StartDeadline", message=waited)
    said = f"Ray says {ray_job.status}: {_tail(ray_job.message)}"
    if live.heard_ago_s is None:
        return Failure(word="SubmitFailed", message=f"The driver ended before it spoke. {said}")
    return Failure(word="DriverLost", message=f"The driver is gone. {said}")


def _tail(text: str, *, num_characters: int = 300) -> str:
    """Return the last words of a message: where a traceback says what happened, on one line."""
    line = " ".join(text.split()) or "nothing more."
    return line if len(line) <= num_characters else "... " + line[-num_characters:]
