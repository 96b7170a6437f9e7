"""Curves of a job, trials of a search, and several jobs side by side."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from bertjobs.config.difference import values_by_path
from bertjobs.jobs.curves import read_curves, thin
from bertjobs.jobs.job import Job, JobSummary
from bertjobs.runs.tune.search_document import read_trials_of, search_document
from bertjobs.web.answers import ApiError, json_answer
from bertjobs.web.files import job_folder
from bertjobs.web.parameters import int_in
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()

MAX_POINTS, DEFAULT_POINTS, DEFAULT_COMPARED_POINTS = 20_000, 1000, 500
MAX_COMPARED = 50


@routes.get("/api/v1/jobs/{job}/metrics")
async def metrics(request: web.Request) -> web.StreamResponse:
    """Answer with the lines behind the job's curves."""
    services, query = request.app[SERVICES], request.query
    max_points = int_in(query.get("max_points"), 2, MAX_POINTS, default=DEFAULT_POINTS, name="max_points")
    since = int_in(query.get("since"), -1, 2**53, default=-1, name="since")
    document = await services.run(
        _metrics, services, request.match_info["job"], max_points=max_points, since=since
    )
    return json_answer(document)


def _metrics(services: Services, named: str, *, max_points: int, since: int) -> dict[str, Any]:
    job = services.store.get(named)
    job_folder(services, job)
    # Read first: what is added in between is in the lines too, and its event is ignored as known.
    cursor = services.page.now_id()
    found = read_curves(services.store, job)
    lines = [line for line in found.lines if line["step"] > since]
    return {
        "id": job.id,
        "lines": thin(lines, max_points=max_points),
        "metric": found.metric,
        "num_lines": len(lines),
        "cursor": cursor,
    }


@routes.get("/api/v1/jobs/{job}/trials")
async def trials(request: web.Request) -> web.StreamResponse:
    """Answer with the trials of a search."""
    services = request.app[SERVICES]
    return json_answer(await services.run(_trials, services, request.match_info["job"]))


def _trials(services: Services, named: str) -> dict[str, Any]:
    job = services.store.get(named)
    job_folder(services, job)
    return search_document(job, *read_trials_of(job))


@routes.get("/api/v1/compare")
async def compare(request: web.Request) -> web.StreamResponse:
    """Answer with parameters, results and curves of several jobs."""
    services, query = request.app[SERVICES], request.query
    named = list(dict.fromkeys(query.getall("job", [])))
    if not 1 <= len(named) <= MAX_COMPARED:
        raise ApiError(400, "BadRequest", f"Give 1 to {MAX_COMPARED} jobs, as in job=ID&job=ID")
    max_points = int_in(
        query.get("max_points"), 2, MAX_POINTS, default=DEFAULT_COMPARED_POINTS, name="max_points"
    )
    return json_answer(await services.run(_comparison, services, named, max_points=max_points))


def _comparison(services: Services, named: Sequence[str], *, max_points: int) -> dict[str, Any]:
    jobs = [services.store.get(name) for name in named]
    for job in jobs:
        job_folder(services, job)
    curves = [
        {"id": job.id, "lines": thin(read_curves(services.store, job).lines, max_points=max_points)}
        for job in jobs
    ]
    return {**comparison_document(jobs), "curves": curves}


def comparison_document(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the parameters and results of several jobs as columns; None where a job has none."""
    parameters = values_by_path([job.config for job in jobs])
    names = dict.fromkeys(name for job in jobs for name, value in job.metrics.items() if _is_number(value))
    return {
        "jobs": [{**JobSummary.to_json(job), "metrics": job.metrics} for job in jobs],
        "parameters": [
            {"path": path, "values": values, "differs": any(value != values[0] for value in values)}
            for path, values in parameters.items()
        ],
        "results": [
            {"name": name, "values": [v if _is_number(v := job.metrics.get(name)) else None for job in jobs]}
            for name in names
        ],
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
