"""The application: its routes, and what every request passes on its way to them.

GET  /                                   the page; its files are under /static/
POST /api/v1/login, logout               login.py
GET  /api/v1/session
GET  /api/v1/jobs, jobs/ID, .../pipeline jobs.py
GET  jobs/ID/log, artifacts              files.py
GET  jobs/ID/metrics, trials, compare    curves.py
GET  jobs/ID/record, rows, POST jobs     remote.py, for the command line
GET  /api/v1/cluster                     cluster.py
GET  /ray/...                            ray_proxy.py
GET  events, jobs/ID/events              events.py, told by feed.py
POST jobs/actions, jobs/ID/ACTION        actions.py
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from bertjobs.errors import BertjobsError
from bertjobs.web import actions, cluster, curves, events, files, jobs, login, ray_proxy, remote
from bertjobs.web.answers import ApiError, api_error, error_answer, http_error
from bertjobs.web.security import HEADERS, IDENTITY, check_host, check_origin, identify, is_open
from bertjobs.web.services import SERVICES, Services

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
MAX_REQUEST_BYTES = 1 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(services: Services) -> web.Application:
    """Return the application. It closes the services when it ends."""
    app = web.Application(middlewares=[answer_errors, guard], client_max_size=MAX_REQUEST_BYTES)
    app[SERVICES] = services
    cluster.add_cache(app)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.extend([_closing, events.feeding, ray_proxy.connecting])
    app.on_shutdown.append(events.end_streams)
    app.router.add_get("/", index)
    app.router.add_static("/static", STATIC)
    for module in (login, jobs, files, curves, cluster, events, remote, actions, ray_proxy):
        app.add_routes(module.routes)
    return app


async def index(_request: web.Request) -> web.StreamResponse:
    """Answer with the page."""
    return web.FileResponse(STATIC / "index.html")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into JSON; what nobody expected is logged, and its text kept from the client."""
    try:
        return await handler(request)
    except ApiError as e:
        return error_answer(e)
    except BertjobsError as e:
        return error_answer(api_error(e))
    except web.HTTPException as e:
        if e.status < 400:
            raise
        return error_answer(http_error(e))
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return error_answer(ApiError(500, "Internal", "The server failed; its log says how"))


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what comes from elsewhere, or from nobody that we know."""
    services = request.app[SERVICES]
    check_host(request, services.public)
    check_origin(request, services.public)
    if not is_open(request.path):
        request[IDENTITY] = await identify(request, services.logins, services.failures, run=services.run)
    return await handler(request)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what tells a browser what a page may do, and what to keep."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    is_file = request.path == "/" or request.path.startswith("/static/")
    response.headers.setdefault("Cache-Control", "no-cache" if is_file else "no-store")


async def _closing(app: web.Application) -> AsyncIterator[None]:
    yield
    app[SERVICES].close()
