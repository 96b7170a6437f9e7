"""The loop between Redis and Ray: `python -m bertjobs.jobs.dispatcher.loop`.

One pass: look at every live attempt and do what `watch` says, put delayed jobs back, let `admission` decide
on the queue, start what it admits, write down why the rest waits. All that lasts is in Redis and Ray, so a
dispatcher that was killed is replaced by starting another; of several only the leader works.
"""

import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType

from bertjobs.errors import BertjobsError, ConfigError
from bertjobs.jobs.dispatcher.attempt_policy import Limits
from bertjobs.jobs.dispatcher.metrics import Picture, Unobserved
from bertjobs.jobs.dispatcher.state_cache import Mirror
from bertjobs.jobs.dispatcher.supervisor import Attendant
from bertjobs.jobs.ray.api import Ray, RayCluster, RayRefused, RayUnreachable, ray_token
from bertjobs.jobs.ray.code_package import code_to_send
from bertjobs.jobs.ray.poller import Ask, RayWatch, Sight
from bertjobs.jobs.retention import Janitor
from bertjobs.jobs.scheduling.admission import Sizes, admit, totals_of
from bertjobs.jobs.scheduling.types import (
    SHORT_OF_ROOM,
    Admit,
    Cluster,
    Live,
    Pending,
    Reject,
    Verdict,
    Wait,
    Waiting,
)
from bertjobs.jobs.store.connection import NotLeader, RedisDown, WrongState, open_connection, patiently
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.settings import Settings, load_settings

logger = logging.getLogger(__name__)

LEADER_LEASE_S = 10.0
"""How long a killed leader's place stays taken. One that resigns gives it up at once."""
PASS_INTERVAL_S = 1.0
"""Longest time between two passes; a submission wakes the dispatcher at once."""


class Dispatcher:
    """What one dispatcher remembers between passes; nothing of it is needed by the next one."""

    def __init__(
        self,
        store: DispatchStore,
        ray: Ray,
        *,
        env: Mapping[str, str],
        limits: Limits,
        python: str = sys.executable,
        clock: Callable[[], float] = time.monotonic,
        sight: Sight | None = None,
        observer: Unobserved | None = None,
    ) -> None:
        self._store = store
        self._sight = sight or Ask(ray)
        self._observer = observer or Unobserved()
        self._clock = clock
        self._mirror = Mirror(store)
        self._attendant = Attendant(
            store,
            ray,
            self._sight,
            env=env,
            python=python,
            limits=limits,
            clock=clock,
            observer=self._observer,
        )
        self._sizes: Sizes | None = None
        self._term = 0
        self.has_more = False
        """Whether the last pass started as many jobs as one may, so that the next should follow at once."""

    def turn(self) -> bool:
        """Make one pass. Returns whether we lead. Raises: NotLeader, RedisDown."""
        began = self._clock()
        is_leading = self._store.lead()
        picture = self._pass() if is_leading else None
        if not is_leading:
            self.lost_sight()
        self._observer.passed(self._clock() - began, picture)
        return is_leading

    def lost_sight(self) -> None:
        """Trust nothing remembered: Redis was away and nobody could be heard, or a pass broke off."""
        self._attendant.lost_sight()
        self._mirror.forget()

    def _pass(self) -> Picture:
        mirror, attendant = self._mirror, self._attendant
        if self._store.term != self._term:  # another one may have led since
            self._term = self._store.term
            mirror.forget()
        attendant.unreachable = ""
        mirror.refresh()
        attendant.attend(mirror.ledger)
        self._store.promote()
        mirror.refresh()
        cluster, first_waiting_s = self._admit()
        return Picture(
            counts=mirror.counts,
            reasons=mirror.backlog.count_reasons(),
            live=mirror.ledger.live(),
            overdue=mirror.ledger.overdue,
            cluster=cluster,
            is_ray_reachable=not attendant.unreachable,
            first_waiting_s=first_waiting_s,
            is_drained=mirror.rules.drained_by is not None,
        )

    def _admit(self) -> tuple[Cluster | None, float]:
        """Start what fits, and say why the rest waits. Returns the cluster and how long the first waits."""
        backlog = self._mirror.backlog
        queue = backlog.waiting()
        self.has_more = False
        cluster = self._cluster()
        if not queue:
            return cluster, 0.0
        verdicts = admit(
            queue,
            cluster=cluster,
            holdings=self._mirror.ledger.holdings() + self._attendant.afterglow(),
            unreachable=self._attendant.unreachable,
            rules=self._mirror.rules,
            sizes=self._sizes,
        )
        self.has_more = len(verdicts) < len(queue)  # a pass that has started enough decides no more
        if reasons := backlog.compare(_waits(queue, verdicts)):
            self._store.explain(reasons)
            backlog.note(reasons)
        started = []
        for job, verdict in zip(queue, verdicts, strict=False):
            if isinstance(verdict, Admit):
                started.append(self._claim(job.job_id, verdict))
            elif isinstance(verdict, Reject):
                logger.warning("%s: %s", job.job_id, verdict.reason.message)
                self._store.reject(job.job_id, verdict.reason)
        self._attendant.start([attempt for attempt in started if attempt is not None])
        return cluster, self._first_waiting_s(queue, verdicts)

    def _cluster(self) -> Cluster | None:
        if self._attendant.unreachable:
            return None
        try:
            cluster = self._sight.cluster()
        except (RayUnreachable, RayRefused) as e:
            self._attendant.unreachable = str(e)
            return None
        if self._sizes is None or self._sizes.totals != totals_of(cluster):
            self._sizes = Sizes(cluster)
        return cluster

    def _claim(self, job_id: str, verdict: Admit) -> Live | None:
        try:
            attempt = self._store.claim(job_id, grant=verdict.grant, plan=verdict.plan)
        except WrongState as e:
            logger.info("%s: not started, it is %s", job_id, e.state)
            return None
        self._observer.granted(attempt)
        logger.info("%s attempt %d: granted", attempt.job_id, attempt.number)
        return attempt

    def _first_waiting_s(self, queue: Sequence[Waiting], verdicts: Sequence[Verdict]) -> float:
        for job_id, reason in _waits(queue, verdicts):
            if reason.word in SHORT_OF_ROOM:
                return self._mirror.backlog.waited_s(job_id)
        return 0.0


def _waits(queue: Sequence[Waiting], verdicts: Sequence[Verdict]) -> Iterator[tuple[str, Pending]]:
    for job, verdict in zip(queue, verdicts, strict=False):
        if isinstance(verdict, Wait):
            yield job.job_id, verdict.reason


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
    with ExitStack() as ends:
        connection = patiently(lambda: open_connection(settings), for_s=60.0)
        ends.callback(connection.close)
        owner = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        store = DispatchStore(connection, owner=owner, lease_s=LEADER_LEASE_S)
        ray = RayCluster(settings.ray_address, token=ray_token(), code=code_to_send(settings))
        sight, janitor = RayWatch(ray), Janitor(store)
        dispatcher = Dispatcher(
            store,
            ray,
            env=driver_environment(settings),
            python=settings.node_python,
            limits=Limits(lease_s=settings.lease_s),
            sight=sight,
            observer=_observer(settings, ends),
        )
        for helper in (sight, janitor):
            helper.start()
            ends.callback(helper.close)
        ends.callback(_resign, store)
        logger.info("dispatching from %s to %s as %s", connection.where, settings.ray_address, owner)
        while not should_stop():
            _pass(dispatcher, store)


def _observer(settings: Settings, ends: ExitStack) -> Unobserved:
    if settings.metrics_port is None:
        return Unobserved()
    from bertjobs.jobs.dispatcher.prometheus import (  # 60 ms that most need not pay
        MetricsServer,
        QueueMetrics,
    )

    metrics = QueueMetrics()
    ends.callback(MetricsServer(metrics, port=settings.metrics_port).close)
    return metrics


def _resign(store: DispatchStore) -> None:
    try:
        store.resign()
    except BertjobsError as e:
        logger.warning("not resigned: %s", e)


def _pass(dispatcher: Dispatcher, store: DispatchStore) -> None:
    try:
        if not dispatcher.turn():
            time.sleep(PASS_INTERVAL_S)
        elif not dispatcher.has_more:
            store.wait(timeout_s=PASS_INTERVAL_S)
        return
    except NotLeader:
        logger.warning("another dispatcher has taken over; waiting")
    except RedisDown as e:
        logger.warning("%s", e)
    except Exception:  # one of the two borders: a pass that failed must not end the loop
        logger.exception("a pass failed; the next one follows")
    dispatcher.lost_sight()
    time.sleep(PASS_INTERVAL_S)


def spare_collector() -> None:
    """Let the garbage collector look seldom: by default it walks over the whole remembered queue every few
    passes, which takes 50 ms at 10,000 jobs, and a pass leaves no cycles behind."""
    gc.set_threshold(50_000, 50, 100)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    spare_collector()
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
