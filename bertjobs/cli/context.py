"""How a command comes to the queue: the configured Redis, or the embedded stack's, started if need be."""

import getpass
import os

from bertjobs.cli.output.render import print_note
from bertjobs.jobs.job import Job
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import ensure


def open_queue(*, settings: Settings | None = None, needs_ray: bool = False) -> JobStore:
    """Open the job store; a command that wants work done also sees to it that there is a Ray to do it.

    Raises: ConfigError, QueueError, StorageError: Redis is down or refuses us, or the stack does not start.
    """
    settings = settings or load_settings()
    addresses = ensure(settings, announce=print_note, need_ray=needs_ray)
    return connect(addresses.fill(settings))


def dashboard_page(job: Job) -> str | None:
    """Return the address of a job's latest attempt on Ray's dashboard; None before the first, or without Ray.

    It holds no token: the dashboard asks for it.
    """
    address = ensure(load_settings(), announce=print_note, need_ray=False).dashboard_url
    if job.attempt is None or address is None:
        return None
    return f"{address.rstrip('/')}/#/jobs/{job.attempt.submission_id}"


def current_user() -> str:
    """Return who asks, for `--mine` and a job's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has a number and no name
        return f"uid-{os.getuid()}"
