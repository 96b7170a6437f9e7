"""What the dispatcher remembers of the queue between passes, so that a pass reads only what has changed, and
writes only reasons that have."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

from bertjobs.jobs.admission import OPEN, Rules, Waiting
from bertjobs.jobs.dispatch_rows import Changes, Queued
from bertjobs.jobs.dispatch_store import DispatchStore
from bertjobs.jobs.job import State
from bertjobs.jobs.sizing import Pending


class Backlog:
    """The queue in its order, as of the last `refresh`. Another dispatcher's term begins with `forget`."""

    def __init__(self, store: DispatchStore) -> None:
        self._store = store
        self.forget()

    def forget(self) -> None:
        """Read everything anew at the next `refresh`: we did not lead, or the last pass broke off."""
        self._version = -1
        self._jobs: dict[str, Queued] = {}
        self._order: list[tuple[float, str]] = []
        self._group_of: dict[str, str] = {}
        """Job -> the group that is written at it, empty for none."""
        self._texts: dict[str, Pending] = {}
        """Group -> the reason that is written for it."""
        self.now_ms = 0
        self.counts: Mapping[State, int] = {}
        self.rules: Rules = OPEN

    def refresh(self) -> None:
        """Read what has changed. Raises: NotLeader, RedisDown."""
        if self._version < 0:
            self._begin()
        while True:
            changes = self._store.changes(since=self._version)
            self._take(changes)
            if changes.is_complete:
                return

    def waiting(self) -> list[Waiting]:
        """Return the jobs in queue order."""
        return [self._jobs[job_id].waiting for _, job_id in self._order]

    def waited_s(self, job_id: str) -> float:
        """Return how long a job has been in the queue."""
        return (self.now_ms - self._jobs[job_id].queued_at_ms) / 1000

    def explain(self, reasons: Sequence[tuple[str, Pending]]) -> None:
        """Write down why these jobs wait, as far as it differs from what is written. Raises: NotLeader,
        RedisDown."""
        texts: dict[str, Pending] = {}
        groups: dict[str, str] = {}
        for job_id, reason in reasons:
            group = reason.group or f"{reason.word}:{reason.message}"
            texts[group] = reason
            if self._group_of[job_id] != group:
                groups[job_id] = group
        new = {group: why for group, why in texts.items() if not self._says(group, why)}
        self._group_of |= groups
        unused = self._texts.keys() - texts.keys() - set(self._group_of.values())
        if groups or new or unused:
            self._store.explain(groups, texts=new, unused=unused)
            self._texts = {g: why for g, why in (self._texts | new).items() if g not in unused}

    def reasons(self) -> Mapping[str, int]:
        """Count the waiting jobs by the word why they wait."""
        counts: dict[str, int] = {}
        for job_id, group in self._group_of.items():
            known = self._texts[group] if group in self._texts else self._jobs[job_id].reason
            counts[known.word] = counts.get(known.word, 0) + 1
        return counts

    def _says(self, group: str, reason: Pending) -> bool:
        if group not in self._texts:
            return False
        written = self._texts[group]
        return (written.word, written.message) == (reason.word, reason.message)

    def _begin(self) -> None:
        self._version = self._store.changes(since=-1).version
        self._texts = self._store.reasons()
        for queued in self._store.queue():
            self._add(queued)

    def _take(self, changes: Changes) -> None:
        for job_id, queued in changes.queued.items():
            self._drop(job_id)
            if queued is not None:
                self._add(queued)
        self._version, self.now_ms = changes.version, changes.now_ms
        self.counts, self.rules = changes.counts, changes.rules

    def _add(self, queued: Queued) -> None:
        job_id = queued.waiting.job_id
        self._jobs[job_id] = queued
        self._group_of[job_id] = queued.group
        insort(self._order, (queued.order, job_id))

    def _drop(self, job_id: str) -> None:
        if job_id in self._jobs:
            place = (self._jobs.pop(job_id).order, job_id)
            del self._order[bisect_left(self._order, place)]
            del self._group_of[job_id]
