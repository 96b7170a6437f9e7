"""`bertjobs wait`: stay until a job has ended; the exit code is the job's."""

import click

from bertjobs.cli.follow import wait_for
from bertjobs.cli.open_queue import open_queue


@click.command()
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document when it has ended.")
def wait(job: str, as_json: bool) -> int:
    """Wait until a job has ended; exit 1 if it did not succeed.

    Ctrl-C stops the waiting, not the job.
    """
    return wait_for(open_queue(needs_ray=True), job, as_json=as_json)
