"""Reading the series behind a job's curves: its stream in Redis, and the file in storage to which it is moved
after the job's end.

    <job folder>/series.jsonl    an entry of the stream a line: {"id": ..., "values": {...}}
"""

import json
from collections.abc import Iterator
from typing import Any

from bertjobs.jobs.store.connection import Connection
from bertjobs.storage import JobDir

SERIES_FILE = "series.jsonl"
PAGE = 2000
"""Entries that Redis is asked for at a time: a few milliseconds."""

Entry = tuple[str, dict[str, Any]]
"""Id in the stream, and values."""


def stream_entries(connection: Connection, job_id: str) -> Iterator[Entry]:
    """Read a job's stream, oldest first, in pages. Raises: RedisDown."""
    first = "-"
    while True:
        with connection.errors():
            page: Any = connection.client.xrange(f"bj:job:{job_id}:metrics", min=first, count=PAGE)
        for entry_id, fields in page:
            yield entry_id, json.loads(fields["values"])
        if len(page) < PAGE:
            return
        first = f"({page[-1][0]}"


def stored_entries(job_dir: JobDir) -> list[Entry]:
    """Read the series in a job's folder; none where it has no file. Raises: StorageError."""
    if not job_dir.exists(SERIES_FILE):
        return []
    lines = [json.loads(line) for line in job_dir.read_bytes(SERIES_FILE).splitlines()]
    return [(line["id"], line["values"]) for line in lines]
