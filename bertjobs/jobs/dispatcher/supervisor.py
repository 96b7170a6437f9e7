"""The dispatcher's hands: starts, stops and ends the live attempts, and copies their logs."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bertjobs.errors import LeaseLost, StorageError
from bertjobs.jobs.dispatcher.attempt_policy import (
    Action,
    End,
    Gone,
    Keep,
    Limits,
    Start,
    Stop,
    TimeIsUp,
    judge,
)
from bertjobs.jobs.dispatcher.driver_log import LogCopy
from bertjobs.jobs.dispatcher.metrics import Unobserved
from bertjobs.jobs.dispatcher.state_cache import Ledger
from bertjobs.jobs.ray.api import Ray, RayJob, RayRefused, RayUnreachable
from bertjobs.jobs.ray.poller import NUM_QUESTIONS, Sight
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.scheduling.types import Holding, Live
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.storage import JobDir

logger = logging.getLogger(__name__)

DRIVER = "-m bertjobs.runs.driver"
"""What a Ray Job executes; the job's id, the attempt and its token follow."""
STOP_AGAIN_S = 10.0
AFTERGLOW_S = 8.0
"""How long Ray's numbers may still show what an attempt held that has gone."""
LOGS_PER_PASS = 64
"""Logs that one pass copies; those that were not copied for longest come first."""

T = TypeVar("T")
R = TypeVar("R")


class Attendant:
    """What one dispatcher remembers of the attempts; nothing of it is needed by the next one."""

    def __init__(
        self,
        store: DispatchStore,
        ray: Ray,
        sight: Sight,
        *,
        env: Mapping[str, str],
        python: str,
        limits: Limits,
        clock: Callable[[], float],
        observer: Unobserved,
    ) -> None:
        self._store = store
        self._ray = ray
        self._sight = sight
        self._env = env
        self._python = python
        self._limits = limits
        self._clock = clock
        self._observer = observer
        self._watching_since = clock()
        self.unreachable = ""
        """What Ray's last failure to answer said; empty while it answers."""
        self._stop_again_at: dict[str, float] = {}
        self._logs: dict[str, LogCopy] = {}
        self._gone: list[tuple[float, Holding]] = []
        self._pool = ThreadPoolExecutor(NUM_QUESTIONS, thread_name_prefix="ray-call")

    def lost_sight(self) -> None:
        """Forget how long we have been watching: drivers could not be heard, or it was not for us to."""
        self._watching_since = self._clock()

    def attend(self, ledger: Ledger) -> None:
        """Do what each live attempt needs. Raises: NotLeader, RedisDown."""
        self._sight.watch(ledger.names())
        live = self._fresh(ledger)
        actions = [self._look(attempt) for attempt in live]
        judged = list(zip(live, actions, strict=True))
        self._store.note_submitted([a for a, (_, job) in judged if job is not None and not a.is_submitted])
        for attempt, (action, _) in judged:
            self._act(attempt, action)
        self.start([attempt for attempt, (action, _) in judged if isinstance(action, Start)])
        self._copy_logs(ledger.live())
        gone = self._forget([attempt for attempt, (action, _) in judged if isinstance(action, Gone)])
        ledger.take(dict.fromkeys(gone), now_ms=ledger.now_ms)

    def _fresh(self, ledger: Ledger) -> list[Live]:
        """Read again those attempts that may need something by what is remembered of them."""
        suspects = [a.job_id for a in ledger.restless() if self._may_need_something(a)]
        suspects += [a.job_id for a in ledger.quiet() if not self._is_at_work(a)]
        if not suspects:
            return []
        now_ms, live = self._store.live(suspects)
        ledger.take(dict.fromkeys(suspects) | {a.job_id: a for a in live}, now_ms=now_ms)
        return live

    def _may_need_something(self, live: Live) -> bool:
        if self.unreachable:
            return False
        try:
            action = self._judge(live, self._sight.job(live.submission_id))
            return not live.is_submitted or not isinstance(action, Keep)
        except RayUnreachable as e:
            self.unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        return False

    def _is_at_work(self, live: Live) -> bool:
        if self.unreachable:
            return True
        try:
            job = self._sight.job(live.submission_id)
        except (RayUnreachable, RayRefused) as e:
            self.unreachable = str(e)
            return True
        return job is not None and not job.has_ended

    def start(self, attempts: Sequence[Live]) -> None:
        """Hand attempts to Ray, several at a time."""
        if self.unreachable:
            return  # they are started as soon as it answers
        errors = self._each(self._start, attempts)
        self._store.note_submitted([a for a, error in zip(attempts, errors, strict=True) if error is None])
        for attempt, error in zip(attempts, errors, strict=True):
            if isinstance(error, RayRefused):
                self._act(attempt, End(failure=Failure(word="SubmitFailed", message=str(error))))
            elif error is not None:
                self.unreachable = str(error)

    def afterglow(self) -> list[Holding]:
        """Return what those attempts held that have just gone."""
        self._gone = [(until, holding) for until, holding in self._gone if until > self._clock()]
        return [holding for _, holding in self._gone]

    def _look(self, live: Live) -> tuple[Action, RayJob | None]:
        """Decide what an attempt needs, on what Ray says now."""
        if self.unreachable:
            return Keep(), None
        try:
            job = self._ray.job(live.submission_id)
            return self._judge(live, job), job
        except RayUnreachable as e:
            self.unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        return Keep(), None

    def _judge(self, live: Live, job: RayJob | None) -> Action:
        return judge(live, job, limits=self._limits, watched_s=self._clock() - self._watching_since)

    def _act(self, live: Live, action: Action) -> None:
        try:
            if isinstance(action, TimeIsUp):
                self._store.stop_for_time(live)
            elif isinstance(action, Stop):
                self._stop(live, action.why)
            elif isinstance(action, End):
                self._end(live, action.failure)
        except RayUnreachable as e:
            self.unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        except LeaseLost:
            logger.info("%s attempt %d: ended by its driver meanwhile", live.job_id, live.number)

    def _start(self, live: Live) -> RayUnreachable | RayRefused | None:
        entrypoint = f"{self._python} {DRIVER} {live.job_id} {live.number} {live.token}"
        metadata = {"job_id": live.job_id, "kind": live.kind, "name": live.name, "user": live.user}
        try:
            self._ray.start(live.submission_id, entrypoint=entrypoint, env=self._env, metadata=metadata)
        except (RayUnreachable, RayRefused) as e:
            return e
        logger.info("%s attempt %d: started as %s", live.job_id, live.number, live.submission_id)
        return None

    def _stop(self, live: Live, why: str) -> None:
        now = self._clock()
        if live.submission_id in self._stop_again_at and now < self._stop_again_at[live.submission_id]:
            return
        logger.warning("%s attempt %d: stopping it: %s", live.job_id, live.number, why)
        self._stop_again_at[live.submission_id] = now + STOP_AGAIN_S
        self._ray.stop(live.submission_id)

    def _end(self, live: Live, failure: Failure) -> None:
        decision = decide(
            failure,
            num_faults=live.num_faults,
            num_charged=live.num_charged,
            max_retries=live.max_retries,
        )
        state = self._store.end(live, decision)
        logger.warning(
            "%s attempt %d: %s: %s Now %s.", live.job_id, live.number, failure.word, failure.message, state
        )

    def _forget(self, gone: Sequence[Live]) -> list[str]:
        """Give back what attempts held whose drivers have left. Returns their jobs."""
        forgotten = []
        for live, error in zip(gone, self._each(self._copy_log, gone), strict=True):
            if error is not None:
                self.unreachable = str(error)
                continue  # it stays until its log could be read
            self._store.note_gone(live)
            self._observer.gone(live)
            self._logs.pop(live.submission_id, None)
            self._stop_again_at.pop(live.submission_id, None)
            holding = Holding(job_id=live.job_id, plan=live.plan, ends_in_s=None, is_gone=True)
            self._gone.append((self._clock() + AFTERGLOW_S, holding))
            forgotten.append(live.job_id)
            logger.info("%s attempt %d: gone", live.job_id, live.number)
        return forgotten

    def _copy_logs(self, attempts: Iterable[Live]) -> None:
        if self.unreachable:
            return
        due = [a for a in attempts if a.is_submitted and self._log_of(a).is_due()]
        due.sort(key=lambda attempt: self._log_of(attempt).next_at)
        for error in self._each(self._copy_log, due[:LOGS_PER_PASS]):
            if error is not None:
                self.unreachable = str(error)

    def _copy_log(self, live: Live) -> RayUnreachable | None:
        try:
            self._log_of(live).update(lambda: self._ray.log(live.submission_id))
        except RayUnreachable as e:
            return e
        except (RayRefused, StorageError) as e:
            logger.warning("%s attempt %d: its log is not copied: %s", live.job_id, live.number, e)
        return None

    def _log_of(self, live: Live) -> LogCopy:
        key = live.submission_id
        if key not in self._logs:
            self._logs[key] = LogCopy(JobDir(live.storage, live.job_id), live.number, clock=self._clock)
        return self._logs[key]

    def _each(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call for each, several at a time where there are several."""
        if len(items) < 2:
            return [call(item) for item in items]
        return list(self._pool.map(call, items))
