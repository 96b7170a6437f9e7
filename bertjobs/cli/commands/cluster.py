"""`bertjobs cluster` and `bertjobs dispatcher`: the processes that jobs need.

`bertjobs cluster drain`, `undrain`, `limit` and `clean`: how the queue is shared, and kept small.

`bertjobs doctor`: one page on whether the next job has what it needs.
"""

import time
from dataclasses import asdict
from typing import Any

import click

from bertjobs.cli.context import current_user, dashboard_page, open_queue
from bertjobs.cli.output.formatting import number, printable
from bertjobs.cli.output.render import (
    print_check,
    print_facts,
    print_json,
    print_line,
    print_note,
    print_table,
)
from bertjobs.cli.params import Duration
from bertjobs.errors import QueueError
from bertjobs.jobs.quotas import QuotaReport, QuotaStore
from bertjobs.settings import load_settings

POLL_S = 1.0


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command("drain")
@click.option("--wait", is_flag=True, help="Stay until nothing runs any more.")
@_json
def drain(wait: bool, as_json: bool) -> None:
    """Start no job any more; running ones write a checkpoint and go back into the queue, uncharged."""
    sharing = _sharing()
    sharing.drain(by=current_user())
    found = sharing.read()
    while wait and found.num_live:
        print_note(f"{_running(found.num_live)}; Ctrl-C leaves the queue drained.")
        time.sleep(POLL_S)
        found = sharing.read()
    if as_json:
        print_json(found.to_json())
    else:
        print_line(f"Drained by {printable(found.drained_by or '')}; {_running(found.num_live)}.")


@click.command("undrain")
@_json
def undrain(as_json: bool) -> None:
    """Open a drained queue again."""
    sharing = _sharing()
    sharing.undrain()
    if as_json:
        print_json(sharing.read().to_json())
    else:
        print_line("The queue is open.")


@click.command("limit")
@click.argument("user", required=False)
@click.option(
    "--gpus", type=click.IntRange(min=0), metavar="INT", help="GPUs that the user's jobs may hold together."
)
@click.option("--none", "unlimited", is_flag=True, help="As many as there are.")
@_json
def limit(user: str | None, gpus: int | None, unlimited: bool, as_json: bool) -> None:
    """Limit a user's GPUs, or show what each user may hold and holds. What runs goes on."""
    if (gpus is not None and unlimited) or (user is None and (gpus is not None or unlimited)):
        raise click.UsageError("Give a USER with either --gpus or --none, or nothing to see the limits.")
    sharing = _sharing()
    if user is not None and (gpus is not None or unlimited):
        sharing.limit(user, gpus=gpus)
    found = sharing.read()
    if as_json:
        print_json(found.to_json())
    else:
        _print_users(found, only=user)


@click.command("clean")
@click.option(
    "--older-than", "older_than_s", type=Duration(), help="All that ended so long ago, whatever their --keep."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_json
def clean(older_than_s: float | None, dry_run: bool, as_json: bool) -> None:
    """Forget jobs that ended long ago, with their logs and needless checkpoints.

    By default those whose --keep is over; the dispatcher does the same by itself. Models, results and the
    last and the best checkpoint stay in the job's folder. A job that another follows or uses stays known.
    """
    from bertjobs.jobs.retention import Retention  # knows checkpoints, and with them pydantic: 30 ms

    retention = Retention(open_queue().connection)
    cleaned = list(retention.clean(older_than_s=older_than_s, is_dry_run=dry_run))
    if as_json:
        print_json([job.to_json() for job in cleaned])
        return
    rows = [
        [job.job_id, _done(job.is_forgotten, dry_run), job.folder, ", ".join(job.removed) or "-"]
        for job in cleaned
    ]
    print_table(["ID", "WHAT", "FOLDER", "REMOVED FROM IT"] if rows else None, rows)
    if not cleaned:
        print_note("There is nothing to clean up.")


def _sharing() -> QuotaStore:
    return QuotaStore(open_queue().connection)


def _running(num_live: int) -> str:
    return "nothing runs" if not num_live else f"{num_live} still {'runs' if num_live == 1 else 'run'}"


def _print_users(found: QuotaReport, *, only: str | None) -> None:
    rows = [
        [
            printable(user["user"]),
            "-" if user["max_gpus"] is None else number(user["max_gpus"]),
            number(user["held_gpus"]),
        ]
        for user in found.to_json()["users"]
        if only in (None, user["user"])
    ]
    print_table(["USER", "MAY HOLD", "HOLDS"] if rows else None, rows)
    if not rows:
        print_note("No limits." if only is None else f"{only} has no limit.")


def _done(is_forgotten: bool, dry_run: bool) -> str:
    word = "forgotten" if is_forgotten else "pruned"
    return f"to be {word}" if dry_run else word


@click.group()
def cluster() -> None:
    """Start, show and stop the local Redis, Ray and dispatcher; drain, limit and clean up the queue."""


for _command in (drain, undrain, limit, clean):
    cluster.add_command(_command)


@cluster.command("up")
@_json
def up(as_json: bool) -> int:
    """Start what is missing, and wait until all of it answers; exit 1 where a shared one does not."""
    from bertjobs import stack

    settings = load_settings()
    stack.up(settings, announce=print_note)
    return _report(stack.status(settings), as_json=as_json)


@cluster.command("status")
@_json
def status(as_json: bool) -> int:
    """Show which members run; exit 1 unless all of them do."""
    from bertjobs import stack

    return _report(stack.status(load_settings()), as_json=as_json)


@cluster.command("down")
def down() -> None:
    """Stop the local stack. Jobs stay stored; running ones go on after the next start."""
    from bertjobs import stack

    if not stack.down(load_settings(), announce=print_note):
        print_note("Nothing was running.")


@cluster.command("dashboard")
@click.argument("job", required=False)
def dashboard(job: str | None) -> None:
    """Print the address of Ray's dashboard, or of a job's page there."""
    from bertjobs import stack

    found = stack.status(load_settings())
    if found["dashboard_url"] is None:
        raise QueueError("Ray has not been started.", hint="`bertjobs cluster up` starts it.")
    print_line(found["dashboard_url"] if job is None else _page_of(job))
    if found["ray_token_file"]:
        print_note(f"It asks for the token in {found['ray_token_file']}.")


def _page_of(job: str) -> str:
    found = open_queue().get(job)
    page = dashboard_page(found)
    if page is None:
        raise QueueError(f"{found.id} is {found.state} and was not given to Ray yet.")
    return page


@click.command()
def dispatcher() -> None:
    """Run the dispatcher of a shared Redis and Ray, in the foreground.

    Of several only one leads; another takes over when it ends. The local stack starts its own.
    """
    from bertjobs.jobs.dispatcher.loop import main

    main()


def _report(found: dict[str, Any], *, as_json: bool) -> int:
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
    print_table(["MEMBER", "STATE", "PID", "SINCE", "LOG"], rows)


@click.command()
@click.option("--quick", is_flag=True, help="Leave out what has to be asked on the nodes of Ray.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(quick: bool, as_json: bool) -> int:
    """Check all that jobs need, and name the remedy for what is wrong.

    Looks at Redis, dispatcher, Ray, storage and clocks, and starts nothing. Exit 1 when work would be lost
    or could not be done.
    """
    from bertjobs.stack.doctor.examine import (
        examine,  # what it looks at takes longer to import than other commands
    )

    checks = []
    for check in examine(load_settings(), on_nodes=not quick):
        checks.append(check)
        if not as_json:
            print_check(check)
    is_well = all(check.verdict != "broken" for check in checks)
    if as_json:
        print_json({"is_well": is_well, "checks": [asdict(check) for check in checks]})
    return 0 if is_well else 1
