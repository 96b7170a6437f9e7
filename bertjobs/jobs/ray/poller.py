"""What Ray shows, looked at in the background: the dashboard takes half a second to say what its nodes have,
and a pass of the dispatcher must not wait for that, nor for a thousand questions after a thousand jobs.

What is seen may be a second old. It serves to find what needs attention; whoever acts on an attempt asks Ray
itself before.
"""

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from bertjobs.jobs.ray.api import TIMEOUT_S, Ray, RayJob, RayRefused, RayUnreachable
from bertjobs.jobs.scheduling.types import Cluster

logger = logging.getLogger(__name__)

_NOT_LOOKED_AT = RayJob(status="PENDING", message="")
LOOK_INTERVAL_S = 1.0
COMING_UP_INTERVAL_S = 0.25
"""While Ray does not answer or has no node yet: jobs wait for just that."""
NUM_QUESTIONS = 8
"""Requests under way at once: the dashboard is one process, and others use it too."""


class Sight(Protocol):
    """How the dispatcher looks at Ray. Every call raises `RayUnreachable` or `RayRefused`."""

    def cluster(self) -> Cluster: ...
    def job(self, submission_id: str) -> RayJob | None: ...
    def watch(self, submission_ids: Collection[str]) -> None: ...


class Ask:
    """Asks anew whenever it is asked."""

    def __init__(self, ray: Ray) -> None:
        self._ray = ray

    def cluster(self) -> Cluster:
        return self._ray.cluster()

    def job(self, submission_id: str) -> RayJob | None:
        return self._ray.job(submission_id)

    def watch(self, submission_ids: Collection[str]) -> None:
        """Nothing to prepare."""


@dataclass(frozen=True)
class _Seen:
    """One look."""

    cluster: Cluster | None = None
    jobs: Mapping[str, RayJob | None] = field(default_factory=dict)
    problem: str = "Nothing has been heard of it yet."


class RayWatch:
    """Looks once a second in a thread of its own, from `start` to `close`."""

    def __init__(self, ray: Ray) -> None:
        self._ray = ray
        self._wanted: frozenset[str] = frozenset()
        self._seen = _Seen()
        self._has_looked, self._is_closed = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(NUM_QUESTIONS, thread_name_prefix="ray-watch")
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking; for the answer to a request that is under way nobody waits."""
        self._is_closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def watch(self, submission_ids: Collection[str]) -> None:
        """Look at these jobs from now on, and at no others."""
        self._wanted = frozenset(submission_ids)

    def cluster(self) -> Cluster:
        """Return the nodes as last seen; the first time wait until there was a look."""
        self._has_looked.wait(timeout=2 * TIMEOUT_S)
        if self._seen.cluster is None:
            raise RayUnreachable(self._seen.problem)
        return self._seen.cluster

    def job(self, submission_id: str) -> RayJob | None:
        """Return a job as last seen; one that was not looked at yet is taken for one that is on its way."""
        return self._seen.jobs.get(submission_id, _NOT_LOOKED_AT)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                self._seen = self._look()
            except (RayUnreachable, RayRefused) as e:
                self._seen = _Seen(problem=str(e))
            except Exception:  # an answer of a shape we do not know must not end the looking
                if self._is_closed.is_set():
                    return  # it was cut off
                logger.exception("Ray's answer was not understood")
                self._seen = _Seen(problem="Its answer was not understood; the dispatcher's log says more.")
            self._has_looked.set()
            is_there = self._seen.cluster is not None and self._seen.cluster.nodes
            self._is_closed.wait(LOOK_INTERVAL_S if is_there else COMING_UP_INTERVAL_S)

    def _look(self) -> _Seen:
        names = list(self._wanted)
        cluster = self._ray.cluster()
        jobs = dict(zip(names, self._pool.map(self._ray.job, names), strict=True))
        return _Seen(cluster=cluster, jobs=jobs, problem="")
