"""`bertjobs cluster drain`, `undrain`, `limit` and `clean`: how the queue is shared, and kept small."""

import time

import click

from bertjobs.cli.duration import Duration
from bertjobs.cli.open_queue import current_user, open_queue
from bertjobs.cli.render import print_json, print_line, print_note, print_table
from bertjobs.cli.words import number, printable
from bertjobs.jobs.sharing import Sharing, SharingStore

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


def _sharing() -> SharingStore:
    return SharingStore(open_queue().connection)


def _running(num_live: int) -> str:
    return "nothing runs" if not num_live else f"{num_live} still {'runs' if num_live == 1 else 'run'}"


def _print_users(found: Sharing, *, only: str | None) -> None:
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
    word = "forgotten" if is_forgotten else "thinned"
    return f"to be {word}" if dry_run else word
