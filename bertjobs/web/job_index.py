"""All jobs in the memory of the server, as far as they are filtered and sorted by; a page's rows are read
from Redis when they are shown.

A refresh reads only what has changed, so that ten thousand jobs cost a request next to nothing. The methods
block; the server calls them outside of its event loop.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertjobs.jobs.job import State
from bertjobs.jobs.store.page_store import IndexedJob, PageStore

RELOAD_S = 300.0
"""How often everything is read again, in case a change was missed: Redis may lose its last seconds."""


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs are wanted; an empty collection does not restrict them."""

    states: Collection[State] = ()
    kinds: Collection[str] = ()
    users: Collection[str] = ()
    words: Sequence[str] = ()
    """In lower case; all of them must be in the id, name, user or kind."""
    pipeline: str | None = None
    """Only jobs that are connected to this one by `after`."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The ids of one page, and how many jobs the filter lets through."""

    ids: Sequence[str]
    total: int


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What a refresh has found."""

    changed: Collection[str] = field(default=())
    removed: Collection[str] = field(default=())
    is_whole: bool = True
    """Whether these are all changes; otherwise everything was read again."""


class JobIndex:
    """The jobs by what they are found by."""

    def __init__(self, store: PageStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, IndexedJob] = {}
        self._version = -1
        self._loaded_at = float("-inf")
        self.counts: Mapping[State, int] = dict.fromkeys(State, 0)

    def refresh(self) -> Refreshed:
        """Read what has changed since the last refresh. Raises: RedisDown."""
        with self._lock:
            if self._version < 0 or self._clock() - self._loaded_at > RELOAD_S:
                return self._load()
            changed: set[str] = set()
            while True:
                found = self._store.changed(since=self._version)
                if not found.is_whole:
                    return self._load()
                changed.update(found.ids)
                self._version, self.counts = found.version, found.counts
                if not found.ids:
                    break
            removed = self._update(changed, num_jobs=found.num_jobs)
            return Refreshed(changed=changed - removed, removed=removed)

    def select(self, wanted: JobFilter, *, sort: str, offset: int, limit: int) -> Selection:
        """Return one page of the jobs that the filter lets through.

        sort: a key of SORT_KEYS, with `-` in front for the largest first; jobs without a value are last
            either way.
        """
        is_descending, key = sort.startswith("-"), SORT_KEYS[sort.removeprefix("-")]
        now_ms = int(self._clock() * 1000)
        with self._lock:
            jobs = list(self._jobs.values())
        found = [(key(job, now_ms), job.seq, job) for job in _filtered(jobs, wanted)]
        valued = sorted(
            (row for row in found if row[0] is not None), reverse=is_descending, key=_value_and_seq
        )
        rest = sorted((row for row in found if row[0] is None), key=lambda row: -row[1])
        page = [*valued, *rest][offset : offset + limit]
        return Selection(ids=[job.id for _, _, job in page], total=len(found))

    def facets(self) -> dict[str, list[str]]:
        """Return the kinds and the users that occur, for the menus of the filter."""
        with self._lock:
            jobs = list(self._jobs.values())
        return {"kinds": sorted({job.kind for job in jobs}), "users": sorted({job.user for job in jobs})}

    def pipeline(self, job_id: str) -> list[IndexedJob]:
        """Return the jobs that are connected to a job by `after`, itself included, oldest first."""
        with self._lock:
            jobs = list(self._jobs.values())
        return sorted(_connected(jobs, job_id), key=lambda job: job.seq)

    def _load(self) -> Refreshed:
        # The version is read first: what changes while the rest is read is read again at the next refresh.
        found = self._store.changed(since=-1)
        before = set(self._jobs)
        self._jobs = {job.id: job for job in self._store.index()}
        self._version, self.counts, self._loaded_at = found.version, found.counts, self._clock()
        return Refreshed(changed=set(self._jobs), removed=before - set(self._jobs), is_whole=False)

    def _update(self, changed: Collection[str], *, num_jobs: int) -> set[str]:
        """Read the changed jobs; return those that are gone."""
        found = {job.id: job for job in self._store.index_of(sorted(changed))} if changed else {}
        removed = {job_id for job_id in changed if job_id not in found and job_id in self._jobs}
        self._jobs |= found
        if len(self._jobs) - len(removed) != num_jobs:  # jobs that were cleaned up leave no change behind
            removed |= set(self._jobs).difference(self._store.ids())
        for job_id in removed:
            del self._jobs[job_id]
        return removed


def _filtered(jobs: Iterable[IndexedJob], wanted: JobFilter) -> Iterable[IndexedJob]:
    if wanted.pipeline is not None:
        jobs = _connected(jobs, wanted.pipeline)
    states, kinds, users = set(wanted.states), set(wanted.kinds), set(wanted.users)
    return (
        job
        for job in jobs
        if (not states or job.state in states)
        and (not kinds or job.kind in kinds)
        and (not users or job.user in users)
        and (not wanted.words or _has_words(job, wanted.words))
    )


def _has_words(job: IndexedJob, words: Sequence[str]) -> bool:
    text = f"{job.id}\n{job.name}\n{job.user}\n{job.kind}".lower()
    return all(word in text for word in words)


def _connected(jobs: Iterable[IndexedJob], job_id: str) -> list[IndexedJob]:
    by_id = {job.id: job for job in jobs}
    neighbours: dict[str, set[str]] = {}
    for job in by_id.values():
        for other in job.after:
            neighbours.setdefault(job.id, set()).add(other)
            neighbours.setdefault(other, set()).add(job.id)
    reached, todo = set[str](), [job_id]
    while todo:
        found = todo.pop()
        if found not in reached:
            reached.add(found)
            todo += neighbours.get(found, ())
    return [by_id[found] for found in reached if found in by_id]


def _value_and_seq(row: tuple[Any, int, IndexedJob]) -> tuple[Any, int]:
    return row[0], row[1]


def _place(job: IndexedJob, _now_ms: int) -> tuple[int, int] | None:
    """Return the order in the queue: the higher priority first, then the earlier submission."""
    return (-job.priority, job.seq) if job.state is State.QUEUED else None


def _runtime(job: IndexedJob, now_ms: int) -> int | None:
    if job.started_ms is None or not (job.state.is_active or job.state.is_terminal):
        return None
    return (job.ended_ms or now_ms) - job.started_ms


SORT_KEYS: Mapping[str, Callable[[IndexedJob, int], Any]] = {
    "submitted_at": lambda job, _: job.seq,
    "started_at": lambda job, _: job.started_ms,
    "ended_at": lambda job, _: job.ended_ms,
    "id": lambda job, _: job.id,
    "name": lambda job, _: job.name.lower() or None,
    "user": lambda job, _: job.user.lower(),
    "kind": lambda job, _: job.kind,
    "state": lambda job, _: str(job.state),
    "priority": lambda job, _: job.priority,
    "place": _place,
    "runtime": _runtime,
}
"""What a list can be sorted by."""
