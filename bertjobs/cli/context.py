"""What commands on the queue share: the job store, the address of the dashboard, and the name of the user."""

import getpass
import os
from dataclasses import replace

from bertjobs.cli.output.render import print_note
from bertjobs.errors import ConfigError
from bertjobs.jobs import documents
from bertjobs.jobs.job import Job
from bertjobs.jobs.queue import JobQueue
from bertjobs.jobs.remote_queue import RemoteQueue
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import ensure, running_redis


def open_queue(*, settings: Settings | None = None, needs_ray: bool = False) -> JobQueue:
    """Open the queue of the server that is set, or else the job store; start the embedded stack where no
    address is set.

    needs_ray: whether the command wants work done, so that Ray has to run too.

    Raises: ConfigError, QueueError, StorageError: Redis is down or refuses us, or the stack does not start.
    """
    settings = settings or load_settings()
    if settings.server is not None:
        return RemoteQueue(settings.server, token=settings.token)
    return connect(stack_settings(settings=settings, needs_ray=needs_ray))


def open_redis() -> JobStore:
    """Open the job store, for what a server's users may not do.

    Raises: as `open_queue`; ConfigError: a server is set.
    """
    settings = load_settings()
    if settings.server is not None:
        raise ConfigError(
            f"BERTJOBS_SERVER={settings.server}: this command needs Redis itself",
            hint="Run it where BERTJOBS_REDIS_URL is set, and unset BERTJOBS_SERVER.",
        )
    return connect(stack_settings(settings=settings))


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
    settings = load_settings()
    if settings.server is not None:
        return documents.dashboard_page(job, address=f"{settings.server.rstrip('/')}/ray")
    address = ensure(settings, announce=print_note, need_ray=False).dashboard_url
    return documents.dashboard_page(job, address=address)


def current_user() -> str:
    """Return the user's name, for `--mine` and as a job's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has a number but no name
        return f"uid-{os.getuid()}"
