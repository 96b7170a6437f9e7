"""What jobs that have ended left behind, in Ray's tables and among the processes. Pure."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OF_RAY_DATA = ("_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")
"""What Ray Data starts once and keeps for all jobs; they take no resources."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of the stack."""

    pid: int
    title: str
    ray_job: str
    """The Ray job that Ray started it for; empty for what Ray did not start."""


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something of an ended job that is still there."""

    what: str
    never_ends: bool
    """Whether nothing is going to end it: a detached actor outlives its job."""


def leftovers(
    *,
    ray_jobs: Iterable[Row],
    actors: Iterable[Row],
    placement_groups: Iterable[Row],
    processes: Iterable[Process],
    live: Collection[str],
) -> list[Leftover]:
    """Return what is left of all jobs but those in `live`, which have not ended yet.

    `ray_jobs`, `actors` and `placement_groups` are as Ray's dashboard gives them.
    """
    found = []
    jobs = set()
    job_of = {}
    has_ended = {}
    for row in ray_jobs:
        name = row["submission_id"] or ""
        job = _job_of_submission(name)
        if job in live:
            continue
        if job:
            jobs.add(job)
        if job and row["status"] not in ENDED:
            found.append(Leftover(what=f"the Ray Job {name}, which is {row['status']}", never_ends=False))
        if row["job_id"] and (job or row["status"] in ENDED):
            job_of[row["job_id"]] = name or row["job_id"]
            has_ended[row["job_id"]] = row["status"] in ENDED
    actors = list(actors)
    for row in actors:
        if row["job_id"] in job_of and row["state"] != "DEAD" and row["class_name"] not in OF_RAY_DATA:
            is_detached = bool(row["is_detached"])
            what = (
                f"the {'detached ' if is_detached else ''}actor {row['class_name']}, which is {row['state']}"
            )
            found.append(
                Leftover(
                    what=f"{what} as process {row['pid']}, of {job_of[row['job_id']]}",
                    never_ends=is_detached and has_ended[row["job_id"]],
                )
            )
    for row in placement_groups:
        if row["creator_job_id"] in job_of and row["state"] != "REMOVED":
            what = f"a placement group of {row['bundles']}, which is {row['state']}"
            found.append(Leftover(what=f"{what}, of {job_of[row['creator_job_id']]}", never_ends=False))
    shared = {row["pid"] for row in actors if row["class_name"] in OF_RAY_DATA}
    for process in processes:
        is_of_job = process.ray_job in job_of or any(job in process.title for job in jobs)
        if is_of_job and process.pid not in shared:
            found.append(Leftover(what=f"process {process.pid}, {process.title!r}", never_ends=False))
    return found


def _job_of_submission(submission_id: str) -> str:
    """Return the job that a submission is an attempt at; empty for what is not ours."""
    matched = re.fullmatch(r"bj-(.+)-a\d+", submission_id)
    return matched[1] if matched else ""
