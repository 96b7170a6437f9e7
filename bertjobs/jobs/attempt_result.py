"""The result of an attempt in storage, written before Redis is told that the attempt succeeded.

Redis may lose the call that ends an attempt: it was away for too long, or lost its last second. The driver
has exited by then, and the work is done. Whoever ends the attempt in the driver's place reads the result
here, and so does the driver of a later attempt.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bertjobs.storage import JobDir

RESULT_FOLDER = "results"
_NAME = re.compile(r"a(\d+)-t(\d+)\.json")


@dataclass(frozen=True, kw_only=True)
class AttemptResult:
    """What an attempt that succeeded leaves: the two documents of `LeaseStore.end`."""

    metrics: Mapping[str, Any]
    artifacts: Mapping[str, Any]


def result_name(*, attempt: int, token: int) -> str:
    """Return the path of an attempt's result in the job's folder. No other attempt writes to it."""
    return f"{RESULT_FOLDER}/a{attempt}-t{token}.json"


def write_result(job_dir: JobDir, *, job_id: str, attempt: int, token: int, result: AttemptResult) -> None:
    """Write the result as a whole: a reader finds all of it or nothing. Raises: StorageError."""
    document = {
        "job_id": job_id,
        "attempt": attempt,
        "token": token,
        "metrics": dict(result.metrics),
        "artifacts": dict(result.artifacts),
    }
    job_dir.write_json(result_name(attempt=attempt, token=token), document)


def read_result(job_dir: JobDir, *, job_id: str, attempt: int, token: int) -> AttemptResult | None:
    """Read an attempt's result; None where it left none. Raises: StorageError."""
    name = result_name(attempt=attempt, token=token)
    if not job_dir.exists(name):
        return None
    try:
        document = job_dir.read_json(name)
        found = (document["job_id"], document["attempt"], document["token"])
        metrics, artifacts = dict(document["metrics"]), dict(document["artifacts"])
    except (ValueError, KeyError, TypeError):  # somebody else's file, or half of one on a broken disk
        return None
    is_ours = found == (job_id, attempt, token)
    return AttemptResult(metrics=metrics, artifacts=artifacts) if is_ours else None


def read_latest_result(
    job_dir: JobDir, *, job_id: str, attempts: Iterable[tuple[int, int]]
) -> AttemptResult | None:
    """Read the result of the latest of these attempts (number, token) that left one. Raises: StorageError."""
    for attempt, token in sorted(attempts, reverse=True):
        if (found := read_result(job_dir, job_id=job_id, attempt=attempt, token=token)) is not None:
            return found
    return None


def publish_outputs(job_dir: JobDir) -> None:
    """Copy what the attempt that succeeded has left to the names that do not contain the attempt.

    Only for the driver whose success Redis has accepted: no later attempt is started. Raises: StorageError.
    """
    found = (_NAME.fullmatch(name) for name in job_dir.list(RESULT_FOLDER))
    number = max((int(match[1]) for match in found if match), default=None)
    if number is None:
        return
    outputs = JobDir(job_dir.uri, f"outputs-a{number}")
    for file in outputs.list_files(""):
        job_dir.write_bytes(file.name, outputs.read_bytes(file.name))


def read_job_result(job_dir: JobDir, *, job_id: str) -> AttemptResult | None:
    """Read the result of a job without asking Redis: that of its latest attempt that succeeded.

    A job has no attempt after the one that Redis names as its end, so this is the same one.

    Raises: StorageError.
    """
    found = (_NAME.fullmatch(name) for name in job_dir.list(RESULT_FOLDER))
    attempts = [(int(match[1]), int(match[2])) for match in found if match]
    return read_latest_result(job_dir, job_id=job_id, attempts=attempts)
