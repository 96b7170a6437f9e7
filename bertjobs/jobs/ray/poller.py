"""Ray's nodes and jobs, polled in a background thread.

Ray's dashboard takes half a second to list its nodes, and a pass of the dispatcher must wait neither for that
nor for a thousand requests about a thousand jobs. The data may be a second old. It serves to find what needs
attention; whoever acts on an attempt asks Ray again first.
"""

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from bertjobs.jobs.ray.api import TIMEOUT_S, RayApi, RayJob, RayRefused, RayUnreachable
from bertjobs.jobs.scheduling.types import Cluster

logger = logging.getLogger(__name__)

_NOT_POLLED = RayJob(status="PENDING", message="")
POLL_INTERVAL_S = 1.0
STARTING_POLL_INTERVAL_S = 0.25
"""While Ray does not answer or has no node yet: jobs wait for just that."""
MAX_CONCURRENT_REQUESTS = 8
"""The dashboard is one process, and others use it too."""


@dataclass(frozen=True)
class _Observation:
    """The result of one poll."""

    cluster: Cluster | None = None
    jobs: Mapping[str, RayJob | None] = field(default_factory=dict)
    problem: str = "Ray has not been polled yet."


class RayPoller:
    """Polls once a second in a thread of its own, from `start` to `close`."""

    def __init__(self, ray: RayApi) -> None:
        self._ray = ray
        self._watched: frozenset[str] = frozenset()
        self._latest = _Observation()
        self._has_polled, self._is_closed = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="ray-poller")
        self._thread = threading.Thread(target=self._run, name="ray-poller", daemon=True)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def close(self) -> None:
        """Stop polling, without waiting for requests under way."""
        self._is_closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def watch(self, submission_ids: Collection[str]) -> None:
        """Poll these jobs from now on, and no others."""
        self._watched = frozenset(submission_ids)

    def cluster(self) -> Cluster:
        """Return the nodes of the last poll; the first call waits for the first poll.

        Raises: RayUnreachable: the last poll failed.
        """
        self._has_polled.wait(timeout=2 * TIMEOUT_S)
        if self._latest.cluster is None:
            raise RayUnreachable(self._latest.problem)
        return self._latest.cluster

    def job(self, submission_id: str) -> RayJob | None:
        """Return a job as of the last poll; one that has not been polled yet counts as PENDING."""
        return self._latest.jobs.get(submission_id, _NOT_POLLED)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                self._latest = self._poll()
            except (RayUnreachable, RayRefused) as e:
                self._latest = _Observation(problem=str(e))
            except Exception:  # a border: a reply that we cannot parse must not end the thread
                if self._is_closed.is_set():
                    return  # the pool was shut down under a poll
                logger.exception("Ray's reply could not be parsed")
                problem = "Its reply could not be parsed; see the dispatcher's log."
                self._latest = _Observation(problem=problem)
            self._has_polled.set()
            is_up = self._latest.cluster is not None and self._latest.cluster.nodes
            self._is_closed.wait(POLL_INTERVAL_S if is_up else STARTING_POLL_INTERVAL_S)

    def _poll(self) -> _Observation:
        submission_ids = list(self._watched)
        cluster = self._ray.cluster()
        jobs = dict(zip(submission_ids, self._pool.map(self._poll_job, submission_ids), strict=True))
        return _Observation(cluster=cluster, jobs=jobs, problem="")

    def _poll_job(self, submission_id: str) -> RayJob | None:
        job = self._ray.job(submission_id)
        # Here, not in the pass, which waits for its requests. A job that has ended is soon watched no more.
        return replace(job, has_actors=self._ray.has_actors(job)) if job and job.has_ended else job
