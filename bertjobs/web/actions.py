"""Change jobs: cancel, retry, hold, release, and their priority; one or many in one request."""

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from bertjobs.errors import BertjobsError
from bertjobs.jobs.access import Identity, check_may_change
from bertjobs.jobs.job import Job, JobSummary
from bertjobs.jobs.store.connection import RedisDown
from bertjobs.jobs.store.job_store import MAX_PRIORITY, JobStore
from bertjobs.web.answers import ApiError, api_error, json_answer, read_object
from bertjobs.web.parameters import job_ids
from bertjobs.web.security import IDENTITY
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()

MAX_JOBS = 500
Change = Callable[[JobStore, str, str, int], Job]
"""Store, id, who asks, priority."""

ACTIONS: Mapping[str, Change] = {
    "cancel": lambda store, job, by, _: store.cancel(job, by=by),
    "retry": lambda store, job, by, _: store.retry(job),
    "hold": lambda store, job, by, _: store.hold(job, by=by),
    "release": lambda store, job, by, _: store.release(job),
    "priority": lambda store, job, by, priority: store.prioritize(job, priority, by=by),
}


@routes.post("/api/v1/jobs/actions")
async def act_on_many(request: web.Request) -> web.StreamResponse:
    """Change several jobs; those that cannot be changed do not keep the others from it."""
    services, given = request.app[SERVICES], await read_object(request)
    action, ids = given.get("action"), job_ids(given.get("jobs"), most=MAX_JOBS)
    if action not in ACTIONS:
        raise ApiError(
            400, "BadRequest", f"action={action!r} is unknown", hint=f"Known are {', '.join(ACTIONS)}."
        )
    priority = _priority(given) if action == "priority" else 0
    results = await services.run(_change_all, services, request[IDENTITY], str(action), ids, priority)
    return json_answer({"results": results})


@routes.post("/api/v1/jobs/{job}/{action}")
async def act_on_one(request: web.Request) -> web.StreamResponse:
    """Change one job."""
    services, action = request.app[SERVICES], request.match_info["action"]
    if action not in ACTIONS:
        raise ApiError(
            404, "NotFound", f"There is no action {action}", hint=f"Known are {', '.join(ACTIONS)}."
        )
    (job_id,) = job_ids([request.match_info["job"]], most=1)
    priority = _priority(await read_object(request)) if action == "priority" else 0
    job = await services.run(_change, services, request[IDENTITY], action, job_id, priority)
    return json_answer({"job": job})


def _change_all(
    services: Services, identity: Identity, action: str, ids: list[str], priority: int
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for job_id in ids:
        try:
            job = _change(services, identity, action, job_id, priority)
            results.append({"id": job_id, "ok": True, "job": job})
        except RedisDown:
            raise
        except BertjobsError as e:
            results.append({"id": job_id, "ok": False, "error": api_error(e).to_json()})
    return results


def _change(
    services: Services, identity: Identity, action: str, job_id: str, priority: int
) -> dict[str, Any]:
    # The owner of a job never changes, so nothing can come between the check and the change.
    check_may_change(identity, job_id=job_id, owner=services.store.get(job_id).user)
    changed = ACTIONS[action](services.store, job_id, identity.user, priority)
    return JobSummary.to_json(changed)


def _priority(given: Mapping[str, Any]) -> int:
    priority = given.get("priority")
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise ApiError(
            400, "BadRequest", f"`priority` has to be a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}"
        )
    return priority
