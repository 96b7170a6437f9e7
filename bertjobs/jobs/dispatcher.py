"""The loop between Redis and Ray: `python -m bertjobs.jobs.dispatcher`.

One pass: look at every live attempt and do what `watch` says, put delayed jobs back, let `admission` decide
on the queue, start what it admits, write down why the rest waits. All that lasts is in Redis and Ray, so a
dispatcher that was killed is replaced by starting another; of several only the leader works.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from bertjobs.errors import BertjobsError, ConfigError, LeaseLost, StorageError
from bertjobs.jobs.admission import Admit, Holding, Reject, admit
from bertjobs.jobs.connection import NotLeader, RedisDown, WrongState, open_connection, patiently
from bertjobs.jobs.dispatch_store import DispatchStore
from bertjobs.jobs.logs import LogCopy
from bertjobs.jobs.ray_jobs import Ray, RayCluster, RayJob, RayRefused, RayUnreachable, ray_token
from bertjobs.jobs.retry import Failure, decide
from bertjobs.jobs.sizing import Cluster, Pending
from bertjobs.jobs.watch import End, Gone, Limits, Live, Start, Stop, TimeIsUp, judge
from bertjobs.settings import Settings, load_settings
from bertjobs.storage import JobDir

logger = logging.getLogger(__name__)

DRIVER = f"{sys.executable} -m bertjobs.runs.main"
"""What a Ray Job executes; the job's id, the attempt and its token follow."""
LEADER_LEASE_S = 10.0
"""How long a killed leader's place stays taken. One that resigns gives it up at once."""
PASS_INTERVAL_S = 1.0
"""Longest time between two passes; a submission wakes the dispatcher at once."""
STOP_AGAIN_S = 10.0
AFTERGLOW_S = 8.0
"""How long Ray's numbers may still show what an attempt held that has gone."""


class Dispatcher:
    """What one dispatcher remembers between passes; nothing of it is needed by the next one."""

    def __init__(
        self,
        store: DispatchStore,
        ray: Ray,
        *,
        env: dict[str, str],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ray = ray
        self._env = env
        self._limits = limits
        self._clock = clock
        self._watching_since = clock()
        self._unreachable = ""
        """What Ray's last failure to answer said; empty while it answers."""
        self._stop_again_at: dict[str, float] = {}
        self._logs: dict[str, LogCopy] = {}
        self._gone: list[tuple[float, Holding]] = []

    def turn(self) -> bool:
        """Make one pass. Returns whether we lead. Raises: NotLeader, RedisDown."""
        if not self._store.lead():
            self._watching_since = self._clock()
            return False
        self._unreachable = ""
        live = [attempt for attempt in self._store.live() if not self._attend(attempt)]
        self._store.promote()
        self._admit(live)
        return True

    def lost_sight(self) -> None:
        """Forget how long we have been watching: Redis was away, and nobody could be heard."""
        self._watching_since = self._clock()

    def _attend(self, live: Live) -> bool:
        """Do what one live attempt needs. Returns whether it is gone."""
        try:
            if self._unreachable:
                return False
            ray_job = self._ray.job(live.submission_id)
            if ray_job is not None and not live.is_submitted:
                self._store.note_submitted(live)
            return self._act(live, ray_job)
        except RayUnreachable as e:
            self._unreachable = str(e)
        except RayRefused as e:
            logger.warning("%s attempt %d: %s", live.job_id, live.number, e)
        except LeaseLost:
            logger.info("%s attempt %d: ended by its driver meanwhile", live.job_id, live.number)
        return False

    def _act(self, live: Live, ray_job: RayJob | None) -> bool:
        watched_s = self._clock() - self._watching_since
        action = judge(live, ray_job, limits=self._limits, watched_s=watched_s)
        if isinstance(action, Gone):
            self._forget(live)
            return True
        if isinstance(action, Start):
            self._start(live)
        elif isinstance(action, TimeIsUp):
            self._store.stop_for_time(live)
        elif isinstance(action, Stop):
            self._stop(live, action.why)
        elif isinstance(action, End):
            self._end(live, action.failure)
        if ray_job is not None:
            self._copy_log(live)
        return False

    def _start(self, live: Live) -> None:
        entrypoint = f"{DRIVER} {live.job_id} {live.number} {live.token}"
        try:
            self._ray.start(live.submission_id, entrypoint=entrypoint, env=self._env)
        except RayRefused as e:
            self._end(live, Failure(word="SubmitFailed", message=str(e)))
            return
        self._store.note_submitted(live)
        logger.info("%s attempt %d: started as %s", live.job_id, live.number, live.submission_id)

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

    def _forget(self, live: Live) -> None:
        self._copy_log(live, is_last=True)
        self._store.note_gone(live)
        self._logs.pop(live.submission_id, None)
        self._stop_again_at.pop(live.submission_id, None)
        holding = Holding(job_id=live.job_id, plan=live.plan, ends_in_s=None, is_gone=True)
        self._gone.append((self._clock() + AFTERGLOW_S, holding))
        logger.info("%s attempt %d: gone", live.job_id, live.number)

    def _copy_log(self, live: Live, *, is_last: bool = False) -> None:
        key = live.submission_id
        if key not in self._logs:
            self._logs[key] = LogCopy(JobDir(live.storage, live.job_id), live.number, clock=self._clock)
        if not is_last and not self._logs[key].is_due():
            return
        try:
            self._logs[key].update(lambda: self._ray.log(key))
        except (RayRefused, StorageError) as e:
            logger.warning("%s attempt %d: its log is not copied: %s", live.job_id, live.number, e)

    def _admit(self, live: list[Live]) -> None:
        queue = self._store.queue()
        if not queue:
            return
        cluster = self._cluster()
        verdicts = admit(
            [queued.waiting for queued in queue],
            cluster=cluster,
            holdings=self._holdings(live),
            unreachable=self._unreachable,
        )
        reasons: list[tuple[str, Pending]] = []
        for queued, verdict in zip(queue, verdicts, strict=True):
            if isinstance(verdict, Admit):
                self._claim(verdict)
            elif isinstance(verdict, Reject):
                logger.warning("%s: %s", verdict.job_id, verdict.reason.message)
                self._store.reject(verdict.job_id, verdict.reason)
            elif verdict.reason != queued.reason:
                reasons.append((verdict.job_id, verdict.reason))
        self._store.explain(reasons)

    def _cluster(self) -> Cluster | None:
        if self._unreachable:
            return None
        try:
            return self._ray.cluster()
        except (RayUnreachable, RayRefused) as e:
            self._unreachable = str(e)
            return None

    def _holdings(self, live: list[Live]) -> list[Holding]:
        self._gone = [(until, holding) for until, holding in self._gone if until > self._clock()]
        held = [Holding(job_id=a.job_id, plan=a.plan, ends_in_s=a.time_left_s) for a in live]
        return held + [holding for _, holding in self._gone]

    def _claim(self, verdict: Admit) -> None:
        try:
            number, _ = self._store.claim(verdict.job_id, grant=verdict.grant, plan=verdict.plan)
        except WrongState as e:
            logger.info("%s: not started, it is %s", verdict.job_id, e.state)
            return
        logger.info("%s attempt %d: granted", verdict.job_id, number)
        for attempt in self._store.live():
            if (attempt.job_id, attempt.number) == (verdict.job_id, number):
                self._attend(attempt)


def driver_environment(settings: Settings) -> dict[str, str]:
    """Return what a driver must know to find its job. No password: it reads its own from its node.

    Nothing in the embedded stack, whose Ray has it all in its environment: a runtime environment would keep
    Ray from using the workers it has started in advance, which costs a job 4 s.
    """
    if settings.is_stack_member:
        return {}
    assert settings.redis_url is not None and settings.ray_address is not None
    env = {
        "BERTJOBS_REDIS_URL": settings.redis_url,
        "BERTJOBS_RAY_ADDRESS": settings.ray_address,
        "BERTJOBS_LEASE_S": f"{settings.lease_s:g}",
    }
    if settings.redis_url.startswith("unix:"):  # all on this machine: the folders are the same
        env |= {"BERTJOBS_HOME": str(settings.home), "BERTJOBS_CACHE": str(settings.cache)}
    return env


def run(settings: Settings, *, should_stop: Callable[[], bool]) -> None:
    """Dispatch until told to stop.

    Raises: ConfigError: an address is missing; QueueError: Redis refuses us.
    """
    if settings.ray_address is None:
        raise ConfigError(
            "There is no Ray address.",
            hint="Set BERTJOBS_RAY_ADDRESS to the dashboard's (http://host:8265); "
            "`bertjobs cluster up` needs no address.",
        )
    connection = patiently(lambda: open_connection(settings), for_s=60.0)
    owner = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
    store = DispatchStore(connection, owner=owner, lease_s=LEADER_LEASE_S)
    ray = RayCluster(settings.ray_address, token=ray_token())
    dispatcher = Dispatcher(
        store, ray, env=driver_environment(settings), limits=Limits(lease_s=settings.lease_s)
    )
    logger.info("dispatching from %s to %s as %s", connection.where, settings.ray_address, owner)
    try:
        while not should_stop():
            _pass(dispatcher, store)
    finally:
        try:
            store.resign()
        except BertjobsError as e:
            logger.warning("not resigned: %s", e)
        connection.close()


def _pass(dispatcher: Dispatcher, store: DispatchStore) -> None:
    try:
        if dispatcher.turn():
            store.wait(timeout_s=PASS_INTERVAL_S)
        else:
            time.sleep(PASS_INTERVAL_S)
    except NotLeader:
        logger.warning("another dispatcher has taken over; waiting")
    except RedisDown as e:
        logger.warning("%s", e)
        dispatcher.lost_sight()
        time.sleep(PASS_INTERVAL_S)
    except Exception:  # one of the two borders: a pass that failed must not end the loop
        logger.exception("a pass failed; the next one follows")
        time.sleep(PASS_INTERVAL_S)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stopped: list[int] = []

    def stop(signum: int, _: FrameType | None) -> None:
        stopped.append(signum)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        run(load_settings(), should_stop=lambda: bool(stopped))
    except BertjobsError as e:
        logger.error("%s", e)
        raise SystemExit(e.exit_code) from e


if __name__ == "__main__":
    main()
