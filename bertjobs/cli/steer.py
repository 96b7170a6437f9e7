"""`bertjobs cancel`, `retry`, `hold` and `release`: each asks the store for one change of each job."""

from collections.abc import Callable

import click

from bertjobs.cli.main import report
from bertjobs.cli.open_queue import current_user, open_queue
from bertjobs.cli.render import print_json, print_line
from bertjobs.errors import QueueError
from bertjobs.jobs.connection import RedisDown
from bertjobs.jobs.job import Job

_jobs = click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@_jobs
@_json
def cancel(jobs: tuple[str, ...], as_json: bool) -> int:
    """End jobs: a waiting one at once, a running one as soon as its driver has stopped."""
    store, by = open_queue(), current_user()
    return _for_each(jobs, lambda job: store.cancel(job, by=by), as_json=as_json)


@click.command()
@_jobs
@_json
def retry(jobs: tuple[str, ...], as_json: bool) -> int:
    """Queue jobs that ended badly once more; they go on from their last checkpoint."""
    return _for_each(jobs, open_queue(needs_ray=True).retry, as_json=as_json)


@click.command()
@_jobs
@_json
def hold(jobs: tuple[str, ...], as_json: bool) -> int:
    """Keep waiting jobs from starting."""
    store, by = open_queue(), current_user()
    return _for_each(jobs, lambda job: store.hold(job, by=by), as_json=as_json)


@click.command()
@_jobs
@_json
def release(jobs: tuple[str, ...], as_json: bool) -> int:
    """Let held jobs start."""
    return _for_each(jobs, open_queue(needs_ray=True).release, as_json=as_json)


def _for_each(jobs: tuple[str, ...], change: Callable[[str], Job], *, as_json: bool) -> int:
    """Change every job that can be, report the others; the exit code is that of the last refusal.

    With `--json`, one job prints its document and several a list of them.
    """
    changed, code = [], 0
    for job in jobs:
        try:
            changed.append(change(job))
        except RedisDown:
            raise
        except QueueError as e:
            report(e.message, e.hint)
            code = e.exit_code
    if as_json and changed:
        documents = [job.to_json() for job in changed]
        print_json(documents if len(jobs) > 1 else documents[0])
    elif not as_json:
        for found in changed:
            print_line(f"{found.id}  {found.state}")
    return code
