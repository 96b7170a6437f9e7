"""`bertjobs cluster` and `bertjobs dispatcher`: the processes that jobs need."""

from typing import Any

import click

from bertjobs.cli.open_queue import dashboard_page, open_queue
from bertjobs.cli.render import print_facts, print_json, print_line, print_note, print_table
from bertjobs.cli.sharing import clean, drain, limit, undrain
from bertjobs.cli.words import printable
from bertjobs.errors import QueueError
from bertjobs.settings import load_settings

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


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
    from bertjobs.jobs.dispatcher import main

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
