"""Answers and errors of the API: all of them JSON, nothing is rendered as HTML here."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from bertjobs.errors import BertjobsError, DataError, QueueError, StorageError, UsageError
from bertjobs.jobs.access import AccessDenied
from bertjobs.jobs.ray.api import RayUnreachable
from bertjobs.jobs.store.connection import AccessRefused, JobUnknown, RecordInvalid, RedisDown

logger = logging.getLogger(__name__)

_COMPRESSED_BYTES = 2000
"""Answers from this size on are compressed."""

# The first class that fits counts.
_STATUS: tuple[tuple[type[BertjobsError], int, str], ...] = (
    (AccessDenied, 403, "Forbidden"),
    (JobUnknown, 404, "JobUnknown"),
    (RayUnreachable, 502, "RayUnreachable"),
    (RedisDown, 503, "RedisDown"),
    (AccessRefused, 503, "RedisDown"),
    (RecordInvalid, 500, "RecordInvalid"),
    (QueueError, 409, "WrongState"),
    (StorageError, 502, "StorageError"),
    (DataError, 404, "NotFound"),
    (UsageError, 400, "BadRequest"),
)


class ApiError(Exception):
    """A request that is refused, as its answer says."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "hint": self.hint}


def api_error(e: BertjobsError) -> ApiError:
    """Return one of our errors as the answer to a request."""
    for kind, status, code in _STATUS:
        if isinstance(e, kind):
            return ApiError(status, code, e.message, hint=e.hint)
    return ApiError(500, "Internal", e.message, hint=e.hint)


def error_answer(e: ApiError) -> web.Response:
    """Return the answer that tells an error."""
    return web.json_response({"error": e.to_json()}, status=e.status, headers=e.headers)


def http_error(e: web.HTTPException) -> ApiError:
    """Return an error of aiohttp's own, such as a path that leads nowhere, as ours."""
    code = "NotFound" if e.status == 404 else "BadRequest"
    return ApiError(e.status, code, e.reason, headers={k: v for k, v in e.headers.items() if k == "Allow"})


def json_answer(document: Any) -> web.Response:
    """Return a document; compressed where that is worth it and the client takes it."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    response = web.Response(body=body, content_type="application/json", charset="utf-8")
    if len(body) >= _COMPRESSED_BYTES:
        response.enable_compression()
    return response


async def read_object(request: web.Request) -> dict[str, Any]:
    """Read the JSON object of a request. Raises: ApiError: it is something else."""
    try:
        found = json.loads(await request.read())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError(400, "BadRequest", "The request has to be one JSON object")
    return found
