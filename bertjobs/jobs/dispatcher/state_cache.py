"""The dispatcher's copy of what is in Redis: the queue with the reason that each job shows, and the live
attempts. A pass reads only what has changed since the last one, so a thousand undisturbed attempts and ten
thousand waiting jobs cost it next to nothing.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import (
    NO_QUOTAS,
    Allocation,
    LiveAttempt,
    Quotas,
    ReasonChanges,
    WaitingJob,
    WaitReason,
)
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.records import QueuedJob

NEVER = float("inf")


class StateCache:
    """The queue and the live attempts as of the last `refresh`."""

    def __init__(self, store: DispatchStore) -> None:
        self._store = store
        self.clear()

    def clear(self) -> None:
        """Read everything again at the next `refresh`: another dispatcher may have led, or a pass failed."""
        self._version = -1
        self.queue, self.attempts = QueueCache(), AttemptCache()
        self.now_ms = 0
        self.counts: Mapping[State, int] = {}
        self.quotas: Quotas = NO_QUOTAS

    def refresh(self) -> None:
        """Read what has changed. Raises: NotLeader, RedisDown."""
        if self._version < 0:
            self._load()
        while True:
            changes = self._store.changes(since=self._version)
            self.queue.update(changes.queued, now_ms=changes.now_ms)
            self.attempts.update(changes.live, now_ms=changes.now_ms)
            self.attempts.overdue = changes.overdue
            self._version, self.now_ms = changes.version, changes.now_ms
            self.counts, self.quotas = changes.counts, changes.quotas
            if changes.is_complete:
                return

    def _load(self) -> None:
        # The version is read first: what changes while the rest is read has a later one and is read again.
        self._version = self._store.changes(since=-1).version
        self.queue.load(self._store.queue(), reasons=self._store.reasons())
        now_ms, live = self._store.live()
        self.attempts.update({attempt.job_id: attempt for attempt in live}, now_ms=now_ms)


class QueueCache:
    """The QUEUED jobs in their order, and the reasons that are written for them."""

    def __init__(self) -> None:
        self._jobs: dict[str, QueuedJob] = {}
        self._order: list[tuple[float, str]] = []
        self._waiting: list[WaitingJob] | None = None
        self._group_of: dict[str, str] = {}
        """Job -> the group whose reason it shows; empty where it shows its own."""
        self._texts: dict[str, WaitReason] = {}
        """Group -> the reason that is written for it."""
        self._now_ms = 0

    def load(self, queue: Iterable[QueuedJob], *, reasons: Mapping[str, WaitReason]) -> None:
        """Fill the empty cache with the whole queue, in its order."""
        self._texts = dict(reasons)
        for queued in queue:
            self._add(queued)

    def update(self, changed: Mapping[str, QueuedJob | None], *, now_ms: int) -> None:
        """Replace some jobs; None removes a job that has left the queue."""
        self._now_ms = now_ms
        for job_id, queued in changed.items():
            self._remove(job_id)
            if queued is not None:
                self._add(queued)

    def waiting(self) -> list[WaitingJob]:
        """Return the jobs in queue order."""
        if self._waiting is None:
            self._waiting = [self._jobs[job_id].waiting for _, job_id in self._order]
        return self._waiting

    def waited_s(self, job_id: str) -> float:
        """Return how long a job has been in the queue."""
        return (self._now_ms - self._jobs[job_id].queued_at_ms) / 1000

    def changes_to(self, reasons: Iterable[tuple[str, WaitReason]]) -> ReasonChanges:
        """Compare these reasons with what is written, and return the difference."""
        group_of, groups, texts = self._group_of, {}, {}
        for job_id, reason in reasons:
            group = reason.group
            texts[group] = reason
            if group_of[job_id] != group:
                groups[job_id] = group
        new = {g: why for g, why in texts.items() if g not in self._texts or self._texts[g] != why}
        # A group that no job shows after this change is dropped, but not one that a job still shows which
        # this pass did not decide on.
        used = set((group_of | groups).values() if groups else group_of.values())
        unused = frozenset(self._texts.keys() - texts.keys() - used)
        return ReasonChanges(groups=groups, texts=new, unused=unused)

    def apply(self, written: ReasonChanges) -> None:
        """Remember what has been written."""
        self._group_of |= written.groups
        self._texts |= written.texts
        for group in written.unused:
            del self._texts[group]

    def count_reasons(self) -> Mapping[str, int]:
        """Count the jobs by the word of their reason."""
        counts: Counter[str] = Counter()
        for group, number in Counter(self._group_of.values()).items():
            counts[self._texts[group].word if group in self._texts else "Submitted"] += number
        return counts

    def _add(self, queued: QueuedJob) -> None:
        job_id = queued.waiting.job_id
        self._jobs[job_id] = queued
        self._group_of[job_id] = queued.group
        insort(self._order, (queued.order, job_id))
        self._waiting = None

    def _remove(self, job_id: str) -> None:
        if job_id in self._jobs:
            place = (self._jobs.pop(job_id).order, job_id)
            del self._order[bisect_left(self._order, place)]
            del self._group_of[job_id]
            self._waiting = None


class AttemptCache:
    """The attempts that are not known to be gone: at most one of each job."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.now_ms = 0
        self.overdue: Collection[str] = ()
        """Jobs whose lease has expired."""

    def update(self, attempts: Mapping[str, LiveAttempt | None], *, now_ms: int) -> None:
        """Replace these jobs' live attempts; None removes one."""
        self.now_ms = now_ms
        for job_id, live in attempts.items():
            if live is not None:
                self._entries[job_id] = _Entry.of(live, now_ms)
            elif job_id in self._entries:
                del self._entries[job_id]

    def all(self) -> list[LiveAttempt]:
        """Return all attempts. The ages of the steady ones are those of their last change."""
        return [entry.live for entry in self._entries.values()]

    def submission_ids(self) -> list[str]:
        """Return the Ray Jobs of all attempts."""
        return [entry.live.submission_id for entry in self._entries.values()]

    def unsteady(self) -> list[LiveAttempt]:
        """Return the attempts, with their ages of now, that may need something whatever Ray reports."""
        now_ms, overdue = self.now_ms, set(self.overdue)
        return [
            entry.at(now_ms)
            for job_id, entry in self._entries.items()
            if not entry.is_steady or entry.ends_at_ms <= now_ms or job_id in overdue
        ]

    def steady(self) -> Iterable[LiveAttempt]:
        """Return the others: they need something only if Ray no longer reports them as running."""
        now_ms, overdue = self.now_ms, set(self.overdue)
        return [
            entry.live
            for job_id, entry in self._entries.items()
            if entry.is_steady and entry.ends_at_ms > now_ms and job_id not in overdue
        ]

    def allocations(self) -> list[Allocation]:
        """Return what each attempt holds."""
        return [
            entry.allocation
            if entry.ends_at_ms == NEVER
            else _allocation(entry.live, ends_in_s=(entry.ends_at_ms - self.now_ms) / 1000)
            for entry in self._entries.values()
        ]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One attempt as it was at a time by Redis' clock."""

    live: LiveAttempt
    read_at_ms: int
    ends_at_ms: float
    """When its time limit ends it."""
    is_steady: bool
    """It runs and no command is pending: only time, silence or Ray can change what it needs."""
    allocation: Allocation

    @classmethod
    def of(cls, live: LiveAttempt, now_ms: int) -> "_Entry":
        pending = (live.cancel_ago_s, live.drained_ago_s, live.ended_ago_s)
        is_running = live.state is State.RUNNING and live.is_submitted and live.heartbeat_ago_s is not None
        ends_at_ms = NEVER if live.time_left_s is None else now_ms + 1000 * live.time_left_s
        is_steady = is_running and pending == (None, None, None)
        return cls(live, now_ms, ends_at_ms, is_steady, _allocation(live, ends_in_s=live.time_left_s))

    def at(self, now_ms: int) -> LiveAttempt:
        """Return it with its ages at a later time."""
        return self.live if now_ms == self.read_at_ms else self.live.aged((now_ms - self.read_at_ms) / 1000)


def _allocation(live: LiveAttempt, *, ends_in_s: float | None) -> Allocation:
    return Allocation(job_id=live.job_id, placement=live.placement, ends_in_s=ends_in_s, user=live.user)
