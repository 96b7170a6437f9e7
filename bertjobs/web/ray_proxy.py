"""Ray's dashboard behind the login: under /ray/ its pages open at once, without Ray's token being typed.

Only GET, and only what its pages read: nothing there changes Ray, and the routes that load a process with
profiling or serve uploaded code are left out. Its pages may connect to /ray/ only, so that nothing in them
can use the API of ours.
"""

from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from bertjobs.stack import ray_access
from bertjobs.web.answers import ApiError
from bertjobs.web.services import SERVICES

routes = web.RouteTableDef()

CLIENT = web.AppKey("ray_client", aiohttp.ClientSession)
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
_PIECE_BYTES = 64 << 10
_PREFIXES = (
    "static/",
    "api/",
    "nodes",
    "logical/",
    "events",
    "timezone",
    "cluster_id",
    "usage_stats_enabled",
)
_REFUSED = ("api/packages/", "api/v0/delay/")
_SENT = ("Accept", "Accept-Encoding", "If-None-Match", "If-Modified-Since", "Range")
_RETURNED = (
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Content-Range",
    "ETag",
    "Last-Modified",
    "Cache-Control",
)


async def connecting(app: web.Application) -> AsyncIterator[None]:
    """Open and close the connections to Ray with the application."""
    # Without auto_decompress what Ray has compressed goes on as it is.
    async with aiohttp.ClientSession(
        timeout=_TIMEOUT, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as client:
        app[CLIENT] = client
        yield


@routes.get("/ray")
async def to_folder(_request: web.Request) -> web.StreamResponse:
    """Add the slash: the addresses in Ray's page are relative to it."""
    raise web.HTTPMovedPermanently("ray/")


@routes.get("/ray/{path:.*}")
async def forward(request: web.Request) -> web.StreamResponse:
    """Answer with what Ray's dashboard answers."""
    path = request.match_info["path"]
    if not is_allowed(path):
        raise ApiError(404, "NotFound", f"/ray/{path} is not a part of Ray's dashboard that is shown here")
    services = request.app[SERVICES]
    address, token = await services.run(ray_access, services.given)
    if address is None:
        raise ApiError(
            502, "RayUnreachable", "Ray has not been started", hint="`bertjobs cluster up` starts it."
        )
    headers = {name: request.headers[name] for name in _SENT if name in request.headers}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    url = f"{address.rstrip('/')}/{path}"
    try:
        async with request.app[CLIENT].get(
            url, params=request.query, headers=headers, allow_redirects=False
        ) as found:
            return await _copy(request, found)
    except (aiohttp.ClientError, TimeoutError) as e:
        raise ApiError(
            502,
            "RayUnreachable",
            f"Ray's dashboard at {address} does not answer",
            hint="`bertjobs doctor` finds out why.",
        ) from e


def is_allowed(path: str) -> bool:
    """Return whether a path is one that the pages of the dashboard read."""
    if ".." in path.split("/") or path.startswith(_REFUSED):
        return False
    return path in ("", "favicon.ico") or path.startswith(_PREFIXES)


async def _copy(request: web.Request, found: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: found.headers[name] for name in _RETURNED if name in found.headers}
    response = web.StreamResponse(status=found.status, headers=headers)
    response.headers["Content-Security-Policy"] = content_policy(request)
    await response.prepare(request)
    async for piece in found.content.iter_chunked(_PIECE_BYTES):
        await response.write(piece)
    await response.write_eof()
    return response


def content_policy(request: web.Request) -> str:
    """Return what Ray's pages may do: read below /ray/, and style themselves."""
    public = request.app[SERVICES].public
    here = f"{'https' if public.is_https else 'http'}://{request.host}/ray/"
    return (
        f"default-src 'none'; script-src {here}; style-src {here} 'unsafe-inline'; img-src {here} data:; "
        f"font-src {here} data:; connect-src {here}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
