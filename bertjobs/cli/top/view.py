"""What `bertjobs top` shows, as text: the rows of the list, the facts of a job, its curve. Pure functions."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from bertjobs.cli.output.formatting import (
    format_age,
    format_number,
    format_seconds,
    printable,
    progress_line,
    status_line,
)
from bertjobs.jobs.job import Job, JobSummary, State

WIDE = 100
"""Columns of a terminal from which name and age have columns of their own."""

_STATES: list[State] = [
    State.RUNNING, State.STARTING, State.CANCELLING, State.QUEUED, State.RETRYING, State.HELD,
    State.FAILED, State.TIMED_OUT, State.CANCELLED, State.SUCCEEDED,
]  # fmt: skip

SORTS: dict[str, Callable[[JobSummary], object]] = {
    "newest": lambda job: (-job.submitted_at.timestamp(), job.id),
    "queue": lambda job: (_STATES.index(job.state), job.place or 0, job.id),
    "user": lambda job: (job.user, -job.submitted_at.timestamp()),
    "GPUs": lambda job: (-float(job.resources.get("gpus") or 0), job.id),
    "time left": lambda job: (float(job.progress.get("eta_s", float("inf"))), job.id),
}
"""Orders of the list by name; each sorts ascending."""

_BLOCKS = " ▁▂▃▄▅▆▇█"


def header(*, is_wide: bool) -> list[str]:
    """Return the names of the columns."""
    return ["ID", "STATE", "KIND", *(["NAME"] if is_wide else []), "USER", "GPUS",
            *(["AGE"] if is_wide else []), "STATUS"]  # fmt: skip


def row(job: JobSummary, *, is_wide: bool, now: datetime) -> list[str]:
    """Return the cells of a job."""
    wide = [printable(job.name)[:20] or "-"] if is_wide else []
    age = [format_age(job.submitted_at, now)] if is_wide else []
    gpus = job.resources.get("gpus") or 0
    return [
        job.id, str(job.state), job.kind, *wide, printable(job.user)[:8], f"{gpus:g}" if gpus else "-",
        *age, status_line(job),
    ]  # fmt: skip


def chosen(jobs: Iterable[JobSummary], *, words: str, sort: str, with_ended: bool) -> list[JobSummary]:
    """Return the jobs in which all words occur, in an order of `SORTS`."""
    wanted = words.casefold().split()
    found = [
        job
        for job in jobs
        if (with_ended or not job.state.is_terminal) and all(word in _text_of(job) for word in wanted)
    ]
    return sorted(found, key=SORTS[sort])  # type: ignore[arg-type]  # the keys of one order are alike


def _text_of(job: JobSummary) -> str:
    return " ".join((job.id, str(job.state), job.kind, job.name, job.user, job.reason)).casefold()


def summary_line(jobs: Sequence[JobSummary]) -> str:
    """Return how many of the jobs are in each state, without those in which none is."""
    counts = {state: sum(job.state is state for job in jobs) for state in _STATES}
    return "  ".join(f"{count} {state}" for state, count in counts.items() if count) or "no jobs"


def facts(job: Job, *, now: datetime) -> list[str]:
    """Return what is known of a job, in a few lines: what it is, where it is, what came out."""
    resources = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in job.resources.items() if v) or "defaults"
    lines = [
        f"{job.id}  {job.state}  {job.kind}  {printable(job.name)}".rstrip(),
        f"user {printable(job.user) or '-'}   priority {job.priority}   attempts {job.num_attempts}   "
        f"submitted {format_age(job.submitted_at, now)} ago   resources {resources}",
        status_line(job) or "-",
    ]
    if "eta_s" in job.progress and job.state is State.RUNNING:
        done, total = job.progress["step"], job.progress["num_steps"]
        lines[2] = f"{bar(done / max(1, total), width=20)} {progress_line(job)}"
    if job.started_at is not None and job.ended_at is not None:
        lines[2] += f"   (took {format_seconds((job.ended_at - job.started_at).total_seconds())})"
    results = [f"{k} {format_number(v)}" for k, v in job.metrics.items() if isinstance(v, (int, float))]
    return [*lines, *([", ".join(results)] if results else [])]


def bar(ratio: float, *, width: int) -> str:
    """Draw a share of 1 as a bar."""
    filled = round(min(1.0, max(0.0, ratio)) * width)
    return "█" * filled + "░" * (width - filled)


def curve(points: Sequence[float], *, width: int, height: int) -> list[str]:
    """Draw values as columns of blocks, with the highest and the lowest value at the left.

    More values than columns are averaged. `sparkline` is the same in one line.
    """
    labels = [format_number(max(points)), format_number(min(points))]
    margin = max(map(len, labels))
    width = max(1, width - margin - 1)
    if len(points) > width:
        edges = [i * len(points) // width for i in range(width + 1)]
        points = [sum(points[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(points), max(points)
    # From 1, so that the lowest value is seen too.
    levels = [1 + round((p - low) / ((high - low) or 1.0) * (8 * height - 1)) for p in points]
    lines = []
    for line in range(height - 1, -1, -1):
        cells = "".join(_BLOCKS[min(8, max(0, level - 8 * line))] for level in levels)
        label = labels[0] if line == height - 1 else labels[1] if line == 0 else ""
        lines.append(f"{label.rjust(margin)} {cells}")
    return lines
