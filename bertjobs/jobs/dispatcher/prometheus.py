"""The metrics of the queue in Prometheus' format, served by the dispatcher. `metrics.py` defines them.

Imported only where a port is set: prometheus_client takes 60 ms to import.
"""

import threading
import time
from collections.abc import Callable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from bertjobs import __version__
from bertjobs.errors import ConfigError
from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.jobs.dispatcher.metrics import Metric, QueueObserver, QueueSnapshot
from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import LiveAttempt

MAX_HEALTHY_AGE_S = 60.0
"""A dispatcher whose last pass is older is not healthy, as in `cluster/prometheus/rules.yaml`."""
_MAKE: Mapping[str, Any] = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}


class QueueMetrics(QueueObserver):
    """Counts what the dispatcher does. A scrape runs in a thread of its own, between two passes or during
    one: each number is current, the numbers together are no snapshot."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        holds_lease: Callable[[], bool] = lambda: True,
    ) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._is_leading = False
        self._last_pass_at = clock()
        self._metrics = {metric.name: self._make(metric) for metric in names.QUEUE_METRICS}
        self._get(names.BUILD).labels(__version__).set(1)
        self._get(names.LAST_PASS).set_function(lambda: self.last_pass_age_s)
        # Asked when it is read: a pass that hangs would not report that the leadership is gone.
        self._get(names.LEADER).set_function(lambda: self._is_leading and holds_lease())

    @property
    def last_pass_age_s(self) -> float:
        """Seconds since a pass ended last."""
        return self._clock() - self._last_pass_at

    def pass_finished(self, took_s: float, snapshot: QueueSnapshot | None) -> None:
        self._last_pass_at = self._clock()
        self._is_leading = snapshot is not None
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
    """Serves `/metrics`, and `/health` for a health check, on a port of all interfaces until `close`."""

    def __init__(self, metrics: QueueMetrics, *, port: int) -> None:
        try:
            self._server = make_server(
                "0.0.0.0", port, _application(metrics), _Server, handler_class=_QuietHandler
            )
        except OSError as e:
            raise ConfigError(
                f"BERTJOBS_METRICS_PORT={port} cannot be opened: {e.strerror}",
                hint="Set it to a free port, or unset it.",
            ) from e
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log no request."""


def _application(metrics: QueueMetrics) -> Callable[[Any, Any], Any]:
    serve_metrics = make_wsgi_app(metrics.registry)

    def serve(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/health":
            return serve_metrics(environ, start_response)
        age_s = metrics.last_pass_age_s
        status = "200 OK" if age_s <= MAX_HEALTHY_AGE_S else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"The last pass ended {age_s:.0f} s ago.\n".encode()]

    return serve
