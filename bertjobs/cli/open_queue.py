"""How a command comes to the queue: the configured Redis, or the embedded stack's, started if need be."""

import getpass
import importlib
import os
import sys

from bertjobs.cli.render import print_note
from bertjobs.jobs.store import JobStore, connect
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import ensure


def open_queue(*, settings: Settings | None = None, needs_ray: bool = False) -> JobStore:
    """Open the job store; a command that wants work done also sees to it that there is a Ray to do it.

    Raises: ConfigError, QueueError, StorageError: Redis is down or refuses us, or the stack does not start.
    """
    settings = settings or load_settings()
    addresses = ensure(settings, announce=print_note, need_ray=needs_ray)
    _import_redis_alone()
    return connect(addresses.fill(settings))


def current_user() -> str:
    """Return who asks, for `--mine` and a job's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has a number and no name
        return f"uid-{os.getuid()}"


def _import_redis_alone() -> None:
    """Import redis-py without OpenTelemetry: 80 ms of the 350 that `bertjobs list` would take.

    redis-py uses it where it finds it, and Ray brings it along; we export no metrics of Redis calls.
    """
    telemetry = "opentelemetry"
    if "redis" in sys.modules or telemetry in sys.modules:
        return
    sys.modules[telemetry] = None  # type: ignore[assignment]  # Python's own sign for a module that is missing
    try:
        importlib.import_module("redis")
    finally:
        del sys.modules[telemetry]
