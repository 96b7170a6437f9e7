"""The series behind a job's curves: what was saved with the last checkpoint, and what Redis has received
since.

`plot`, the page and comparisons draw these lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.jobs.job import Job
from bertjobs.jobs.queue import JobQueue
from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.training.monitoring.metrics_file import MetricsLine, read_metrics_log

_SCORE = "valid_"
"""What the scores of a live evaluation are named with in front."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The lines of one job, by step."""

    lines: Sequence[MetricsLine]
    metric: str | None
    """The score that decides which checkpoint is best; None where it is not known."""


def read_curves(store: JobQueue, job: Job) -> Curves:
    """Read the lines of a job. Raises: RedisDown, StorageError."""
    live = store.metrics(job.id)
    return merge_curves(job, saved=read_metrics_log(job.job_dir), live=live)


def merge_curves(job: Job, *, saved: Sequence[MetricsLine], live: Sequence[Mapping[str, Any]]) -> Curves:
    """Put the saved lines and those of the stream together: after the last saved step, the stream's."""
    last_step = saved[-1]["step"] if saved else 0
    # A step that was repeated after a lost worker was reported twice; the later report counts.
    newer = {(line["kind"], line["step"]): line for line in map(live_line, live) if line["step"] > last_step}
    lines = [*(dict(line) for line in saved), *sorted(newer.values(), key=lambda line: line["step"])]
    return Curves(lines=lines, metric=_metric_of(job, live))


def live_line(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of the stream as a line of the saved file: a step or an evaluation."""
    if "lr" in values:
        return {"kind": "step", **values}
    scores = {name.removeprefix(_SCORE): value for name, value in values.items()}
    return {"kind": "epoch", **scores}


def thin(lines: Sequence[MetricsLine], *, max_points: int) -> list[MetricsLine]:
    """Return at most `max_points` of the steps, evenly chosen, the last one always; and all evaluations."""
    steps = [place for place, line in enumerate(lines) if line["kind"] == "step"]
    if len(steps) <= max_points:
        return list(lines)
    stride = (len(steps) - 1) / max(1, max_points - 1)
    kept = {steps[round(n * stride)] for n in range(max_points)}
    return [line for place, line in enumerate(lines) if place in kept or line["kind"] != "step"]


def _metric_of(job: Job, live: Sequence[Mapping[str, Any]]) -> str | None:
    if job.kind == "tune":
        return str(job.progress["metric"]) if "metric" in job.progress else None
    task = BUILT_IN.get(str(job.config.get("task", {}).get("name")))
    if task is not None:
        return task.metric
    # A task of a user's own file, which may not be on this machine.
    scores = (name for values in live for name in values if name.startswith(_SCORE))
    return next((name.removeprefix(_SCORE) for name in scores if name != f"{_SCORE}loss"), None)
