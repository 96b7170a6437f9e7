"""`bertjobs list` and `bertjobs status`: what Redis knows of the jobs."""

import click

from bertjobs.cli.open_queue import current_user, dashboard_page, open_queue
from bertjobs.cli.render import print_job, print_jobs, print_json, print_note
from bertjobs.jobs.job import State

DEFAULT_LIMIT = 50


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in State], case_sensitive=False),
    help="Only jobs in this state; may be given again.",
)
@click.option("--mine", is_flag=True, help="Only my own jobs.")
@click.option("--user", help="Only this user's jobs.")
@click.option("--limit", type=click.IntRange(min=1), help=f"The newest so many.  [default: {DEFAULT_LIMIT}]")
@click.option("--all", "all_jobs", is_flag=True, help="All jobs there are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_jobs(
    states: tuple[str, ...],
    mine: bool,
    user: str | None,
    limit: int | None,
    all_jobs: bool,
    as_json: bool,
) -> None:
    """Show the jobs, latest first, and why the waiting ones wait."""
    if mine and user is not None:
        raise click.UsageError("--mine and --user exclude each other.")
    if all_jobs and limit is not None:
        raise click.UsageError("--limit and --all exclude each other.")
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
        print_note("No jobs. `bertjobs submit finetune --help` shows how to make one.")
    elif not all_jobs and len(jobs) == (limit or DEFAULT_LIMIT):
        print_note(f"The newest {len(jobs)}; --all shows all.")


@click.command()
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(job: str, as_json: bool) -> None:
    """Show everything that is known of one job."""
    store = open_queue()
    found = store.get(job)
    events = store.events(found.id)
    if as_json:
        attempts = {"history": [a.to_json() for a in found.attempts], "events": [e.to_json() for e in events]}
        page = {"dashboard_url": dashboard_page(found)}
        print_json({**found.to_json(), "config": found.config, **attempts, **page})
    else:
        print_job(found, events, dashboard=dashboard_page(found))
