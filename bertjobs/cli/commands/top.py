"""`bertjobs top`: the queue on a terminal, with keys."""

import sys

import click

from bertjobs.cli.context import current_user, open_queue


@click.command()
def top() -> None:
    """Show the queue live, and act on it with keys.

    The list is above; below it is the selected job with its loss so far, or with `l` the end of its log.

    `c` cancels, `h` holds, `r` releases, `t` retries, `p` sets the priority, each after a question; `/`
    filters, `s` sorts, `e` hides ended jobs, `q` quits.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "`bertjobs top` needs a terminal; elsewhere `bertjobs list` prints the queue, and "
            "`bertjobs watch JOB` follows a job"
        )
    open_queue().close()  # so that an address that is wrong is an error of the command, not of its display
    from bertjobs.cli.top.app import TopApp  # textual takes 0.2 s
    from bertjobs.cli.top.queue_reader import QueueReader

    TopApp(QueueReader(open_store=open_queue), user=current_user()).run()
