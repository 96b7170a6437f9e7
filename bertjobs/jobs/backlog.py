"""The queue as the dispatcher remembers it, and what has been written of why each job waits."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bertjobs.jobs.dispatch_rows import Queued
from bertjobs.jobs.sizing import Pending
from bertjobs.jobs.verdicts import Waiting


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What is to be written of why jobs wait."""

    groups: Mapping[str, str]
    """Job -> the group whose reason it shows from now on."""
    texts: Mapping[str, Pending]
    """Group -> its reason, where that is new."""
    unused: frozenset[str]
    """Groups that no job shows any more."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.texts or self.unused)


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
