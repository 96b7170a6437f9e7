"""What every request has to pass, and every answer carries: Host, Origin, login, and the headers that tell a
browser what a page may do.

    Host      one of the server's own names, or an IP address: a name that an attacker's DNS points here (DNS
              rebinding) is refused
    Origin    where a request changes something, the page that sends it has to be ours
    login     a session's cookie (HttpOnly, SameSite=Strict) or `Authorization: Bearer TOKEN`
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from bertjobs.errors import ConfigError
from bertjobs.jobs.access import Identity
from bertjobs.web.answers import ApiError
from bertjobs.web.identity import FailureLimit, Logins

COOKIE = "bertjobs_session"
IDENTITY = web.RequestKey("identity", Identity)

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN_PATHS = frozenset({"/", "/favicon.ico", "/api/v1/login", "/api/v1/logout"})
"""What is answered without a login, besides the page's own files."""
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, kw_only=True)
class PublicAddress:
    """The names under which browsers reach the server."""

    names: frozenset[str]
    """Of hosts, in lower case, without a port."""
    origin: str | None = None
    """Of the pages that a proxy in front of the server shows; None without one."""

    @property
    def is_https(self) -> bool:
        """Whether browsers reach the server through TLS."""
        return self.origin is not None and self.origin.startswith("https:")

    @classmethod
    def of(cls, *, host: str, url: str | None) -> "PublicAddress":
        """Return the names of this machine, or of the proxy at `url`.

        Raises: ConfigError: not the address of a page.
        """
        own = {"localhost", host.lower(), socket.gethostname().lower()}
        if url is None:
            return cls(names=frozenset(own))
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(
                f"--url {url} is not the address of a page", hint="Give it as in https://jobs.example.org."
            )
        return cls(names=frozenset({*own, parts.hostname}), origin=f"{parts.scheme}://{parts.netloc}".lower())

    def is_ours(self, host: str) -> bool:
        """Return whether a `Host` header, with or without a port, names this server."""
        name = (urlsplit(f"//{host}").hostname or "").lower()
        return name in self.names or _is_ip(name)


def check_host(request: web.Request, public: PublicAddress) -> None:
    """Raises: ApiError: the request is for another host."""
    host = request.headers.get("Host", "")
    try:
        is_ours = public.is_ours(host)
    except ValueError:  # not the syntax of a host
        is_ours = False
    if not is_ours:
        raise ApiError(403, "Forbidden", f"This server is not {host!r}", hint="Name it with `--url`.")


def check_origin(request: web.Request, public: PublicAddress) -> None:
    """Raises: ApiError: another page, or none that a browser names, wants to change something."""
    if request.method in _SAFE:
        return
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    host = request.headers.get("Host", "").lower()
    is_own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}", public.origin)
    if not is_own or site not in (None, "same-origin"):
        raise ApiError(403, "Forbidden", f"Requests from {origin or site} are refused")
    # A form can send no such type without the browser asking us first.
    if request.content_type != "application/json":
        raise ApiError(415, "BadRequest", "The request has to be of the type application/json")
    is_browser = request.headers.get("Authorization") is None
    if origin is None and is_browser:
        raise ApiError(403, "Forbidden", "The request names no Origin")


async def identify(
    request: web.Request,
    logins: Logins,
    failures: FailureLimit,
    *,
    run: Callable[..., Awaitable[Identity | None]],
) -> Identity:
    """Return who sends the request. Raises: ApiError: nobody who may."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        check_failures(request, failures)
        found = await run(logins.of_token, token.strip())
        if found is None:
            failures.add(str(request.remote))
    else:
        cookie = request.cookies.get(COOKIE)
        found = None if cookie is None else await run(logins.of_cookie, cookie)
    if found is None:
        raise ApiError(
            401, "NotLoggedIn", "You are not logged in, or your token has ended", hint="Log in with a token."
        )
    return found


def check_failures(request: web.Request, failures: FailureLimit) -> None:
    """Raises: ApiError: too many wrong tokens have come from this address."""
    wait_s = failures.wait_s(str(request.remote))
    if wait_s > 0:
        raise ApiError(
            429,
            "TooManyLogins",
            "Too many wrong tokens have come from your address",
            hint=f"Wait {wait_s:.0f} s.",
            headers={"Retry-After": str(int(wait_s) + 1)},
        )


def set_cookie(response: web.Response, cookie: str, *, public: PublicAddress) -> None:
    """Give the browser its session."""
    response.set_cookie(
        COOKIE,
        cookie,
        httponly=True,
        samesite="Strict",
        secure=public.is_https,
        path="/",
        max_age=7 * 24 * 3600,
    )


def is_open(path: str) -> bool:
    """Return whether a path is answered without a login."""
    return path in OPEN_PATHS or path.startswith("/static/")


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
