"""The cluster: its services and nodes, which job holds what of which node, and why the others wait."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from bertjobs.errors import QueueError
from bertjobs.jobs.job import JobSummary, State
from bertjobs.jobs.quotas import QuotaStore
from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.types import Cluster, LiveAttempt
from bertjobs.stack import ray_access, status
from bertjobs.web.answers import json_answer
from bertjobs.web.jobs import counts_document
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()

CACHED_S = 2.0
"""How long an answer is given again: many pages ask for it, and Ray answers slowly."""
_MAX_WAITING = 1000
"""Waiting jobs whose reasons are counted, the newest."""


class Cached:
    """The last result of a call, for as long as it counts; one thread calls, the others wait for it."""

    def __init__(self, call: Callable[[], dict[str, Any]], *, for_s: float) -> None:
        self._call = call
        self._for_s = for_s
        self._lock = threading.Lock()
        self._found: dict[str, Any] | None = None
        self._at = 0.0

    def get(self) -> dict[str, Any]:
        """Return a result that is not too old."""
        with self._lock:
            if self._found is None or time.monotonic() - self._at > self._for_s:
                self._found, self._at = self._call(), time.monotonic()
            return self._found


CACHE = web.AppKey("cluster", Cached)


def add_cache(app: web.Application) -> None:
    """Give the application its one answer about the cluster."""
    services = app[SERVICES]
    app[CACHE] = Cached(lambda: cluster_document(services), for_s=CACHED_S)


@routes.get("/api/v1/cluster")
async def show_cluster(request: web.Request) -> web.StreamResponse:
    """Answer with services, nodes and waiting jobs."""
    return json_answer(await request.app[SERVICES].run(request.app[CACHE].get))


def cluster_document(services: Services) -> dict[str, Any]:
    """Read it all. Raises: RedisDown; a Ray that does not answer is told in the document."""
    services.index.refresh()
    cluster, problem = _read_nodes(services)
    live = services.page.live()
    quotas = QuotaStore(services.connection).read().to_json()
    waiting = [state for state in State if state.is_waiting]
    return {
        "status": status(services.given),
        "dispatcher": services.store.dispatcher(),
        "drained_by": quotas["drained_by"],
        "drained_at": quotas["drained_at"],
        "users": quotas["users"],
        "nodes": nodes_document(cluster, live),
        "ray": {"reachable": problem is None, "problem": problem},
        "waiting": waiting_document(services.store.list(states=waiting, limit=_MAX_WAITING)),
        "counts": counts_document(services),
    }


def _read_nodes(services: Services) -> tuple[Cluster, str | None]:
    address, token = ray_access(services.given)
    if address is None:
        return Cluster(nodes=()), "Ray has not been started."
    try:
        return RayApi(address, token=token).cluster(), None
    except QueueError as e:
        return Cluster(nodes=()), str(e)
    except (LookupError, TypeError, AttributeError):  # undocumented routes; the rest of the page goes on
        return Cluster(nodes=()), f"What Ray at {address} answers is not known to this version."


def nodes_document(cluster: Cluster, live: Sequence[LiveAttempt]) -> list[dict[str, Any]]:
    """Return the nodes with who holds what of them; a node that Ray does not report is known by its jobs."""
    known = {node.id: node for node in cluster.nodes}
    ids = list(dict.fromkeys([*known, *(node for attempt in live for node in attempt.placement)]))
    documents = []
    for node_id in ids:
        jobs: list[dict[str, Any]] = [
            {
                "id": attempt.job_id,
                "name": attempt.name or None,
                "user": attempt.user,
                "kind": attempt.kind,
                "state": str(attempt.state),
                "cpus": attempt.placement[node_id][0],
                "gpus": attempt.placement[node_id][1],
            }
            for attempt in live
            if node_id in attempt.placement
        ]
        node = known.get(node_id)
        documents.append(
            {
                "id": node_id,
                "cpus": None if node is None else node.cpus,
                "gpus": None if node is None else node.gpus,
                "used_cpus": None if node is None else node.used_cpus,
                "used_gpus": None if node is None else node.used_gpus,
                "held_cpus": sum(job["cpus"] for job in jobs),
                "held_gpus": sum(job["gpus"] for job in jobs),
                "jobs": jobs,
            }
        )
    return documents


def waiting_document(jobs: Sequence[JobSummary]) -> list[dict[str, Any]]:
    """Count waiting jobs by the word that says why, the most frequent first, each with an example."""
    examples: Mapping[str, JobSummary] = {job.reason: job for job in jobs}
    return [
        {"reason": word, "num_jobs": count, "message": examples[word].message, "example": examples[word].id}
        for word, count in Counter(job.reason for job in jobs).most_common()
    ]
