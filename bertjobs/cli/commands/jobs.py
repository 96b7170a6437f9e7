"""The commands on queued jobs: `list`, `status`, `wait` and `watch` show them, `cancel`, `retry`, `hold` and
`release` change them."""

import sys
from collections.abc import Callable

import click

from bertjobs.cli.completion import NOT_ENDED, RETRIABLE, WAITING, complete_users
from bertjobs.cli.context import current_user, dashboard_page, open_queue
from bertjobs.cli.main import print_error
from bertjobs.cli.output.follow import choose_display, wait_for
from bertjobs.cli.output.render import print_job, print_jobs, print_json, print_line, print_note
from bertjobs.cli.params import job_argument, jobs_argument, json_option
from bertjobs.errors import QueueError
from bertjobs.jobs.documents import status_document
from bertjobs.jobs.job import Job, State
from bertjobs.jobs.store.connection import RedisDown
from bertjobs.jobs.store.job_store import MAX_PRIORITY

DEFAULT_LIMIT = 50


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in State], case_sensitive=False),
    help="Only jobs in this state; can be repeated.",
)
@click.option("--mine", is_flag=True, help="Only my own jobs.")
@click.option("--user", shell_complete=complete_users, help="Only this user's jobs.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Show at most N jobs, the newest.  [default: {DEFAULT_LIMIT}]",
    metavar="N",
)
@click.option("--all", "all_jobs", is_flag=True, help="Show all jobs.")
@json_option
def list_jobs(
    states: tuple[str, ...],
    mine: bool,
    user: str | None,
    limit: int | None,
    all_jobs: bool,
    as_json: bool,
) -> None:
    """List the jobs, newest first, and why waiting ones wait."""
    if mine and user is not None:
        raise click.UsageError("--mine and --user exclude each other")
    if all_jobs and limit is not None:
        raise click.UsageError("--limit and --all exclude each other")
    jobs = open_queue().list(
        states=[State(state) for state in states] or None,
        limit=None if all_jobs else limit or DEFAULT_LIMIT,
        user=current_user() if mine else user,
    )
    if as_json:
        print_json([job.to_json() for job in jobs])
        return
    print_jobs(jobs)
    if not jobs:
        print_note("No jobs. `bertjobs submit finetune --help` shows how to submit one.")
    elif not all_jobs and len(jobs) == (limit or DEFAULT_LIMIT):
        print_note(f"These are the newest {len(jobs)} jobs; `--all` shows all.")


@click.command()
@job_argument()
@json_option
def status(job: str, as_json: bool) -> None:
    """Show one job: settings, results and timeline."""
    store = open_queue()
    found = store.get(job)
    events = store.events(found.id)
    if as_json:
        print_json(status_document(found, events, dashboard_url=dashboard_page(found)))
    else:
        print_job(found, events, dashboard=dashboard_page(found))


@click.command()
@jobs_argument(states=NOT_ENDED)
@json_option
def cancel(jobs: tuple[str, ...], as_json: bool) -> int:
    """Cancel jobs: a waiting one at once, a running one as soon as its driver has stopped."""
    store, by = open_queue(), current_user()
    return _for_each(jobs, lambda job: store.cancel(job, by=by), as_json=as_json)


@click.command()
@jobs_argument(states=RETRIABLE)
@json_option
def retry(jobs: tuple[str, ...], as_json: bool) -> int:
    """Queue failed, cancelled or timed out jobs again; they resume from their last checkpoint."""
    return _for_each(jobs, open_queue(needs_ray=True).retry, as_json=as_json)


@click.command()
@jobs_argument(states=WAITING)
@json_option
def hold(jobs: tuple[str, ...], as_json: bool) -> int:
    """Keep waiting jobs from starting."""
    store, by = open_queue(), current_user()
    return _for_each(jobs, lambda job: store.hold(job, by=by), as_json=as_json)


@click.command()
@jobs_argument(states=(State.HELD,))
@json_option
def release(jobs: tuple[str, ...], as_json: bool) -> int:
    """Let held jobs start."""
    return _for_each(jobs, open_queue(needs_ray=True).release, as_json=as_json)


@click.command()
@jobs_argument(states=(State.HELD, *WAITING))
@click.option(
    "--priority",
    type=click.IntRange(-MAX_PRIORITY, MAX_PRIORITY),
    metavar="INT",
    required=True,
    help=f"Higher goes first.  [{-MAX_PRIORITY} to {MAX_PRIORITY}]",
)
@json_option
def prioritize(jobs: tuple[str, ...], priority: int, as_json: bool) -> int:
    """Change the priority of waiting jobs, and with it their place in the queue."""
    store, by = open_queue(), current_user()
    return _for_each(jobs, lambda job: store.prioritize(job, priority, by=by), as_json=as_json)


def _for_each(jobs: tuple[str, ...], change: Callable[[str], Job], *, as_json: bool) -> int:
    """Change every job that can be changed and report the others; return the exit code of the last error.

    With `--json`, one job is printed as a document and several as a list of documents.
    """
    changed, code = [], 0
    for job in jobs:
        try:
            changed.append(change(job))
        except RedisDown:
            raise
        except QueueError as e:
            print_error(e.message, e.hint)
            code = e.exit_code
    if as_json and changed:
        documents = [job.to_json() for job in changed]
        print_json(documents if len(jobs) > 1 else documents[0])
    elif not as_json:
        for found in changed:
            print_line(f"{found.id}  {found.state}")
    return code


@click.command()
@job_argument(states=NOT_ENDED)
@json_option
def wait(job: str, as_json: bool) -> int:
    """Wait until a job has ended; exit 1 if it did not succeed.

    Ctrl-C ends the waiting, not the job.
    """
    return wait_for(open_queue(needs_ray=True).get, job, as_json=as_json)


@click.command()
@job_argument(states=NOT_ENDED)
def watch(job: str) -> int:
    """Follow one job live: step, loss, examples/s, time left.

    A live display on a terminal, plain lines elsewhere. Ctrl-C ends the display, not the job.
    """
    return wait_for(open_queue(needs_ray=True).get, job, as_json=False, display=choose_display(sys.stdout))
