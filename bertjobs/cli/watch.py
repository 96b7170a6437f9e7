"""`bertjobs watch`: one job live, on stdout."""

import sys

import click

from bertjobs.cli.follow import choose_display, wait_for
from bertjobs.cli.open_queue import open_queue


@click.command()
@click.argument("job")
def watch(job: str) -> int:
    """Follow one job live: step, loss, examples/s, time left.

    A picture on a terminal, plain lines elsewhere. Ctrl-C stops the watching, not the job.
    """
    return wait_for(open_queue(needs_ray=True), job, as_json=False, display=choose_display(sys.stdout))
