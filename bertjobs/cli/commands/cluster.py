"""The commands on the services that jobs need: `cluster` starts, stops and administers them, `dispatcher`
runs the dispatcher of a shared cluster, `doctor` checks all of them."""

import time
from dataclasses import asdict
from typing import Any

import click

from bertjobs.cli.completion import complete_users
from bertjobs.cli.context import current_user, dashboard_page, open_queue, open_redis
from bertjobs.cli.output.formatting import format_number, printable
from bertjobs.cli.output.render import (
    print_check,
    print_facts,
    print_json,
    print_line,
    print_note,
    print_table,
)
from bertjobs.cli.params import Duration, job_argument, json_option
from bertjobs.errors import QueueError
from bertjobs.jobs.quotas import QuotaReport, QuotaStore
from bertjobs.settings import load_settings
from bertjobs.storage import StorageRoots

POLL_S = 1.0


@click.group()
def cluster() -> None:
    """Start, show and stop the local Redis, Ray and dispatcher; drain, limit and clean the queue."""


@cluster.command("up")
@json_option
def up(as_json: bool) -> int:
    """Start what does not run yet and wait until all of it answers; exit 1 if a shared service does not."""
    from bertjobs import stack

    settings = load_settings()
    stack.up(settings, announce=print_note)
    return _status_code(stack.status(settings), as_json=as_json)


@cluster.command("status")
@json_option
def status(as_json: bool) -> int:
    """Show which services run; exit 1 unless all of them do."""
    from bertjobs import stack

    return _status_code(stack.status(load_settings()), as_json=as_json)


@cluster.command("down")
def down() -> None:
    """Stop the local stack. Jobs are kept; running ones resume after the next start."""
    from bertjobs import stack

    if not stack.down(load_settings(), announce=print_note):
        print_note("Nothing was running.")


@cluster.command("dashboard")
@job_argument(required=False)
def dashboard(job: str | None) -> None:
    """Print the address of Ray's dashboard, or of a job's page on it."""
    from bertjobs import stack

    found = stack.status(load_settings())
    if found["dashboard_url"] is None:
        raise QueueError("Ray has not been started", hint="`bertjobs cluster up` starts it.")
    print_line(found["dashboard_url"] if job is None else _page_of(job))
    if found["ray_token_file"]:
        print_note(f"The dashboard asks for the token in {found['ray_token_file']}.")


def _page_of(job: str) -> str:
    found = open_queue().get(job)
    page = dashboard_page(found)
    if page is None:
        raise QueueError(f"{found.id} is {found.state} and has not been given to Ray yet")
    return page


@cluster.command("drain")
@click.option("--wait", is_flag=True, help="Wait until no job runs.")
@json_option
def drain(wait: bool, as_json: bool) -> None:
    """Start no more jobs; running ones write a checkpoint and return to the queue. This is not a retry."""
    quotas = _quota_store()
    quotas.drain(by=current_user())
    found = quotas.read()
    while wait and found.num_live:
        print_note(f"{_running(found.num_live)}; Ctrl-C ends the waiting; the queue stays drained.")
        time.sleep(POLL_S)
        found = quotas.read()
    if as_json:
        print_json(found.to_json())
    else:
        print_line(f"Drained by {printable(found.drained_by or '')}; {_running(found.num_live)}.")


@cluster.command("undrain")
@json_option
def undrain(as_json: bool) -> None:
    """Start jobs of a drained queue again."""
    quotas = _quota_store()
    quotas.undrain()
    if as_json:
        print_json(quotas.read().to_json())
    else:
        print_line("The queue is open: jobs start again.")


@cluster.command("limit")
@click.argument("user", required=False, shell_complete=complete_users)
@click.option(
    "--gpus", type=click.IntRange(min=0), metavar="INT", help="Most GPUs that the user's jobs use at a time."
)
@click.option("--none", "unlimited", is_flag=True, help="Remove the limit.")
@json_option
def limit(user: str | None, gpus: int | None, unlimited: bool, as_json: bool) -> None:
    """Limit the GPUs of a user, or show limits and use of all users. Running jobs are not stopped."""
    if (gpus is not None and unlimited) or (user is None and (gpus is not None or unlimited)):
        raise click.UsageError("Give a USER with either --gpus or --none, or nothing to show the limits")
    quotas = _quota_store()
    if user is not None and (gpus is not None or unlimited):
        quotas.limit(user, gpus=gpus)
    found = quotas.read()
    if as_json:
        print_json(found.to_json())
    else:
        _print_users(found, only=user)


@cluster.command("clean")
@click.option(
    "--older-than",
    "older_than_s",
    type=Duration(),
    help="Jobs that ended longer ago than this, whatever their --keep.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@json_option
def clean(older_than_s: float | None, dry_run: bool, as_json: bool) -> None:
    """Delete old jobs from the queue, and their logs and superseded checkpoints.

    By default the jobs whose --keep has passed; the dispatcher does the same regularly. Models, results and
    the last and the best checkpoint stay in the job's folder. A job that another job needs stays listed.
    """
    from bertjobs.jobs.retention import Retention  # knows checkpoints, and with them pydantic: 30 ms

    roots = StorageRoots(load_settings().allowed_storage)
    retention = Retention(open_redis().connection, roots=roots)
    cleaned = list(retention.clean(older_than_s=older_than_s, is_dry_run=dry_run))
    if as_json:
        print_json([job.to_json() for job in cleaned])
        return
    rows = [
        [job.job_id, _action(job.is_forgotten, dry_run), job.folder, ", ".join(job.removed) or "-"]
        for job in cleaned
    ]
    print_table(["ID", "ACTION", "FOLDER", "REMOVED FROM IT"] if rows else None, rows)
    if not cleaned:
        print_note("Nothing to clean.")


@click.command()
def dispatcher() -> None:
    """Run the dispatcher of a shared Redis and Ray, in the foreground.

    Several can run; one leads, and another takes over when it ends. The local stack starts its own.
    """
    from bertjobs.jobs.dispatcher.loop import main

    main()


@click.command()
@click.option("--quick", is_flag=True, help="Skip the checks that run on the nodes of Ray.")
@json_option
def doctor(quick: bool, as_json: bool) -> int:
    """Check everything that jobs need; say how to fix what is wrong.

    Checks Redis, dispatcher, Ray, storage and clocks, and starts nothing. Exit 1 if jobs could not run or
    their results could be lost.
    """
    from bertjobs.stack.doctor.examine import examine  # its checks take longer to import than other commands

    checks = []
    for check in examine(load_settings(), on_nodes=not quick):
        checks.append(check)
        if not as_json:
            print_check(check)
    is_well = all(check.verdict != "broken" for check in checks)
    if as_json:
        print_json({"is_well": is_well, "checks": [asdict(check) for check in checks]})
    return 0 if is_well else 1


def _status_code(found: dict[str, Any], *, as_json: bool) -> int:
    _print_status(found, as_json=as_json)
    return 0 if found["state"] == "up" else 1


def _print_status(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    facts = ("mode", "state", "home", "redis_url", "dashboard_url")
    print_facts([(name.replace("_", " "), printable(str(found[name] or ""))) for name in facts])
    rows = [
        [name, member["state"], str(member["pid"] or "-"), member["since"] or "-", member["log"] or "-"]
        for name, member in found["members"].items()
    ]
    print_line("")
    print_table(["SERVICE", "STATE", "PID", "SINCE", "LOG"], rows)


def _quota_store() -> QuotaStore:
    return QuotaStore(open_redis().connection)


def _running(num_live: int) -> str:
    return "no job runs" if not num_live else f"{num_live} job{'' if num_live == 1 else 's'} still running"


def _print_users(found: QuotaReport, *, only: str | None) -> None:
    rows = [
        [
            printable(user["user"]),
            "-" if user["max_gpus"] is None else format_number(user["max_gpus"]),
            format_number(user["held_gpus"]),
        ]
        for user in found.to_json()["users"]
        if only in (None, user["user"])
    ]
    print_table(["USER", "GPU LIMIT", "GPUS IN USE"] if rows else None, rows)
    if not rows:
        print_note("No limits, and no GPUs in use." if only is None else f"{only} has no limit.")


def _action(is_forgotten: bool, dry_run: bool) -> str:
    word = "forgotten" if is_forgotten else "pruned"
    return f"to be {word}" if dry_run else word
