"""What the page's server reads of the queue: which jobs changed, and columns of many jobs at a time."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.jobs.job import Event, JobSummary, State, is_job_id
from bertjobs.jobs.scheduling.types import LiveAttempt
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.records import SUMMARY_COLUMNS, event_of, live_of, readable, summaries_of

INDEX_COLUMNS = (
    "kind",
    "name",
    "user",
    "state",
    "priority",
    "seq",
    "after",
    "submitted_at",
    "started_at",
    "ended_at",
)
"""What jobs are found, filtered and sorted by; a row also has the place in the queue and the id."""
_SLICE = 1000
"""Jobs that one call reads: some ten milliseconds during which Redis answers nobody else."""
_MAX_NEWS = 500
_MALFORMED = (ValueError, TypeError, LookupError)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedJob:
    """What a job is found, filtered and sorted by."""

    id: str
    kind: str
    name: str
    user: str
    state: State
    priority: int
    seq: int
    """The order of submission."""
    after: tuple[str, ...]
    submitted_ms: int
    started_ms: int | None
    ended_ms: int | None


@dataclass(frozen=True, kw_only=True)
class ChangedJobs:
    """Which jobs changed since a version."""

    version: int
    is_whole: bool
    """Whether the ids are all changes since then; otherwise everything has to be read again."""
    ids: Sequence[str]
    num_jobs: int
    counts: dict[State, int]


@dataclass(frozen=True, kw_only=True)
class JobNews:
    """Entries that were added to a job's streams, each with its id."""

    events: Sequence[tuple[str, Event]]
    metrics: Sequence[tuple[str, Mapping[str, Any]]]


class PageStore:
    """The queue as the page's server reads it. Every call raises RedisDown where Redis is down."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def changed(self, *, since: int) -> ChangedJobs:
        """Return the jobs that changed since a version; with -1 none, and the version to start with."""
        version, is_whole, ids, num_jobs, counts = self.connection.run(
            "read_changed", since=since, limit=_SLICE
        )
        return ChangedJobs(
            version=int(version),
            is_whole=bool(is_whole),
            ids=list(ids),
            num_jobs=int(num_jobs),
            counts={State(name): int(count) for name, count in json.loads(counts).items()},
        )

    def index(self) -> Iterator[IndexedJob]:
        """Read what all jobs are found by, newest first."""
        cursor: str | None = None
        while cursor != "":
            document, cursor = self.connection.run(
                "list", limit=-1, slice=_SLICE, before=cursor, columns=INDEX_COLUMNS
            )
            yield from _indexed_jobs(json.loads(document))

    def index_of(self, ids: Sequence[str]) -> list[IndexedJob]:
        """Read what some jobs are found by; those that do not exist are left out."""
        return list(_indexed_jobs(self._rows(ids, INDEX_COLUMNS)))

    def summaries(self, ids: Sequence[str]) -> list[JobSummary]:
        """Read the rows of a list, in the order of the ids; those that do not exist are left out."""
        return list(summaries_of(self.summary_rows(ids)))

    def summary_rows(self, ids: Sequence[str]) -> list[Any]:
        """Read the rows of a list as Redis has them."""
        return self._rows(ids, SUMMARY_COLUMNS)

    def record(self, job: str) -> str:
        """Read one job as Redis has it, by its id or an unambiguous prefix of it. Raises: JobUnknown."""
        (document,) = self.connection.run("get", prefix=job)
        return str(document)

    def _rows(self, ids: Sequence[str], columns: Sequence[str]) -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(ids), _SLICE):
            (document,) = self.connection.run(
                "read_rows", ids=list(ids[start : start + _SLICE]), columns=columns
            )
            rows += json.loads(document)
        return rows

    def ids_in(self, states: Collection[State]) -> list[str]:
        """Return the ids of the jobs in some states, oldest first."""
        with self.connection.errors(), self.connection.client.pipeline(transaction=False) as pipe:
            for state in states:
                pipe.zrange(f"bj:state:{state}", 0, -1)
            return [job_id for found in pipe.execute() for job_id in found]

    def ids(self) -> list[str]:
        """Return the ids of all jobs, oldest first."""
        with self.connection.errors():
            found: Any = self.connection.client.zrange("bj:all", 0, -1)
        return [str(job_id) for job_id in found]

    def followers(self, job_id: str) -> list[str]:
        """Return the jobs that start after this one or use its model."""
        with self.connection.errors():
            found: Any = self.connection.client.smembers(f"bj:job:{job_id}:followers")
        return sorted(str(follower) for follower in found)

    def now_id(self) -> str:
        """Return the id that an entry of a stream would have had just before now."""
        with self.connection.errors():
            seconds, microseconds = self.connection.client.time()
        return f"{int(seconds) * 1000 + int(microseconds) // 1000 - 1}-0"

    def news(self, job_id: str, *, events_after: str, metrics_after: str) -> "JobNews":
        """Return what was added to a job's timeline and metrics, at most 500 entries of each."""
        key = f"bj:job:{job_id}"
        with self.connection.errors(), self.connection.client.pipeline(transaction=False) as pipe:
            pipe.xrange(f"{key}:events", min=f"({events_after}", count=_MAX_NEWS)
            pipe.xrange(f"{key}:metrics", min=f"({metrics_after}", count=_MAX_NEWS)
            events, metrics = pipe.execute()
        return JobNews(
            events=[(entry_id, event_of(entry_id, fields)) for entry_id, fields in events],
            metrics=[(entry_id, json.loads(fields["values"])) for entry_id, fields in metrics],
        )

    def reasons(self) -> dict[str, str]:
        """Return the reasons that waiting jobs share, by group, as stored."""
        with self.connection.errors():
            found: Any = self.connection.client.hgetall("bj:reasons")
        return dict(found)

    def live(self) -> list[LiveAttempt]:
        """Return the attempts whose Ray Job is not known to be gone, with what they hold."""
        now_ms, document = self.connection.run("read_live")
        return list(
            readable(json.loads(document), lambda row: live_of(row, now_ms=int(now_ms)), skip=lambda *_: None)
        )


def _indexed_jobs(rows: Sequence[Sequence[Any]]) -> Iterator[IndexedJob]:
    """Parse index rows, without those that no version of ours has written."""
    for row in rows:
        try:
            yield _indexed_job(row)
        except _MALFORMED:
            continue


def _indexed_job(row: Sequence[Any]) -> IndexedJob:
    *values, _, job_id = row
    if not is_job_id(job_id):
        raise ValueError("not the id of a job")
    kind, name, user, state, priority, seq, after, submitted_at, started_at, ended_at = values
    return IndexedJob(
        id=job_id,
        kind=str(kind),
        name=name or "",
        user=user or "",
        state=State(state),
        priority=int(priority),
        seq=int(seq),
        after=tuple(json.loads(after)) if after else (),
        submitted_ms=int(submitted_at),
        started_ms=int(started_at) if started_at else None,
        ended_ms=int(ended_at) if ended_at else None,
    )
