"""What happens in the queue and in single jobs, told to every open page: one reader for all of them.

A turn reads what has changed since the last one, from the streams and counters that Redis has anyway, and
gives each subscriber the same bytes. Nobody reads while nobody listens. A subscriber that does not keep up
loses what it was not sent, and is told to fetch everything again.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bertjobs.errors import BertjobsError, StorageError
from bertjobs.jobs.curves import live_line
from bertjobs.jobs.job import Job, State
from bertjobs.jobs.store.connection import JobUnknown
from bertjobs.web.answers import ApiError
from bertjobs.web.files import read_log
from bertjobs.web.jobs import counts_document
from bertjobs.web.services import Services

logger = logging.getLogger(__name__)

TURN_S = 0.4
"""Time between two turns: what has happened is told within a second."""
REASONS_S = 3.0
"""How often at most pages are told that waiting jobs may show other reasons."""
MAX_ROWS = 200
_MAX_LOG_BYTES = 64 << 10
_MAX_WAITING = 200
_NUM_THREADS = 4
_ACTIVE = tuple(state for state in State if state.is_active)
RESYNC = b"event: resync\ndata: {}\n\n"


class Subscriber:
    """One open page: what it has still to be sent."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, message: bytes) -> None:
        """Add a message; where too many wait, drop all and tell the page to start again."""
        if self.queue.qsize() >= _MAX_WAITING:
            while not self.queue.empty():
                self.queue.get_nowait()
            message = RESYNC
        self.queue.put_nowait(message)

    def end(self) -> None:
        """Say that nothing more comes."""
        self.queue.put_nowait(None)


class QueueWatch:
    """The changes of the whole queue."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sent: dict[str, str] = {}
        """The active jobs' rows as last sent: what a page does not have yet is sent."""
        self._reasons: dict[str, str] = {}
        self._reasons_at = 0.0

    def turn(self) -> Sequence[bytes]:
        """Return what has changed since the last turn. Blocks. Raises: RedisDown."""
        found = self._services.index.refresh()
        active = self._services.page.ids_in(_ACTIVE)
        wanted = list(dict.fromkeys([*active, *(found.changed if found.is_whole else ())]))
        rows = {job.id: job.to_json() for job in self._services.page.summaries(wanted[:MAX_ROWS])}
        texts = {job_id: json.dumps(row) for job_id, row in rows.items()}
        new = [row for job_id, row in rows.items() if texts[job_id] != self._sent.get(job_id)]
        self._sent = {job_id: texts[job_id] for job_id in active if job_id in texts}
        is_complete = found.is_whole and len(wanted) <= MAX_ROWS
        has_new_reasons = self._has_new_reasons()
        if not (new or found.removed or has_new_reasons) and is_complete:
            return ()
        document = {
            "jobs": new,
            "removed": sorted(found.removed),
            "counts": counts_document(self._services),
            "is_complete": is_complete,
            "has_new_reasons": has_new_reasons,
        }
        return (message("jobs", document),)

    def hello(self) -> bytes:
        """Return the first message of a page."""
        return message("hello", {"counts": counts_document(self._services)})

    def _has_new_reasons(self) -> bool:
        if time.monotonic() - self._reasons_at < REASONS_S:
            return False
        reasons = self._services.page.reasons()
        is_new, self._reasons = reasons != self._reasons, reasons
        self._reasons_at = time.monotonic()
        return is_new


class JobWatch:
    """The changes of one job: its row, timeline, metrics and log."""

    def __init__(self, services: Services, job: Job) -> None:
        self._services = services
        self.job_id = job.id
        self._row = ""
        self._attempt = max(1, job.num_attempts)
        self._offset: int | None = None
        """Up to where the log was told; None: from its present end on."""
        self.has_ended = False
        self._cursors: tuple[str, str] | None = None

    def turn(self) -> Sequence[bytes]:
        """Return what has changed since the last turn. Blocks. Raises: RedisDown, JobUnknown."""
        job = self._services.store.get(self.job_id)
        told = [*self._changed_row(job), *self._news(), *self._log(job)]
        if self._is_over(job, told):
            self.has_ended = True
            told.append(message("end", {}))
        return told

    def hello(self) -> bytes:
        """Return the first message of a page."""
        return f"event: job\ndata: {self._row}\n\n".encode() if self._row else b": welcome\n\n"

    def _changed_row(self, job: Job) -> Iterable[bytes]:
        row = json.dumps(job.to_json(), ensure_ascii=False)
        if row == self._row:
            return ()
        self._row = row
        return (self.hello(),)

    def _news(self) -> list[bytes]:
        if self._cursors is None:
            now_id = self._services.page.now_id()
            self._cursors = (now_id, now_id)
        events_after, metrics_after = self._cursors
        news = self._services.page.news(self.job_id, events_after=events_after, metrics_after=metrics_after)
        told = [message("timeline", {**event.to_json(), "cursor": at}) for at, event in news.events]
        if news.metrics:
            lines = [live_line(values) for _, values in news.metrics]
            told.append(message("metrics", {"cursor": news.metrics[-1][0], "lines": lines}))
        self._cursors = (
            news.events[-1][0] if news.events else events_after,
            news.metrics[-1][0] if news.metrics else metrics_after,
        )
        return told

    def _log(self, job: Job) -> list[bytes]:
        try:
            return self._new_log(job)
        except (StorageError, ApiError):  # the other news are told all the same
            return []

    def _new_log(self, job: Job) -> list[bytes]:
        if self._offset is None:
            part = read_log(self._services, job, self._attempt, offset=-1, limit=1)
            self._offset = part["size_bytes"]
            return []
        if job.num_attempts > self._attempt and job.attempts[self._attempt - 1].log_is_final:
            self._attempt, self._offset = self._attempt + 1, 0
        part = read_log(self._services, job, self._attempt, offset=self._offset, limit=_MAX_LOG_BYTES)
        if not part["text"]:
            return []
        self._offset = part["next_offset"]
        del part["size_bytes"]
        return [message("log", part)]

    def _is_over(self, job: Job, told: Sequence[bytes]) -> bool:
        is_read = not job.attempts or (job.attempts[-1].log_is_final and self._attempt == job.num_attempts)
        return job.state.is_terminal and is_read and not told


@dataclass
class _Audience:
    """A watch, who listens to it, and the task of its turns."""

    watch: QueueWatch | JobWatch
    listeners: set[Subscriber] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


class Feed:
    """The watches that somebody listens to. Each has its own turns: a slow storage holds up one job only."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="bertjobs-feed")
        self._audiences: dict[str, _Audience] = {}

    async def listen(self, job: Job | None) -> Subscriber:
        """Add a listener to a job, or without one to the queue."""
        key = "" if job is None else job.id
        if key not in self._audiences:
            watch = QueueWatch(self._services) if job is None else JobWatch(self._services, job)
            await self._run(watch.turn)  # what was before is no news
            self._audiences.setdefault(key, _Audience(watch))
        subscriber, audience = Subscriber(), self._audiences[key]
        subscriber.send(audience.watch.hello())
        audience.listeners.add(subscriber)
        if audience.task is None:
            audience.task = asyncio.create_task(self._turns(key, audience))
        return subscriber

    @property
    def num_listeners(self) -> int:
        return sum(len(audience.listeners) for audience in self._audiences.values())

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a listener; a watch without any is forgotten."""
        for key, audience in list(self._audiences.items()):
            audience.listeners.discard(subscriber)
            if not audience.listeners:
                self._end(key)

    def close(self) -> None:
        """End all listeners."""
        for key in list(self._audiences):
            self._end(key)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _end(self, key: str) -> None:
        audience = self._audiences.pop(key)
        for subscriber in audience.listeners:
            subscriber.end()
        if audience.task is not None:
            audience.task.cancel()

    async def _turns(self, key: str, audience: _Audience) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(TURN_S)
            try:
                told = await self._run(audience.watch.turn)
            except JobUnknown:  # forgotten by a cleanup
                self._end(key)
                return
            except Exception as e:  # Redis is away, say: the pages wait until it is back
                if not is_failing:
                    logger.warning("Nothing is told of %s: %s", key or "the queue", e, exc_info=_unknown(e))
                is_failing = True
                continue
            if is_failing:  # what happened meanwhile may be lost
                is_failing, told = False, (RESYNC, *told)
            for subscriber in audience.listeners:
                for one in told:
                    subscriber.send(one)
            if isinstance(audience.watch, JobWatch) and audience.watch.has_ended:
                self._end(key)
                return

    async def _run(self, call: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _unknown(e: Exception) -> Exception | None:
    """Return an error whose traceback belongs in the log: one that is not ours."""
    return None if isinstance(e, BertjobsError) else e


def message(event: str, document: Any) -> bytes:
    """Return one server-sent event. JSON has no line breaks, so that one line is all its data."""
    return f"event: {event}\ndata: {json.dumps(document, ensure_ascii=False)}\n\n".encode()
