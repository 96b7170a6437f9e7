"""The queue behind a server, for people who hold no password of Redis: `BERTJOBS_SERVER` and a token.

Speaks the API of `bertjobs web`. Jobs come as the server's Redis has them, and are parsed by the same
functions.
"""

import http.client
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from bertjobs.errors import BertjobsError, ConfigError, QueueError
from bertjobs.jobs.access import AccessDenied
from bertjobs.jobs.job import Event, Job, JobSummary, State
from bertjobs.jobs.store.connection import AccessRefused, JobUnknown, RedisDown
from bertjobs.jobs.store.records import job_of, summaries_of

_TIMEOUT_S = 30.0
_PAGE = 500
_LOG_BYTES = 1 << 20


class ServerDown(RedisDown):
    """The server does not answer, or does not reach Redis; the same call may succeed later."""


@dataclass(frozen=True, kw_only=True)
class ServerStorage:
    """Where a server stores jobs."""

    place: str
    """A folder or an address."""
    is_this_machine: bool
    """Whether its jobs certainly run on this machine, so that all paths are the same."""


class RemoteQueue:
    """The queue of a server. What it refuses is raised as `JobStore` raises it."""

    def __init__(self, address: str, *, token: str | None) -> None:
        """Raises: ConfigError: not the address of a server, or no token."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(
                f"BERTJOBS_SERVER={address} is not the address of a server",
                hint="Give it as in https://jobs.example.org.",
            )
        if not token:
            raise ConfigError(
                "BERTJOBS_SERVER is set, and no token",
                hint="Set BERTJOBS_TOKEN_FILE to a file with your token; `bertjobs web token add` makes one.",
            )
        self.address = address.rstrip("/")
        self._token = token

    def submit(
        self,
        kind: str,
        config: Mapping[str, Any],
        *,
        storage: str,
        resources: Mapping[str, Any],
        user: str = "",
        after: Sequence[str] = (),
        **options: Any,
    ) -> tuple[Job, bool]:
        """Queue a job. The server decides who its user is and where it is stored; it returns both.

        A lost answer is asked for again under the same idempotency key, so that nothing is queued twice.
        """
        options["idempotency_key"] = options.get("idempotency_key") or f"once-{uuid.uuid4().hex}"
        body = {
            "kind": kind,
            "config": config,
            "resources": resources,
            "options": {**options, "after": [self.get(dependency).id for dependency in after]},
        }
        try:
            found = self._post("jobs", body)
        except ServerDown:
            found = self._post("jobs", body)
        return job_of(found["record"]), bool(found["is_new"])

    def storage(self) -> "ServerStorage":
        """Return where the server stores jobs."""
        found = self._get("session")
        is_here = urlsplit(self.address).hostname in ("localhost", "127.0.0.1", "::1")
        return ServerStorage(
            place=str(found["storage"]), is_this_machine=is_here and found["mode"] == "embedded"
        )

    def get(self, job: str) -> Job:
        """Read one job by its id or an unambiguous prefix of it."""
        return job_of(self._get(f"jobs/{_part(job)}/record")["record"])

    def list(
        self, *, states: Collection[State] | None = None, limit: int | None = 100, user: str | None = None
    ) -> list[JobSummary]:
        """Read the newest jobs, newest first; `limit=None` reads all."""
        rows: Any = []  # `list` is this method here
        while limit is None or len(rows) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(rows))
            query = [("limit", str(size)), ("offset", str(len(rows)))]
            query += [("state", str(state)) for state in states or ()]
            query += [] if user is None else [("user", user)]
            page = self._get(f"rows?{urlencode(query)}")["rows"]
            rows += page
            if len(page) < size:
                break
        return list(summaries_of(rows))

    def cancel(self, job: str, *, by: str = "") -> Job:
        """End a waiting job at once; ask the driver of an active one to stop."""
        return self._act(job, "cancel")

    def retry(self, job: str) -> Job:
        """Queue an ended job again, to resume from its last checkpoint."""
        return self._act(job, "retry")

    def hold(self, job: str, *, by: str = "") -> Job:
        """Take a waiting job out of the queue."""
        return self._act(job, "hold")

    def release(self, job: str) -> Job:
        """Put a held job back into its old place in the queue."""
        return self._act(job, "release")

    def prioritize(self, job: str, priority: int, *, by: str = "") -> Job:
        """Change the priority of a waiting job."""
        return self._act(job, "priority", priority=priority)

    def events(self, job: str) -> Sequence[Event]:
        """Read a job's timeline, oldest first."""
        return [
            Event(
                at=datetime.fromisoformat(found["at"]),
                state=State(found["state"]),
                reason=found["reason"] or "",
                message=found["message"] or "",
                attempt=found["attempt"],
            )
            for found in self._get(f"jobs/{_part(job)}")["events"]
        ]

    def metrics(self, job: str) -> Sequence[dict[str, Any]]:
        """Read the series behind the curves, oldest first."""
        return list(self._get(f"jobs/{_part(job)}/series")["series"])

    def read_log(self, job: Job, attempt: int, *, start: int) -> bytes:
        """Read an attempt's log from a byte on; a negative one counts from the end."""
        assert start >= -_LOG_BYTES, "an end of the log comes in one piece: it may grow between two"
        content = b""
        while attempt > 0:
            query = {"attempt": attempt, "offset": start + len(content), "limit": _LOG_BYTES}
            with self._send("GET", f"jobs/{job.id}/log/bytes?{urlencode(query)}", None) as response:
                piece = self._read(response)
            content += piece
            if len(piece) < _LOG_BYTES or start < 0:
                break
        return content

    def close(self) -> None:
        """Nothing stays open."""

    def _act(self, job: str, action: str, **given: Any) -> Job:
        job_id = self.get(job).id
        self._post(f"jobs/{job_id}/{action}", given)
        return self.get(job_id)

    def _get(self, path: str) -> Any:
        return self._document(self._send("GET", path, None))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._document(self._send("POST", path, json.dumps(body).encode()))

    def _document(self, response: Any) -> Any:
        with response:
            try:
                return json.loads(self._read(response))
            except ValueError as e:
                raise self._down(e) from e

    def _read(self, response: Any) -> bytes:
        try:
            return bytes(response.read())
        except (OSError, http.client.HTTPException) as e:
            raise self._down(e) from e

    def _send(self, method: str, path: str, data: bytes | None) -> Any:
        request = urllib.request.Request(
            f"{self.address}/api/v1/{path}",
            method=method,
            data=data,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            return _opener.open(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as e:
            with e:
                raise self._refusal(e.code, e.read()) from e
        except (OSError, http.client.HTTPException) as e:
            raise self._down(e) from e

    def _refusal(self, status: int, body: bytes) -> BertjobsError:
        try:
            found = json.loads(body)["error"]
            code, message, hint = str(found["code"]), str(found["message"]), str(found["hint"])
        except (ValueError, LookupError, TypeError):
            return ServerDown(
                f"The server at {self.address} answers with HTTP {status}", hint="Correct BERTJOBS_SERVER."
            )
        if status == 401:
            return AccessRefused(
                f"The server at {self.address} refuses the token: it is wrong, expired or revoked",
                hint="Set BERTJOBS_TOKEN_FILE to a file with a valid one.",
            )
        kinds = {"Forbidden": AccessDenied, "JobUnknown": JobUnknown, "RedisDown": ServerDown}
        return kinds.get(code, QueueError)(message, hint=hint)

    def _down(self, e: Exception) -> ServerDown:
        reason = e.reason if isinstance(e, urllib.error.URLError) else e
        return ServerDown(
            f"The server at {self.address} cannot be reached: {reason}",
            hint="Start `bertjobs web` there, or correct BERTJOBS_SERVER.",
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: the token must not follow it to another host."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def _part(job: str) -> str:
    return quote(job, safe="") or "-"
