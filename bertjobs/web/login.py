"""Log in with a token, log out, and say who is logged in."""

from typing import Any

from aiohttp import web

from bertjobs import __version__
from bertjobs.jobs.access import Identity
from bertjobs.jobs.job import State, iso
from bertjobs.web.answers import ApiError, json_answer, read_object
from bertjobs.web.jobs import actions_in
from bertjobs.web.security import COOKIE, IDENTITY, check_failures, set_cookie
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()


@routes.post("/api/v1/login")
async def log_in(request: web.Request) -> web.StreamResponse:
    """Exchange a token for a session's cookie."""
    services = request.app[SERVICES]
    check_failures(request, services.failures)
    token = (await read_object(request)).get("token")
    found = await services.run(services.logins.log_in, token) if isinstance(token, str) else None
    if found is None:
        services.failures.add(str(request.remote))
        raise ApiError(
            401,
            "NotLoggedIn",
            "The token is wrong, has expired or was revoked",
            hint="`bertjobs web` prints one on a laptop; elsewhere `bertjobs web token add` makes one.",
        )
    cookie, identity = found
    response = json_answer(_session_document(services, identity))
    set_cookie(response, cookie, public=services.public)
    return response


@routes.post("/api/v1/logout")
async def log_out(request: web.Request) -> web.StreamResponse:
    """End the session."""
    request.app[SERVICES].logins.log_out(request.cookies.get(COOKIE, ""))
    response = web.Response(status=204)
    response.del_cookie(COOKIE, path="/")
    return response


@routes.get("/api/v1/session")
async def session(request: web.Request) -> web.StreamResponse:
    """Say who is logged in."""
    return json_answer(_session_document(request.app[SERVICES], request[IDENTITY]))


def _session_document(services: Services, identity: Identity) -> dict[str, Any]:
    return {
        "user": identity.user,
        "role": str(identity.role),
        "expires_at": iso(identity.expires_at),
        "version": __version__,
        "actions": {str(state): actions_in(state) for state in State},
        "storage": services.settings.storage,
        "mode": "embedded" if services.settings.is_one_machine else "shared",
    }
