"""The live attempts as the dispatcher remembers them: what each holds of the cluster, and which of them may
need something. A thousand that run undisturbed cost a pass next to nothing."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bertjobs.jobs.job import State
from bertjobs.jobs.verdicts import Holding
from bertjobs.jobs.watch import Live

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One attempt, as it was at a time by Redis' clock."""

    live: Live
    read_at_ms: int
    ends_at_ms: float
    """When its time limit is over."""
    is_quiet: bool
    """It runs, and nothing has been asked of it: only time, silence or Ray can change what it needs."""
    holding: Holding

    @classmethod
    def of(cls, live: Live, now_ms: int) -> "_Entry":
        asked = (live.told_ago_s, live.drained_ago_s, live.ended_ago_s)
        is_running = live.state is State.RUNNING and live.is_submitted and live.heard_ago_s is not None
        ends_at_ms = NEVER if live.time_left_s is None else now_ms + 1000 * live.time_left_s
        is_quiet = is_running and asked == (None, None, None)
        return cls(live, now_ms, ends_at_ms, is_quiet, _holding(live, ends_in_s=live.time_left_s))

    def at(self, now_ms: int) -> Live:
        """Return it as it is now, as far as nothing has been heard of it since."""
        return self.live if now_ms == self.read_at_ms else self.live.aged((now_ms - self.read_at_ms) / 1000)


class Ledger:
    """The attempts that are not known to be gone: at most one of each job."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.now_ms = 0
        self.overdue: Collection[str] = ()
        """Jobs whose lease has run out."""

    def take(self, attempts: Mapping[str, Live | None], *, now_ms: int) -> None:
        """Remember these jobs' live attempts as they are now; None where there is none."""
        self.now_ms = now_ms
        for job_id, live in attempts.items():
            if live is not None:
                self._entries[job_id] = _Entry.of(live, now_ms)
            elif job_id in self._entries:
                del self._entries[job_id]

    def live(self) -> list[Live]:
        """Return all attempts; of the undisturbed ones their ages are old."""
        return [entry.live for entry in self._entries.values()]

    def names(self) -> list[str]:
        """Return the Ray Jobs of all attempts."""
        return [entry.live.submission_id for entry in self._entries.values()]

    def restless(self) -> list[Live]:
        """Return the attempts, as they are now, that may need something whatever Ray says of them."""
        now_ms, overdue = self.now_ms, set(self.overdue)
        return [
            entry.at(now_ms)
            for job_id, entry in self._entries.items()
            if not entry.is_quiet or entry.ends_at_ms <= now_ms or job_id in overdue
        ]

    def quiet(self) -> Iterable[Live]:
        """Return the others: they need something only where Ray no longer shows them at work."""
        now_ms, overdue = self.now_ms, set(self.overdue)
        return [
            entry.live
            for job_id, entry in self._entries.items()
            if entry.is_quiet and entry.ends_at_ms > now_ms and job_id not in overdue
        ]

    def holdings(self) -> list[Holding]:
        """Return what each attempt holds."""
        return [
            entry.holding
            if entry.ends_at_ms == NEVER
            else _holding(entry.live, ends_in_s=(entry.ends_at_ms - self.now_ms) / 1000)
            for entry in self._entries.values()
        ]


def _holding(live: Live, *, ends_in_s: float | None) -> Holding:
    return Holding(job_id=live.job_id, plan=live.plan, ends_in_s=ends_in_s, user=live.user)
