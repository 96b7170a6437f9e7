"""`bertjobs logs`: the log that the dispatcher keeps beside a job's artefacts, an attempt after the other."""

import time

import click

from bertjobs.cli.context import open_queue
from bertjobs.cli.main import INTERRUPTED
from bertjobs.cli.output.render import print_bytes, print_note
from bertjobs.errors import QueueError
from bertjobs.jobs.job import Job
from bertjobs.jobs.store.job_store import JobStore

POLL_S = 0.5


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Stay and print what is added, until the job has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt's; default: the latest.")
def logs(job: str, follow: bool, attempt: int | None) -> int:
    """Print the log of a job."""
    store = open_queue(needs_ray=follow)
    found = store.get(job)
    number = attempt or found.num_attempts
    if attempt is not None and attempt > found.num_attempts:
        raise QueueError(
            f"--attempt {attempt}: {found.id} has had {found.num_attempts} attempt(s).",
            hint=f"`bertjobs status {found.id}` shows them.",
        )
    try:
        if follow:
            _follow(store, found, number=max(1, number))
        elif not _print_from(found, number, start=0):
            print_note(f"{found.id} is {found.state} and has no log yet.")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _follow(store: JobStore, job: Job, *, number: int) -> None:
    """Print what is added until the job has ended and the last line was copied; go on to later attempts."""
    start = 0
    while True:
        is_last_look = _is_complete(job, number)
        start += _print_from(job, number, start=start)
        if is_last_look and job.num_attempts > number:
            number, start = number + 1, 0
            print_note(f"-- attempt {number} --")
        elif is_last_look and job.state.is_terminal:
            return
        else:
            time.sleep(POLL_S)
            job = store.get(job.id)


def _is_complete(job: Job, number: int) -> bool:
    """Return whether nothing will be added: the attempt's log was copied to its end, or there was none."""
    if job.num_attempts < number:
        return job.state.is_terminal
    return job.attempts[number - 1].log_is_complete


def _print_from(job: Job, number: int, *, start: int) -> int:
    """Print the log from a byte on; return how many bytes there were."""
    name = f"logs/a{number}.log"
    if not job.job_dir.exists(name):
        return 0
    content = job.job_dir.read_bytes(name)[start:]
    print_bytes(content)
    return len(content)
