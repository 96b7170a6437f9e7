"""What the command line needs besides the page: jobs as Redis has them, logs as bytes, and submitting."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from bertjobs.config.kinds import CONFIG_OF_KIND, find_conflicts
from bertjobs.config.sections import JobConfig
from bertjobs.jobs.access import AccessDenied, Identity, Role
from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.job import is_job_id
from bertjobs.jobs.store.job_store import MAX_PRIORITY
from bertjobs.storage import seek_within
from bertjobs.web.answers import ApiError, json_answer, read_object
from bertjobs.web.files import MAX_LOG_BYTES, job_folder
from bertjobs.web.job_index import JobFilter
from bertjobs.web.jobs import MAX_LIMIT
from bertjobs.web.parameters import int_in, states_of
from bertjobs.web.security import IDENTITY
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()

_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "priority": (int,),
    "idempotency_key": (str, type(None)),
    "max_retries": (int,),
    "time_limit_s": (float, int, type(None)),
    "stall_timeout_s": (float, int, type(None)),
    "keep_s": (float, int, type(None)),
    "hold": (bool,),
    "preset": (str, type(None)),
    "after": (list,),
    "uses": (list,),
}
"""What a job may be submitted with, besides its kind and configuration, and its types."""


@routes.get("/api/v1/jobs/{job}/record")
async def record(request: web.Request) -> web.StreamResponse:
    """Answer with a job as Redis has it."""
    services = request.app[SERVICES]
    return json_answer({"record": await services.run(services.page.record, request.match_info["job"])})


@routes.get("/api/v1/rows")
async def rows(request: web.Request) -> web.StreamResponse:
    """Answer with rows of a list as Redis has them, newest first."""
    services, query = request.app[SERVICES], request.query
    wanted = JobFilter(states=states_of(query.getall("state", [])), users=query.getall("user", []))
    offset = int_in(query.get("offset"), 0, 2**31, default=0, name="offset")
    limit = int_in(query.get("limit"), 1, MAX_LIMIT, default=MAX_LIMIT, name="limit")
    return json_answer({"rows": await services.run(_rows, services, wanted, offset=offset, limit=limit)})


def _rows(services: Services, wanted: JobFilter, *, offset: int, limit: int) -> list[Any]:
    services.index.refresh()
    selection = services.index.select(wanted, sort="-submitted_at", offset=offset, limit=limit)
    return services.page.summary_rows(selection.ids)


@routes.get("/api/v1/jobs/{job}/series")
async def series(request: web.Request) -> web.StreamResponse:
    """Answer with the live series of a job."""
    services = request.app[SERVICES]
    return json_answer({"series": await services.run(_series, services, request.match_info["job"])})


def _series(services: Services, named: str) -> list[dict[str, Any]]:
    job = services.store.get(named)
    job_folder(services, job)
    return list(services.store.metrics(job.id))


@routes.get("/api/v1/jobs/{job}/log/bytes")
async def log_bytes(request: web.Request) -> web.StreamResponse:
    """Answer with bytes of an attempt's log as they are; fewer than `limit` only at its end."""
    services, query = request.app[SERVICES], request.query
    attempt = int_in(query.get("attempt"), 1, 10**6, default=1, name="attempt")
    offset = int_in(query.get("offset"), -(2**40), 2**40, default=0, name="offset")
    limit = int_in(query.get("limit"), 1, MAX_LOG_BYTES, default=MAX_LOG_BYTES, name="limit")
    content = await services.run(
        _log_bytes, services, request.match_info["job"], attempt, offset=offset, limit=limit
    )
    return web.Response(body=content, content_type="application/octet-stream")


def _log_bytes(services: Services, named: str, attempt: int, *, offset: int, limit: int) -> bytes:
    job = services.store.get(named)
    name, folder = log_name(attempt), job_folder(services, job)
    if not folder.exists(name):
        return b""
    with folder.open_inside(name) as file:
        seek_within(file, offset)
        return bytes(file.read(limit))


@routes.post("/api/v1/jobs")
async def submit(request: web.Request) -> web.StreamResponse:
    """Queue a job of the user who asks."""
    services, identity = request.app[SERVICES], request[IDENTITY]
    if identity.role is Role.READER:
        raise AccessDenied(f"{identity.user} has the role reader and may submit no job")
    given = await read_object(request)
    kind, config = str(given.get("kind")), _config(given)
    options = _options(given.get("options", {}))
    found = await services.run(_submit, services, identity, kind, config, options)
    return json_answer(found)


def _submit(
    services: Services, identity: Identity, kind: str, config: JobConfig, options: dict[str, Any]
) -> dict[str, Any]:
    # The user and the storage are the server's to say; the rest was checked.
    job, is_new = services.store.submit(
        kind,
        config.model_dump(mode="json"),
        storage=services.settings.storage,
        resources=config.resources.model_dump(mode="json"),
        user=identity.user,
        **options,
    )
    return {"record": services.page.record(job.id), "is_new": is_new}


def _config(given: Mapping[str, Any]) -> JobConfig:
    """Validate the configuration as the command line does. Raises: ApiError."""
    kind, config = given.get("kind"), given.get("config")
    if not isinstance(kind, str) or kind not in CONFIG_OF_KIND or not isinstance(config, dict):
        raise ApiError(
            400, "BadRequest", "`kind` and `config` have to be a kind of job and its configuration"
        )
    try:
        found = CONFIG_OF_KIND[kind].model_validate(config)
    except ValidationError as e:
        first = e.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise ApiError(400, "BadRequest", f"{path}: {first['msg']}") from e
    for involved, message in find_conflicts(kind, found):
        raise ApiError(400, "BadRequest", f"{', '.join(involved)}: {message}")
    return found


def _options(given: object) -> dict[str, Any]:
    """Check what a job is submitted with. Raises: ApiError."""
    if not isinstance(given, dict):
        raise ApiError(400, "BadRequest", "`options` has to be an object")
    for name, value in given.items():
        # True is an integer to Python, and no number of retries.
        if name not in _OPTIONS or type(value) not in _OPTIONS[name]:
            raise ApiError(400, "BadRequest", f"options.{name}: {str(value)[:40]!r} is not allowed")
    if abs(given.get("priority", 0)) > MAX_PRIORITY:
        raise ApiError(400, "BadRequest", f"options.priority: {given['priority']} is out of bounds")
    for name in ("time_limit_s", "stall_timeout_s", "keep_s"):
        if given.get(name) is not None and not 0 < given[name] < 1e9:
            raise ApiError(400, "BadRequest", f"options.{name}: {given[name]} is out of bounds")
    if not 0 <= given.get("max_retries", 0) <= 1000:
        raise ApiError(400, "BadRequest", f"options.max_retries: {given['max_retries']} is out of bounds")
    for job_id in [*given.get("after", []), *given.get("uses", [])]:
        if not is_job_id(job_id):
            raise ApiError(400, "BadRequest", f"{str(job_id)[:40]!r} is not the id of a job")
    return dict(given)
