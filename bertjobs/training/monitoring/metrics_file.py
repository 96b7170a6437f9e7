"""The file of a job's metrics, a step or an evaluation a line.

Needs no torch: the command line and the page's server read it too.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bertjobs.storage import JobDir

MetricsLine = Mapping[str, Any]
"""`{"kind": "step", "step", "epoch", "loss", "lr", ...}` or `{"kind": "epoch", "step", "accuracy", ...}`."""

_NAME = "metrics.jsonl"


def write_metrics_log(job_dir: JobDir, lines: Iterable[MetricsLine]) -> None:
    """Replace the lines of a job. Raises: StorageError."""
    job_dir.write_bytes(_NAME, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_metrics_log(job_dir: JobDir) -> list[MetricsLine]:
    """Read the lines of a job; none where nothing was saved yet. Raises: StorageError."""
    if not job_dir.exists(_NAME):
        return []
    return [json.loads(line) for line in job_dir.read_bytes(_NAME).splitlines()]
