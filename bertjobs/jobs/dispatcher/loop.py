"""The dispatcher, between Redis and Ray: `python -m bertjobs.jobs.dispatcher.loop`.

One pass: check every live attempt, put delayed jobs back, let `admission` decide on the queue, start what it
admits, write down why the rest waits. All lasting state is in Redis and Ray, so a killed dispatcher is
replaced by starting another; of several only the leader works.
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
from bertjobs.jobs.dispatcher.attempt_policy import Timeouts
from bertjobs.jobs.dispatcher.autoscaler import Autoscaler
from bertjobs.jobs.dispatcher.leadership import LeadershipRenewal
from bertjobs.jobs.dispatcher.log_copier import LogCopier
from bertjobs.jobs.dispatcher.metrics import QueueObserver, QueueSnapshot
from bertjobs.jobs.dispatcher.result_reader import ResultReader
from bertjobs.jobs.dispatcher.state_cache import StateCache
from bertjobs.jobs.dispatcher.supervisor import Supervisor
from bertjobs.jobs.ray.api import RayApi, RayRefused, RayUnreachable, ray_token
from bertjobs.jobs.ray.code_package import code_to_send
from bertjobs.jobs.ray.poller import RayPoller
from bertjobs.jobs.retention import CleanupThread, InputLimits
from bertjobs.jobs.scheduling.admission import GangSizes, admit, totals_of
from bertjobs.jobs.scheduling.autoscaling import ScaleLimits, scale_request
from bertjobs.jobs.scheduling.types import (
    SHORT_OF_RESOURCES,
    AdmissionDecision,
    Admit,
    Cluster,
    LiveAttempt,
    Reject,
    Wait,
    WaitingJob,
    WaitReason,
)
from bertjobs.jobs.store.connection import (
    AccessRefused,
    NotLeader,
    RecordInvalid,
    RedisDown,
    WrongState,
    open_connection,
    retry_while_down,
)
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.records import DriverLaunch
from bertjobs.settings import Settings, load_settings, thread_environment
from bertjobs.storage import StorageRoots

logger = logging.getLogger(__name__)

LEADER_LEASE_S = 10.0
"""How long the leadership of a killed dispatcher stays taken. One that resigns frees it at once."""
PASS_INTERVAL_S = 1.0
"""Longest time between two passes; a submission wakes the dispatcher at once."""


class Dispatcher:
    """One dispatcher. What it remembers between passes is a cache; the next dispatcher needs none of it."""

    def __init__(
        self,
        store: DispatchStore,
        ray: RayApi,
        poller: RayPoller,
        *,
        env: Mapping[str, str],
        timeouts: Timeouts,
        python: str = sys.executable,
        clock: Callable[[], float] = time.monotonic,
        observer: QueueObserver | None = None,
        max_drivers: int | None = None,
        logs: LogCopier,
        results: ResultReader,
        autoscaler: Autoscaler | None = None,
        scale_limits: ScaleLimits | None = None,
    ) -> None:
        """Without `autoscaler` and `scale_limits` the cluster has the nodes that it has."""
        self._store = store
        self._autoscaler, self._scale_limits = autoscaler, scale_limits
        self._poller = poller
        self._observer = observer or QueueObserver()
        self._clock = clock
        self._cache = StateCache(store)
        self._supervisor = Supervisor(
            store,
            ray,
            poller,
            env=env,
            python=python,
            timeouts=timeouts,
            clock=clock,
            observer=self._observer,
            logs=logs,
            results=results,
        )
        self._logs = logs
        self._knows_logs = False
        """Whether the logs are known that an earlier dispatcher did not finish."""
        self._sizes: GangSizes | None = None
        self._max_drivers = max_drivers
        self._term = 0
        self.last_pass_at = clock()
        """When a pass ended last."""
        self.has_more = False
        """Whether the last pass started as many jobs as one pass may, so that the next should follow at
        once."""

    def run_pass(self) -> bool:
        """Make one pass. Returns whether we lead. Raises: NotLeader, RedisDown."""
        began = self._clock()
        is_leading = self._store.lead()
        snapshot = self._lead_pass() if is_leading else None
        if not is_leading:
            self.reset()
            self._logs.stand_by()
            if self._autoscaler is not None:
                self._autoscaler.stand_by()
        self.last_pass_at = self._clock()
        self._observer.pass_finished(self.last_pass_at - began, snapshot)
        return is_leading

    def reset(self) -> None:
        """Forget what is cached: Redis was down so that no heartbeat could arrive, or a pass failed
        midway."""
        self._supervisor.restart_silence()
        self._cache.clear()
        self._knows_logs = False

    def _lead_pass(self) -> QueueSnapshot:
        cache, supervisor = self._cache, self._supervisor
        if self._store.term != self._term:  # another dispatcher may have led since
            self._term = self._store.term
            cache.clear()
            # Where we led before ourselves, an outcome may have been refused in between, and dropped.
            self._knows_logs = False
        if not self._knows_logs:
            self._logs.adopt(self._store.unfinished_logs())
            self._knows_logs = True
        supervisor.unreachable = ""
        cache.refresh()
        supervisor.supervise(cache.attempts)
        self._store.promote()
        cache.refresh()  # what was freed and promoted takes part in this pass
        cluster, first_waiting_s = self._admit()
        return QueueSnapshot(
            counts=cache.counts,
            reasons=cache.queue.count_reasons(),
            live=cache.attempts.all(),
            overdue=cache.attempts.overdue,
            cluster=cluster,
            is_ray_reachable=not supervisor.unreachable,
            first_waiting_s=first_waiting_s,
            is_drained=cache.quotas.drained_by is not None,
        )

    def _admit(self) -> tuple[Cluster | None, float]:
        """Start what fits, and write down why the rest waits.

        Returns the cluster, and how long the first job has waited that waits for resources only.
        """
        queue = self._cache.queue.waiting()
        self.has_more = False
        cluster = self._cluster()
        self._ask_autoscaler(queue, cluster)
        if not queue:
            return cluster, 0.0
        decisions = admit(
            queue,
            cluster=cluster,
            allocations=self._cache.attempts.allocations() + self._supervisor.recently_released(),
            unreachable=self._supervisor.unreachable,
            quotas=self._cache.quotas,
            sizes=self._sizes,
            max_drivers=self._max_drivers,
        )
        self.has_more = len(decisions) < len(queue)  # a pass that has started enough jobs stops deciding
        # Reasons are written before jobs are claimed: a claim may fail, and is refused once we do not lead.
        if changes := self._cache.queue.changes_to(_waits(queue, decisions)):
            self._store.write_reasons(changes)
            self._cache.queue.apply(changes)
        claimed = []
        for job, decision in zip(queue, decisions, strict=False):
            if isinstance(decision, Admit):
                claimed.append(self._claim(job.job_id, decision))
            elif isinstance(decision, Reject):
                logger.warning("%s: %s", job.job_id, decision.reason.message)
                self._store.reject(job.job_id, decision.reason)
        self._supervisor.start([attempt for attempt in claimed if attempt is not None])
        return cluster, self._first_waiting_s(queue, decisions)

    def _ask_autoscaler(self, queue: Sequence[WaitingJob], cluster: Cluster | None) -> None:
        """Note what Ray's autoscaler should be asked for; it is sent apart from the pass."""
        if self._autoscaler is None or self._scale_limits is None or cluster is None:
            return
        request = scale_request(
            queue,
            cluster=cluster,
            allocations=self._cache.attempts.allocations(),
            quotas=self._cache.quotas,
            limits=self._scale_limits,
        )
        self._autoscaler.want(request)

    def _cluster(self) -> Cluster | None:
        if self._supervisor.unreachable:
            return None
        try:
            cluster = self._poller.cluster()
        except (RayUnreachable, RayRefused) as e:
            self._supervisor.unreachable = str(e)
            return None
        if self._sizes is None or self._sizes.totals != totals_of(cluster):
            self._sizes = GangSizes(cluster)
        return cluster

    def _claim(self, job_id: str, decision: Admit) -> LiveAttempt | None:
        try:
            attempt = self._store.claim(job_id, grant=decision.grant, placement=decision.placement)
        except RecordInvalid as e:
            self._store.skip(job_id, e)
            # Out of the cache, so that admission reserves nothing for it.
            self._cache.queue.update({job_id: None}, now_ms=self._cache.now_ms)
            return None
        except WrongState as e:  # the race between admission and a user who cancels, holds or drains
            logger.info("%s: not started, it is %s", job_id, e.state)
            return None
        self._observer.attempt_claimed(attempt)
        logger.info("%s attempt %d: granted", attempt.job_id, attempt.number)
        return attempt

    def _first_waiting_s(self, queue: Sequence[WaitingJob], decisions: Sequence[AdmissionDecision]) -> float:
        for job_id, reason in _waits(queue, decisions):
            if reason.word in SHORT_OF_RESOURCES:
                return self._cache.queue.waited_s(job_id)
        return 0.0


def _waits(
    queue: Sequence[WaitingJob], decisions: Sequence[AdmissionDecision]
) -> Iterator[tuple[str, WaitReason]]:
    for job, decision in zip(queue, decisions, strict=False):
        if isinstance(decision, Wait):
            yield job.job_id, decision.reason


def driver_environment(settings: Settings) -> dict[str, str]:
    """Return the environment that a driver needs to find its job, without a password: each node has its own.

    Empty in the embedded stack, whose Ray has it all in its environment: a runtime environment would keep Ray
    from using the workers it has started in advance, which costs a job 4 s.
    """
    if settings.is_stack_member:
        return {}
    assert settings.redis_url is not None and settings.ray_address is not None
    env = {
        "BERTJOBS_REDIS_URL": settings.redis_url,
        "BERTJOBS_RAY_ADDRESS": settings.ray_address,
        "BERTJOBS_LEASE_S": f"{settings.lease_s:g}",
        "BERTJOBS_STALL_TIMEOUT_S": f"{settings.stall_timeout_s:g}",
        **thread_environment(),
    }
    if settings.encoded is not None:
        env["BERTJOBS_ENCODED"] = settings.encoded
    if settings.allowed_to_drivers is not None:
        env |= {
            "BERTJOBS_STORAGE": settings.storage,
            "BERTJOBS_STORAGE_ROOTS": ",".join(settings.storage_roots),
        }
    if settings.redis_url.startswith("unix:"):  # everything is on this machine: the folders are the same
        env |= {"BERTJOBS_HOME": str(settings.home), "BERTJOBS_CACHE": str(settings.cache)}
    return env


def run(settings: Settings, *, should_stop: Callable[[], bool]) -> None:
    """Dispatch until `should_stop`.

    Raises: ConfigError: an address is missing. AccessRefused: Redis refuses us, now or later.
    """
    if settings.ray_address is None:
        raise ConfigError(
            "There is no Ray address",
            hint="Set BERTJOBS_RAY_ADDRESS to the dashboard's (http://host:8265); "
            "`bertjobs cluster up` needs no address.",
        )
    with ExitStack() as cleanup:
        connection = retry_while_down(lambda: open_connection(settings), for_s=60.0)
        cleanup.callback(connection.close)
        owner = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        drivers = DriverLaunch(python=settings.node_python, env=driver_environment(settings))
        store = DispatchStore(connection, owner=owner, lease_s=LEADER_LEASE_S, drivers=drivers)
        ray = RayApi(
            settings.ray_address,
            token=ray_token(),
            code=code_to_send(settings),
            driver_resource=settings.driver_resource,
        )
        roots = StorageRoots(settings.allowed_storage)
        poller, cleaner = (
            RayPoller(ray),
            CleanupThread(
                store, roots=roots, inputs=_input_limits(settings), max_ended=settings.max_ended_jobs
            ),
        )
        copier = LogCopier(store, ray, roots=roots)
        limits = _scale_limits(settings)
        autoscaler = Autoscaler(ray, python=drivers.python, env=drivers.env) if limits else None
        dispatcher = Dispatcher(
            store,
            ray,
            poller,
            env=drivers.env,
            python=drivers.python,
            timeouts=Timeouts(lease_s=settings.lease_s, start_s=settings.start_deadline_s),
            observer=_observer(settings, store, cleanup),
            max_drivers=settings.max_drivers,
            logs=copier,
            results=ResultReader(roots=roots),
            autoscaler=autoscaler,
            scale_limits=limits,
        )
        renewal = LeadershipRenewal(store, last_pass_at=lambda: dispatcher.last_pass_at)
        if autoscaler is not None:
            autoscaler.start()
            cleanup.callback(autoscaler.close)
        for thread in (poller, cleaner, copier, renewal):
            thread.start()
            cleanup.callback(thread.close)
        cleanup.callback(_resign, store)
        logger.info("dispatching from %s to %s as %s", connection.where, settings.ray_address, owner)
        while not should_stop():
            _run_pass(dispatcher, store)


def _input_limits(settings: Settings) -> InputLimits:
    max_mb = settings.max_inputs_mb
    return InputLimits(
        storage=settings.storage,
        keep_s=settings.keep_inputs_s,
        max_bytes=None if max_mb is None else max_mb * 1e6,
    )


def _scale_limits(settings: Settings) -> ScaleLimits | None:
    gpus, cpus = settings.autoscale_gpus, settings.autoscale_cpus
    return ScaleLimits(gpus=gpus or 0, cpus=cpus or 0) if gpus or cpus else None


def _observer(settings: Settings, store: DispatchStore, cleanup: ExitStack) -> QueueObserver:
    if settings.metrics_port is None:
        return QueueObserver()
    # prometheus_client takes 60 ms to import.
    from bertjobs.jobs.dispatcher.prometheus import MetricsServer, QueueMetrics

    metrics = QueueMetrics(holds_lease=lambda: store.holds_lease)
    cleanup.callback(MetricsServer(metrics, port=settings.metrics_port).close)
    return metrics


def _resign(store: DispatchStore) -> None:
    try:
        store.resign()
    except BertjobsError as e:
        logger.warning("the leadership could not be resigned: %s", e)


def _run_pass(dispatcher: Dispatcher, store: DispatchStore) -> None:
    """Make a pass, and wait for the next one. Raises: AccessRefused: no later pass would do better."""
    try:
        if not dispatcher.run_pass():
            time.sleep(PASS_INTERVAL_S)
        elif not dispatcher.has_more:
            store.wait(timeout_s=PASS_INTERVAL_S)
        return
    except AccessRefused:
        raise
    except NotLeader:
        logger.warning("another dispatcher has taken over; standing by")
    except RedisDown as e:
        logger.warning("%s", e)
    except Exception:  # one of the two borders: a pass that failed must not end the loop
        logger.exception("a pass failed; the next one follows")
    dispatcher.reset()
    time.sleep(PASS_INTERVAL_S)


def tune_garbage_collector() -> None:
    """Collect garbage seldom: by default Python walks over the whole cached queue every few passes, which
    takes 50 ms at 10,000 jobs, and a pass leaves no reference cycles behind."""
    gc.set_threshold(50_000, 50, 100)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    tune_garbage_collector()
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
