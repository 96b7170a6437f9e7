"""The list of jobs, a page at a time, and everything about one job."""

from typing import Any

from aiohttp import web

from bertjobs.config.difference import changed_values
from bertjobs.jobs.access import Identity, may_change
from bertjobs.jobs.documents import dashboard_page, status_document
from bertjobs.jobs.job import REOPENED_BY_RETRY, State
from bertjobs.web.answers import ApiError, json_answer
from bertjobs.web.job_index import SORT_KEYS, JobFilter
from bertjobs.web.parameters import int_in, states_of
from bertjobs.web.security import IDENTITY
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()

DEFAULT_LIMIT, MAX_LIMIT = 50, 500


@routes.get("/api/v1/jobs")
async def list_jobs(request: web.Request) -> web.StreamResponse:
    """Answer with one page of the jobs."""
    services, query = request.app[SERVICES], request.query
    wanted = JobFilter(
        states=states_of(query.getall("state", [])),
        kinds=query.getall("kind", []),
        users=query.getall("user", []),
        words=query.get("q", "").lower().split(),
        pipeline=query.get("pipeline"),
    )
    sort = query.get("sort", "-submitted_at")
    if sort.removeprefix("-") not in SORT_KEYS:
        raise ApiError(
            400, "BadRequest", f"sort={sort} is unknown", hint=f"Known are {', '.join(SORT_KEYS)}."
        )
    offset = int_in(query.get("offset"), 0, 2**31, default=0, name="offset")
    limit = int_in(query.get("limit"), 1, MAX_LIMIT, default=DEFAULT_LIMIT, name="limit")
    return json_answer(await services.run(_page, services, wanted, sort=sort, offset=offset, limit=limit))


def _page(services: Services, wanted: JobFilter, *, sort: str, offset: int, limit: int) -> dict[str, Any]:
    services.index.refresh()
    selection = services.index.select(wanted, sort=sort, offset=offset, limit=limit)
    return {
        "jobs": [job.to_json() for job in services.page.summaries(selection.ids)],
        "total": selection.total,
        "offset": offset,
        "limit": limit,
        "counts": counts_document(services),
        **services.index.facets(),
    }


def counts_document(services: Services) -> dict[str, int]:
    """Return the number of jobs in each state, as of the index's last refresh."""
    return {str(state): services.index.counts.get(state, 0) for state in State}


@routes.get("/api/v1/jobs/{job}")
async def show_job(request: web.Request) -> web.StreamResponse:
    """Answer with everything about one job."""
    services, identity = request.app[SERVICES], request[IDENTITY]
    return json_answer(await services.run(_job_document, services, request.match_info["job"], identity))


def _job_document(services: Services, named: str, identity: Identity) -> dict[str, Any]:
    job = services.store.get(named)
    document = status_document(
        job,
        services.store.events(job.id),
        dashboard_url=dashboard_page(job, address=services.settings.ray_address),
    )
    return {
        **document,
        "followers": services.page.followers(job.id),
        "changed_config": [
            change.to_json() for change in changed_values(job.kind, job.config, preset=job.preset)
        ],
        "dashboard": dashboard_page(job, address="ray") if services.settings.ray_address else None,
        "may_act": may_change(identity, owner=job.user),
        "actions": actions_in(job.state) if may_change(identity, owner=job.user) else [],
    }


@routes.get("/api/v1/jobs/{job}/pipeline")
async def pipeline(request: web.Request) -> web.StreamResponse:
    """Answer with the jobs that are connected to a job by `after`."""
    services = request.app[SERVICES]
    return json_answer(await services.run(_pipeline, services, request.match_info["job"]))


def _pipeline(services: Services, named: str) -> dict[str, Any]:
    job_id = services.store.find(named)
    services.index.refresh()
    connected = services.index.pipeline(job_id)
    known = {job.id for job in connected}
    return {
        "jobs": [job.to_json() for job in services.page.summaries([job.id for job in connected])],
        "edges": [{"from": a, "to": job.id} for job in connected for a in job.after if a in known],
    }


def actions_in(state: State) -> list[str]:
    """Return what can be done with a job in this state."""
    possible = {
        "cancel": not state.is_terminal and state is not State.CANCELLING,
        "retry": state in REOPENED_BY_RETRY or state is State.RETRYING,
        "hold": state in (State.QUEUED, State.RETRYING),
        "release": state is State.HELD,
        "priority": state.is_waiting,
    }
    return [action for action, is_possible in possible.items() if is_possible]
