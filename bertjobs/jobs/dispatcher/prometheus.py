"""The metrics of the queue in Prometheus' format, served by the dispatcher. `metrics.py` defines them.

Imported only where a port is set: prometheus_client takes 60 ms to import.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from bertjobs import __version__
from bertjobs.errors import ConfigError
from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.jobs.dispatcher.metrics import Metric, QueueObserver, QueueSnapshot
from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import LiveAttempt

_MAKE: Mapping[str, Any] = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}


class QueueMetrics(QueueObserver):
    """Counts what the dispatcher does. A scrape runs in a thread of its own, between two passes or during
    one: each number is current, the numbers together are no snapshot."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._last_pass_at = clock()
        self._metrics = {metric.name: self._make(metric) for metric in names.QUEUE_METRICS}
        self._get(names.BUILD).labels(__version__).set(1)
        self._get(names.LAST_PASS).set_function(lambda: self._clock() - self._last_pass_at)

    def pass_finished(self, took_s: float, snapshot: QueueSnapshot | None) -> None:
        self._last_pass_at = self._clock()
        self._get(names.LEADER).set(snapshot is not None)
        self._get(names.JOBS).clear()
        self._get(names.SILENCE).clear()
        if snapshot is None:
            return
        self._get(names.PASS).observe(took_s)
        self._count_jobs(snapshot)
        self._measure_cluster(snapshot)
        for attempt in snapshot.live:
            is_overdue = attempt.job_id in snapshot.overdue and attempt.heartbeat_ago_s is not None
            silence = self._get(names.SILENCE).labels(attempt.job_id, attempt.kind, attempt.user)
            silence.set(attempt.heartbeat_ago_s if is_overdue else 0)

    def attempt_claimed(self, attempt: LiveAttempt) -> None:
        self._get(names.WAITING).observe(attempt.waited_s)

    def attempt_gone(self, attempt: LiveAttempt) -> None:
        self._get(names.ATTEMPTS).labels(attempt.outcome, attempt.failure).inc()

    def _count_jobs(self, snapshot: QueueSnapshot) -> None:
        jobs = self._get(names.JOBS)
        for state, number in snapshot.counts.items():
            if state is not State.QUEUED:
                jobs.labels(str(state), "").set(number)
        for reason, number in snapshot.reasons.items():
            jobs.labels(str(State.QUEUED), reason).set(number)
        self._get(names.FIRST_WAITING).set(snapshot.first_waiting_s)

    def _measure_cluster(self, snapshot: QueueSnapshot) -> None:
        shares = [share for attempt in snapshot.live for share in attempt.placement.values()]
        self._get(names.CPUS_GRANTED).set(sum(cpus for cpus, _ in shares))
        self._get(names.GPUS_GRANTED).set(sum(gpus for _, gpus in shares))
        self._get(names.RAY_REACHABLE).set(snapshot.is_ray_reachable)
        self._get(names.DRAINING).set(snapshot.is_drained)
        if snapshot.cluster is not None:
            self._get(names.NODES).set(len(snapshot.cluster.nodes))
            self._get(names.CPUS_PRESENT).set(snapshot.cluster.cpus)
            self._get(names.GPUS_PRESENT).set(snapshot.cluster.gpus)

    def _make(self, metric: Metric) -> Any:
        more = {"buckets": metric.buckets} if metric.buckets else {}
        return _MAKE[metric.kind](metric.name, metric.help, metric.labels, registry=self.registry, **more)

    def _get(self, metric: Metric) -> Any:
        return self._metrics[metric.name]


class MetricsServer:
    """Serves `/metrics` on a port of all interfaces until `close`."""

    def __init__(self, metrics: QueueMetrics, *, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, registry=metrics.registry)
        except OSError as e:
            raise ConfigError(
                f"BERTJOBS_METRICS_PORT={port} cannot be opened: {e.strerror}",
                hint="Set it to a free port, or unset it.",
            ) from e

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        assert isinstance(self._thread, threading.Thread)
        self._thread.join()
