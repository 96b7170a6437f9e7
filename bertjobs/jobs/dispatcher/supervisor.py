"""Supervision of the live attempts: starts, stops and ends them."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from bertjobs.errors import LeaseLost
from bertjobs.jobs.dispatcher.attempt_policy import (
    Action,
    EndAttempt,
    NoAction,
    ReleaseResources,
    StartRayJob,
    StopRayJob,
    TimeOut,
    Timeouts,
    next_action,
)
from bertjobs.jobs.dispatcher.log_copier import LogCopier
from bertjobs.jobs.dispatcher.metrics import QueueObserver
from bertjobs.jobs.dispatcher.result_reader import ResultReader
from bertjobs.jobs.dispatcher.state_cache import AttemptCache
from bertjobs.jobs.ray.api import RayApi, RayJob, RayRefused, RayUnreachable
from bertjobs.jobs.ray.poller import MAX_CONCURRENT_REQUESTS, RayPoller
from bertjobs.jobs.retry import SUCCESS, Failure, decide
from bertjobs.jobs.scheduling.types import Allocation, LiveAttempt
from bertjobs.jobs.store.dispatch_store import DispatchStore

logger = logging.getLogger(__name__)

DRIVER = ("-m", "bertjobs.runs")
"""What a Ray Job executes; the job's id, the attempt and its token follow."""
STOP_AGAIN_S = 10.0
"""A stop request to Ray may have no effect; it is sent again after this time."""
RELEASE_LAG_S = 8.0
"""How long Ray's numbers may still count what an attempt held that has gone."""

T = TypeVar("T")
R = TypeVar("R")


class Supervisor:
    """The live attempts under one dispatcher. What it remembers is lost with it, and can be."""

    def __init__(
        self,
        store: DispatchStore,
        ray: RayApi,
        poller: RayPoller,
        *,
        env: Mapping[str, str],
        python: str,
        timeouts: Timeouts,
        clock: Callable[[], float],
        observer: QueueObserver,
        logs: LogCopier,
        results: ResultReader,
    ) -> None:
        self._store = store
        self._ray = ray
        self._poller = poller
        self._env = env
        self._python = python
        self._timeouts = timeouts
        self._clock = clock
        self._observer = observer
        self._logs = logs
        self._results = results
        self._observed_since = clock()
        self.unreachable = ""
        """The error of Ray's last failure to answer; empty while it answers."""
        self._stop_again_at: dict[str, float] = {}
        self._gone: list[tuple[float, Allocation]] = []
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="ray-call")

    def restart_silence(self) -> None:
        """Count the silence of drivers from now: before, no heartbeat could arrive or we did not lead."""
        self._observed_since = self._clock()

    def supervise(self, attempts: AttemptCache) -> None:
        """Do what each live attempt needs. Raises: NotLeader, RedisDown."""
        self._poller.watch(attempts.submission_ids())
        self._results.keep(attempts.submission_ids())
        live = self._read_again(attempts)
        checked = [(attempt, *self._check(attempt)) for attempt in live]
        # Noted before anything is done: an attempt that Ray knows must never be taken for one not yet
        # started.
        self._store.note_submitted([a for a, _, job in checked if job is not None and not a.is_submitted])
        for attempt, action, _ in checked:
            self._act(attempt, action)
        self.start([attempt for attempt, action, _ in checked if isinstance(action, StartRayJob)])
        self._logs.watch(attempts.all())
        gone = self._release([a for a, action, _ in checked if isinstance(action, ReleaseResources)])
        attempts.update(dict.fromkeys(gone), now_ms=attempts.now_ms)

    def start(self, attempts: Sequence[LiveAttempt]) -> None:
        """Submit attempts to Ray, several at a time."""
        if self.unreachable:
            return  # the next pass finds them not submitted
        errors = self._each(self._submit, attempts)
        self._store.note_submitted([a for a, error in zip(attempts, errors, strict=True) if error is None])
        for attempt, error in zip(attempts, errors, strict=True):
            if isinstance(error, RayRefused):
                failure = Failure(word="SubmitFailed", message=str(error))
                self._act(attempt, EndAttempt(failure=failure))
            elif error is not None:
                self.unreachable = str(error)

    def recently_released(self) -> list[Allocation]:
        """Return what those attempts held that have just gone."""
        self._gone = [(until, allocation) for until, allocation in self._gone if until > self._clock()]
        return [allocation for _, allocation in self._gone]

    def _read_again(self, attempts: AttemptCache) -> list[LiveAttempt]:
        """Find the attempts that may need something by the cache and the poller, and read them from Redis."""
        suspects = [a.job_id for a in attempts.unsteady() if self._may_need_action(a)]
        suspects += [a.job_id for a in attempts.steady() if not self._is_running(a)]
        if not suspects:
            return []
        now_ms, live = self._store.live(suspects)
        attempts.update(dict.fromkeys(suspects) | {a.job_id: a for a in live}, now_ms=now_ms)
        return live

    def _may_need_action(self, live: LiveAttempt) -> bool:
        if self.unreachable:
            return False
        try:
            action = self._next_action(live, self._poller.job(live.submission_id))
            return not live.is_submitted or not isinstance(action, NoAction)
        except RayUnreachable as e:
            self.unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        return False

    def _is_running(self, live: LiveAttempt) -> bool:
        if self.unreachable:
            return True
        try:
            job = self._poller.job(live.submission_id)
        except (RayUnreachable, RayRefused) as e:
            self.unreachable = str(e)
            return True
        return job is not None and not job.has_ended

    def _check(self, live: LiveAttempt) -> tuple[Action, RayJob | None]:
        """Decide what an attempt needs, from what Ray reports now: the poller's data may be a second old."""
        if self.unreachable:
            return NoAction(), None
        try:
            job = self._ray.job(live.submission_id)
            if job is not None and job.has_ended:
                # Its actors are asked for beside the pass; until that was done after its end they count.
                polled = self._poller.job(live.submission_id)
                has_actors = polled is not None and (not polled.has_ended or polled.has_actors)
                job = replace(job, has_actors=has_actors)
            return self._next_action(live, job), job
        except RayUnreachable as e:
            self.unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        return NoAction(), None

    def _next_action(self, live: LiveAttempt, job: RayJob | None) -> Action:
        observed_s = self._clock() - self._observed_since
        return next_action(live, job, timeouts=self._timeouts, observed_s=observed_s)

    def _act(self, live: LiveAttempt, action: Action) -> None:
        try:
            if isinstance(action, TimeOut):
                self._store.stop_for_time(live)
            elif isinstance(action, StopRayJob):
                self._stop(live, action.why)
            elif isinstance(action, EndAttempt):
                self._end(live, action.failure)
        except RayUnreachable as e:
            self.unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        except LeaseLost:  # the race between us and a driver that ends its attempt itself: the driver won
            logger.info("%s attempt %d: its driver has ended it meanwhile", live.job_id, live.number)

    def _submit(self, live: LiveAttempt) -> RayUnreachable | RayRefused | None:
        # Ray gives the line to a shell.
        entrypoint = shlex.join([self._python, *DRIVER, live.job_id, str(live.number), str(live.token)])
        metadata = {"job_id": live.job_id, "kind": live.kind, "name": live.name, "user": live.user}
        try:
            self._ray.start(live.submission_id, entrypoint=entrypoint, env=self._env, metadata=metadata)
        except (RayUnreachable, RayRefused) as e:
            return e
        logger.info("%s attempt %d: started as %s", live.job_id, live.number, live.submission_id)
        return None

    def _stop(self, live: LiveAttempt, why: str) -> None:
        now = self._clock()
        if live.submission_id in self._stop_again_at and now < self._stop_again_at[live.submission_id]:
            return
        logger.warning("%s attempt %d: stopping it: %s", live.job_id, live.number, why)
        self._stop_again_at[live.submission_id] = now + STOP_AGAIN_S
        self._ray.stop(live.submission_id)

    def _end(self, live: LiveAttempt, failure: Failure) -> None:
        # Redis may have lost what the driver told it: the result in storage counts, whatever else is found.
        is_known, result = self._results.ask(live)
        if not is_known:
            return  # storage is read beside the pass; a later pass finds the same attempt again
        if result is not None:
            state = self._store.end(live, SUCCESS, result)
            logger.warning(
                "%s attempt %d: its result was in storage, unknown to Redis. The job is now %s.",
                live.job_id,
                live.number,
                state,
            )
            return
        decision = decide(
            failure,
            num_faults=live.num_faults,
            num_charged=live.num_charged,
            max_retries=live.max_retries,
            num_stalls=live.num_stalls,
        )
        state = self._store.end(live, decision)
        logger.warning(
            "%s attempt %d: %s: %s The job is now %s.",
            live.job_id,
            live.number,
            failure.word,
            failure.message,
            state,
        )

    def _release(self, gone: Sequence[LiveAttempt]) -> list[str]:
        """Free what attempts held whose drivers have exited. Returns their jobs."""
        released = []
        for live in gone:
            self._store.note_gone(live)
            self._observer.attempt_gone(live)
            self._logs.finish(live)
            self._stop_again_at.pop(live.submission_id, None)
            allocation = Allocation(
                job_id=live.job_id, placement=live.placement, ends_in_s=None, is_gone=True
            )
            self._gone.append((self._clock() + RELEASE_LAG_S, allocation))
            released.append(live.job_id)
            logger.info("%s attempt %d: gone", live.job_id, live.number)
        return released

    def _each(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call for each item, in threads where there are several."""
        if len(items) < 2:
            return [call(item) for item in items]
        return list(self._pool.map(call, items))
