"""What a job has left in its folder: the log of an attempt by bytes, and its artefacts.

A job's record names its storage, and whoever may submit jobs can write into their own folders. So only
folders under the configured roots are read, and no link is followed.
"""

import asyncio
import codecs
import mimetypes
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from aiohttp import web

from bertjobs.errors import StorageError
from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.job import Job, iso
from bertjobs.storage import JobDir, seek_within
from bertjobs.web.answers import ApiError, json_answer
from bertjobs.web.parameters import int_in
from bertjobs.web.services import SERVICES, Services

routes = web.RouteTableDef()

MAX_LOG_BYTES = 1 << 20
"""Most that one answer has of a log."""
DEFAULT_LOG_BYTES = 64 << 10
_PIECE_BYTES = 256 << 10
MAX_FILES = 5000
"""Most files that a list of artefacts shows."""
_SHOWN_TYPES = frozenset({"image/png"})
"""What a browser may show; everything else is saved to a file, so that none of it runs as a page of ours."""


@routes.get("/api/v1/jobs/{job}/log")
async def show_log(request: web.Request) -> web.StreamResponse:
    """Answer with a part of an attempt's log."""
    services, query = request.app[SERVICES], request.query
    job = await services.run(services.store.get, request.match_info["job"])
    attempt = int_in(query.get("attempt"), 1, 10**6, default=max(1, job.num_attempts), name="attempt")
    if attempt > max(1, job.num_attempts):
        raise ApiError(404, "NotFound", f"attempt={attempt}: {job.id} has had {job.num_attempts}")
    offset = int_in(query.get("offset"), -(2**40), 2**40, default=-DEFAULT_LOG_BYTES, name="offset")
    limit = int_in(query.get("limit"), 1, MAX_LOG_BYTES, default=DEFAULT_LOG_BYTES, name="limit")
    part = await services.run(read_log, services, job, attempt, offset=offset, limit=limit)
    is_final = job.num_attempts >= attempt and job.attempts[attempt - 1].log_is_final
    return json_answer({"id": job.id, **part, "is_final": is_final})


def read_log(services: Services, job: Job, attempt: int, *, offset: int, limit: int) -> dict[str, Any]:
    """Read at most `limit` bytes of a log as text, none where there is no log yet. A negative offset counts
    from its end. Raises: StorageError."""
    name, folder = log_name(attempt), job_folder(services, job)
    if not folder.exists(name):
        return {"attempt": attempt, "offset": 0, "next_offset": 0, "size_bytes": 0, "text": ""}
    with folder.open_inside(name) as file:
        start, size_bytes = seek_within(file, offset)
        data = bytes(file.read(limit))
    start, text, end = _whole_characters(data, start, is_end=start + len(data) == size_bytes)
    return {
        "attempt": attempt,
        "offset": start,
        "next_offset": end,
        "size_bytes": size_bytes,
        "text": text,
    }


def _whole_characters(data: bytes, start: int, *, is_end: bool) -> tuple[int, str, int]:
    """Decode bytes that may begin and end inside a character; return where the text begins and ends."""
    cut = 0
    if start:
        while cut < min(3, len(data)) and data[cut] & 0xC0 == 0x80:  # the rest of a character
            cut += 1
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data[cut:], final=False)
    num_open = len(decoder.getstate()[0])
    if is_end and num_open > 3:
        num_open = 0
    return start + cut, text, start + len(data) - num_open


@routes.get("/api/v1/jobs/{job}/artifacts")
async def list_artifacts(request: web.Request) -> web.StreamResponse:
    """Answer with the files in the job's folder."""
    services = request.app[SERVICES]
    job = await services.run(services.store.get, request.match_info["job"])
    return json_answer({"id": job.id, "files": await services.run(_files, services, job)})


def _files(services: Services, job: Job) -> list[dict[str, Any]]:
    folder = job_folder(services, job)
    found = [file for file in folder.list_files("") if _is_shown(folder, file.name)]
    return [
        {
            "name": file.name,
            "size_bytes": file.size_bytes,
            "modified_at": iso(datetime.fromtimestamp(file.modified_at_s, UTC)),
        }
        for file in found[:MAX_FILES]
    ]


def _is_shown(folder: JobDir, name: str) -> bool:
    """Return whether a file is published, and not a link to another place."""
    if any(part.startswith((".new-", ".old-", ".probe-")) for part in name.split("/")):
        return False
    return folder.is_remote or not Path(folder.path_of(name)).is_symlink()


@routes.get("/api/v1/jobs/{job}/artifacts/{name:.+}")
async def download(request: web.Request) -> web.StreamResponse:
    """Send one file of the job's folder."""
    services, name = request.app[SERVICES], request.match_info["name"]
    job = await services.run(services.store.get, request.match_info["job"])
    file = await services.run(_open, services, job, name)
    try:
        size_bytes = await services.run(_size_of, file)
        return await _send(request, file, name, size_bytes=size_bytes, run=services.run)
    finally:
        file.close()


def _open(services: Services, job: Job, name: str) -> BinaryIO:
    try:
        file: BinaryIO = job_folder(services, job).open_inside(name)
    except StorageError as e:
        # Whether it is missing, a link or forbidden is not told: the name comes from outside.
        raise ApiError(404, "NotFound", f"{job.id} has no artefact {name}") from e
    return file


def _size_of(file: BinaryIO) -> int:
    size_bytes = file.seek(0, 2)
    file.seek(0)
    return size_bytes


async def _send(
    request: web.Request, file: BinaryIO, name: str, *, size_bytes: int, run: Callable[..., Any]
) -> web.StreamResponse:
    kind = mimetypes.guess_type(name)[0] or ""
    is_shown = kind in _SHOWN_TYPES
    response = web.StreamResponse(
        headers={
            "Content-Type": kind if is_shown else "application/octet-stream",
            "Content-Length": str(size_bytes),
            "Content-Disposition": f"{'inline' if is_shown else 'attachment'}; "
            f"filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}",
        }
    )
    await response.prepare(request)
    left = size_bytes
    while left > 0 and (piece := await run(file.read, min(left, _PIECE_BYTES))):
        left -= len(piece)
        await response.write(piece)
    if left:
        raise asyncio.IncompleteReadError(b"", left)
    await response.write_eof()
    return response


def job_folder(services: Services, job: Job) -> JobDir:
    """Return the folder of a job's artefacts. Raises: ApiError: it is not where this server may read."""
    if not services.roots.contain(job.job_dir):
        raise ApiError(
            403,
            "Forbidden",
            f"The folder of {job.id} is not under the storage of this server",
            hint="Add its place to BERTJOBS_STORAGE_ROOTS where `bertjobs web` runs.",
        )
    return job.job_dir
