"""Moving the series of ended jobs from Redis, where each takes up to 5 MB, to storage.

The dispatcher's cleanup does it, not the driver: so it covers drivers that were killed too. A stream is
removed only after the file was read back and holds its last entry. Whoever reads the series
(`JobStore.metrics`) finds it in both places.
"""

import json
import logging

from bertjobs.errors import StorageError
from bertjobs.jobs.job import State, is_job_id
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.series import SERIES_FILE, stored_entries, stream_entries
from bertjobs.storage import JobDir, StorageRoots

logger = logging.getLogger(__name__)

TERMINAL = frozenset(str(state) for state in State if state.is_terminal)
RETRY_MS = 3600 * 1000
"""Until a series is tried again whose job has not ended, or whose storage cannot be written."""


def move_ended_series(connection: Connection, *, term: int, roots: StorageRoots) -> int:
    """Move the series of jobs that have ended to their storage. Returns how many were moved.

    One whose storage cannot be written stays in Redis for another hour. Raises: NotLeader, RedisDown.
    """
    num_moved = 0
    while True:
        (document,) = connection.run("read_series", limit=100)
        rows = json.loads(document)
        for job_id, storage, state in rows:
            has_ended = state in TERMINAL and is_job_id(job_id) and isinstance(storage, str)
            last = _store(connection, JobDir(storage, job_id), job_id, roots=roots) if has_ended else None
            connection.run("drop_series", term=term, id=job_id, last=last, retry_ms=RETRY_MS)
            num_moved += last is not None
        if not rows:
            return num_moved


def _store(connection: Connection, job_dir: JobDir, job_id: str, *, roots: StorageRoots) -> str | None:
    """Write a series beside what an earlier attempt's file has. Returns the id of the last entry, once it has
    been read back."""
    if not roots.contain(job_dir):
        logger.warning(
            "%s: its metrics stay in Redis: %s is not in BERTJOBS_STORAGE_ROOTS", job_id, job_dir.uri
        )
        return None
    try:
        # By id: a move that was interrupted, or a job that was retried, adds nothing twice.
        entries = dict(stored_entries(job_dir)) | dict(stream_entries(connection, job_id))
        lines = [json.dumps({"id": entry_id, "values": values}) for entry_id, values in entries.items()]
        job_dir.write_bytes(SERIES_FILE, "".join(f"{line}\n" for line in lines).encode())
        found = stored_entries(job_dir)
    except (StorageError, ValueError, LookupError) as e:
        logger.warning("%s: its metrics stay in Redis for now: %s", job_id, e)
        return None
    return found[-1][0] if found == list(entries.items()) and found else None
