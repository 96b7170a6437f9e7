"""What commands on the queue share: the job store, the address of the dashboard, and the name of the user."""

import getpass
import os
from dataclasses import replace

from bertjobs.cli.output.render import print_note
from bertjobs.jobs import documents
from bertjobs.jobs.job import Job
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import ensure, running_redis


def open_queue(*, settings: Settings | None = None, needs_ray: bool = False) -> JobStore:
    """Open the job store; start the embedded stack where no addresses are set.

    needs_ray: whether the command wants work done, so that Ray has to run too.

    Raises: ConfigError, QueueError, StorageError: Redis is down or refuses us, or the stack does not start.
    """
    return connect(stack_settings(settings=settings, needs_ray=needs_ray))


def stack_settings(*, settings: Settings | None = None, needs_ray: bool = False) -> Settings:
    """Return the settings with the addresses of Redis and Ray; start the embedded stack where none are set.

    Raises: as `open_queue`.
    """
    settings = settings or load_settings()
    addresses = ensure(settings, announce=print_note, need_ray=needs_ray)
    return addresses.fill(settings)


def open_running_queue(*, timeout_s: float) -> JobStore:
    """Open the job store if it answers soon; never start a stack.

    Raises: ConfigError, QueueError: there is none, or it does not answer in time.
    """
    settings = load_settings()
    if settings.is_embedded:
        settings = replace(settings, redis_url=running_redis(settings))
    return connect(settings, timeout_s=timeout_s)


def dashboard_page(job: Job) -> str | None:
    """Return the page of a job's latest attempt on Ray's dashboard; None before it, or without Ray."""
    address = ensure(load_settings(), announce=print_note, need_ray=False).dashboard_url
    return documents.dashboard_page(job, address=address)


def current_user() -> str:
    """Return the user's name, for `--mine` and as a job's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has a number but no name
        return f"uid-{os.getuid()}"
