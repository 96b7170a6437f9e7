"""`bertjobs logs`: the copy of the driver's log that the dispatcher keeps in the job's folder, by attempt."""

import time

import click

from bertjobs.cli.context import open_queue
from bertjobs.cli.main import INTERRUPTED
from bertjobs.cli.output.render import print_bytes, print_note
from bertjobs.cli.params import job_argument
from bertjobs.errors import QueueError
from bertjobs.jobs.dispatcher.driver_log import log_name
from bertjobs.jobs.job import Job
from bertjobs.jobs.queue import JobQueue, read_log

POLL_S = 0.5


@click.command()
@job_argument()
@click.option("-f", "--follow", is_flag=True, help="Print what is added until the job has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Log of this attempt; default: the latest.")
def logs(job: str, follow: bool, attempt: int | None) -> int:
    """Print the log of a job."""
    store = open_queue(needs_ray=follow)
    found = store.get(job)
    if attempt is not None and attempt > found.num_attempts:
        raise QueueError(
            f"--attempt {attempt}: {found.id} has had {_attempts(found.num_attempts)}",
            hint=f"`bertjobs status {found.id}` shows its attempts.",
        )
    try:
        if follow:
            _follow(store, found, attempt=attempt or max(1, found.num_attempts))
        elif not _print_from(store, found, attempt or found.num_attempts, start=0):
            print_note(f"{found.id} is {found.state} and has no log yet.")
        _warn_if_incomplete(store.get(found.id), attempt)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _follow(store: JobQueue, job: Job, *, attempt: int) -> None:
    """Print what is added until the job has ended and its last line was copied; then any later attempts."""
    start = 0
    while True:
        # Before the log is read: a line that was copied in between is then printed too.
        is_last_read = _is_final(job, attempt)
        start += _print_from(store, job, attempt, start=start)
        if is_last_read and job.num_attempts > attempt:
            attempt, start = attempt + 1, 0
            print_note(f"-- attempt {attempt} --")
        elif is_last_read and job.state.is_terminal:
            return
        else:
            time.sleep(POLL_S)
            job = store.get(job.id)


def _is_final(job: Job, attempt: int) -> bool:
    """Return whether nothing will be added to the log: its copy has ended, or there will be none."""
    if job.num_attempts < attempt:
        return job.state.is_terminal
    return job.attempts[attempt - 1].log_is_final


def _warn_if_incomplete(job: Job, attempt: int | None) -> None:
    found = job.attempts[(attempt or job.num_attempts) - 1] if job.attempts else None
    if found is not None and found.log_is_final and not found.log_is_complete:
        print_note(
            f"The log of attempt {found.number} is incomplete: its end could not be copied from Ray to "
            f"{job.job_dir.path_of(log_name(found.number))}."
        )


def _print_from(store: JobQueue, job: Job, attempt: int, *, start: int) -> int:
    """Print the log from a byte on; return how many bytes were printed."""
    content = read_log(store, job, attempt, start=start)
    print_bytes(content)
    return len(content)


def _attempts(count: int) -> str:
    return f"{count} attempt{'' if count == 1 else 's'}"
