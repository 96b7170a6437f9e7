"""The queue as the dispatcher remembers it, and what has been written of why each job waits.

The live attempts as the dispatcher remembers them: what each holds of the cluster, and which of them may
need something. A thousand that run undisturbed cost a pass next to nothing.

What the dispatcher remembers of Redis between passes, so that a pass reads only what has changed.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import OPEN, Holding, Live, Pending, Reasons, Rules, Waiting
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.records import Queued


class Backlog:
    """The jobs in their order."""

    def __init__(self) -> None:
        self._jobs: dict[str, Queued] = {}
        self._order: list[tuple[float, str]] = []
        self._waiting: list[Waiting] | None = None
        self._group_of: dict[str, str] = {}
        """Job -> the group whose reason it shows; empty where it shows its own."""
        self._texts: dict[str, Pending] = {}
        """Group -> the reason that is written for it."""
        self._now_ms = 0

    def begin(self, queue: Iterable[Queued], *, reasons: Mapping[str, Pending]) -> None:
        """Take the whole queue, in its order."""
        self._texts = dict(reasons)
        for queued in queue:
            self._add(queued)

    def take(self, changed: Mapping[str, Queued | None], *, now_ms: int) -> None:
        """Take what has become of some jobs; None for those that are in the queue no more."""
        self._now_ms = now_ms
        for job_id, queued in changed.items():
            self._drop(job_id)
            if queued is not None:
                self._add(queued)

    def waiting(self) -> list[Waiting]:
        """Return the jobs in queue order."""
        if self._waiting is None:
            self._waiting = [self._jobs[job_id].waiting for _, job_id in self._order]
        return self._waiting

    def waited_s(self, job_id: str) -> float:
        """Return how long a job has been in the queue."""
        return (self._now_ms - self._jobs[job_id].queued_at_ms) / 1000

    def compare(self, reasons: Iterable[tuple[str, Pending]]) -> Reasons:
        """Return in what these reasons differ from what is written."""
        group_of, groups, texts = self._group_of, {}, {}
        for job_id, reason in reasons:
            group = reason.group
            texts[group] = reason
            if group_of[job_id] != group:
                groups[job_id] = group
        new = {g: why for g, why in texts.items() if g not in self._texts or self._texts[g] != why}
        used = set((group_of | groups).values() if groups else group_of.values())
        return Reasons(groups=groups, texts=new, unused=frozenset(self._texts.keys() - texts.keys() - used))

    def note(self, written: Reasons) -> None:
        """Remember what has been written."""
        self._group_of |= written.groups
        self._texts |= written.texts
        for group in written.unused:
            del self._texts[group]

    def count_reasons(self) -> Mapping[str, int]:
        """Count the jobs by the word why they wait."""
        counts: Counter[str] = Counter()
        for group, number in Counter(self._group_of.values()).items():
            counts[self._texts[group].word if group in self._texts else "Submitted"] += number
        return counts

    def _add(self, queued: Queued) -> None:
        job_id = queued.waiting.job_id
        self._jobs[job_id] = queued
        self._group_of[job_id] = queued.group
        insort(self._order, (queued.order, job_id))
        self._waiting = None

    def _drop(self, job_id: str) -> None:
        if job_id in self._jobs:
            place = (self._jobs.pop(job_id).order, job_id)
            del self._order[bisect_left(self._order, place)]
            del self._group_of[job_id]
            self._waiting = None


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


class Mirror:
    """The queue and the live attempts as of the last `refresh`."""

    def __init__(self, store: DispatchStore) -> None:
        self._store = store
        self.forget()

    def forget(self) -> None:
        """Read everything anew at the next `refresh`: another one may have led, or a pass broke off."""
        self._version = -1
        self.backlog, self.ledger = Backlog(), Ledger()
        self.now_ms = 0
        self.counts: Mapping[State, int] = {}
        self.rules: Rules = OPEN

    def refresh(self) -> None:
        """Read what has changed. Raises: NotLeader, RedisDown."""
        if self._version < 0:
            self._begin()
        while True:
            changes = self._store.changes(since=self._version)
            self.backlog.take(changes.queued, now_ms=changes.now_ms)
            self.ledger.take(changes.live, now_ms=changes.now_ms)
            self.ledger.overdue = changes.overdue
            self._version, self.now_ms = changes.version, changes.now_ms
            self.counts, self.rules = changes.counts, changes.rules
            if changes.is_complete:
                return

    def _begin(self) -> None:
        # What changes while this is read has a later version, and is read once more.
        self._version = self._store.changes(since=-1).version
        self.backlog.begin(self._store.queue(), reasons=self._store.reasons())
        now_ms, live = self._store.live()
        self.ledger.take({attempt.job_id: attempt for attempt in live}, now_ms=now_ms)
