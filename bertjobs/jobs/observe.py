"""What the dispatcher tells of its work to whoever counts it; nobody does unless there is a port for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bertjobs.jobs.job import State
from bertjobs.jobs.sizing import Cluster
from bertjobs.jobs.watch import Live


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The queue after one pass of the leader."""

    counts: Mapping[State, int]
    reasons: Mapping[str, int]
    """Word why it waits -> number of QUEUED jobs."""
    live: Sequence[Live]
    overdue: Collection[str]
    """Jobs whose lease has run out."""
    cluster: Cluster | None
    """None while Ray does not answer, or has not been asked."""
    is_ray_reachable: bool
    first_waiting_s: float
    is_drained: bool


class Unobserved:
    """Counts nothing."""

    def passed(self, took_s: float, picture: Picture | None) -> None:
        """A pass is over; without a picture we do not lead."""

    def granted(self, attempt: Live) -> None:
        """An attempt has been claimed."""

    def gone(self, attempt: Live) -> None:
        """An attempt has ended and its driver has left."""
