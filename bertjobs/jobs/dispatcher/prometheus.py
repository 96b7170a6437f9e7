"""The metrics of the queue for Prometheus, served by the dispatcher. Imported only where there is a port: the
library that Ray brings along for it takes 60 ms. What each metric means is in `metric_names`."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from bertjobs import __version__
from bertjobs.errors import ConfigError
from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.jobs.dispatcher.metrics import Metric, Picture, Unobserved
from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import Live

_MAKE: Mapping[str, Any] = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}


class QueueMetrics(Unobserved):
    """What the dispatcher tells, as Prometheus reads it. A scrape comes in a thread of its own, between two
    passes or during one; it sees each number as it is just then."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._last_pass_at = clock()
        self._of = {metric.name: self._make(metric) for metric in names.QUEUE_METRICS}
        self._get(names.BUILD).labels(__version__).set(1)
        self._get(names.LAST_PASS).set_function(lambda: self._clock() - self._last_pass_at)

    def passed(self, took_s: float, picture: Picture | None) -> None:
        self._last_pass_at = self._clock()
        self._get(names.LEADER).set(picture is not None)
        self._get(names.JOBS).clear()
        self._get(names.SILENCE).clear()
        if picture is None:
            return
        self._get(names.PASS).observe(took_s)
        self._count_jobs(picture)
        self._weigh(picture)
        for attempt in picture.live:
            is_overdue = attempt.job_id in picture.overdue and attempt.heard_ago_s is not None
            silence = self._get(names.SILENCE).labels(attempt.job_id, attempt.kind, attempt.user)
            silence.set(attempt.heard_ago_s if is_overdue else 0)

    def granted(self, attempt: Live) -> None:
        self._get(names.WAITING).observe(attempt.waited_s)

    def gone(self, attempt: Live) -> None:
        self._get(names.ATTEMPTS).labels(attempt.outcome, attempt.failure).inc()

    def _count_jobs(self, picture: Picture) -> None:
        jobs = self._get(names.JOBS)
        for state, number in picture.counts.items():
            if state is not State.QUEUED:
                jobs.labels(str(state), "").set(number)
        for reason, number in picture.reasons.items():
            jobs.labels(str(State.QUEUED), reason).set(number)
        self._get(names.FIRST_WAITING).set(picture.first_waiting_s)

    def _weigh(self, picture: Picture) -> None:
        shares = [share for attempt in picture.live for share in attempt.plan.values()]
        self._get(names.CPUS_GRANTED).set(sum(cpus for cpus, _ in shares))
        self._get(names.GPUS_GRANTED).set(sum(gpus for _, gpus in shares))
        self._get(names.RAY_REACHABLE).set(picture.is_ray_reachable)
        self._get(names.DRAINING).set(picture.is_drained)
        if picture.cluster is not None:
            self._get(names.NODES).set(len(picture.cluster.nodes))
            self._get(names.CPUS_PRESENT).set(picture.cluster.cpus)
            self._get(names.GPUS_PRESENT).set(picture.cluster.gpus)

    def _make(self, metric: Metric) -> Any:
        more = {"buckets": metric.buckets} if metric.buckets else {}
        return _MAKE[metric.kind](metric.name, metric.help, metric.labels, registry=self.registry, **more)

    def _get(self, metric: Metric) -> Any:
        return self._of[metric.name]


class MetricsServer:
    """`/metrics` on a port of all interfaces, from its making to `close`."""

    def __init__(self, metrics: QueueMetrics, *, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, registry=metrics.registry)
        except OSError as e:
            raise ConfigError(
                f"BERTJOBS_METRICS_PORT={port} cannot be opened: {e.strerror}.",
                hint="Give a free port, or unset it.",
            ) from e

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        assert isinstance(self._thread, threading.Thread)
        self._thread.join()
