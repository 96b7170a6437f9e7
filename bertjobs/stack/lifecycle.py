"""Start, repair and stop the stack. The members are described in the modules named after them.

Every change happens under one file lock. A command that finds all members alive takes no lock and starts
nothing.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bertjobs.errors import ConfigError, QueueError
from bertjobs.settings import Settings, thread_environment
from bertjobs.stack import lock, process, ray_head, redis_server
from bertjobs.stack.paths import StackPaths, stack_paths
from bertjobs.stack.process import ProcessRecord, read_record

MEMBERS = ("redis", "ray", "dispatcher", "watchdog")
"""In the order in which they start; they stop in the opposite order."""
_FORMER_MEMBERS = ("keeper",)
"""The watchdog's name in earlier versions. One that still runs would restart what `down` stops."""

_LOCK_S = 120.0
_STOP_S = {"keeper": 3.0, "watchdog": 3.0, "dispatcher": 10.0, "ray": 6.0}
_RAY_START_S = 120.0

Announce = Callable[[str], None]


@dataclass(frozen=True)
class StackAddresses:
    """The addresses of Redis and Ray, embedded or shared."""

    redis_url: str
    ray_address: str | None
    """Of the dashboard and its Jobs API; None for an embedded stack whose Ray was never started."""

    @property
    def dashboard_url(self) -> str | None:
        return self.ray_address

    def fill(self, settings: Settings) -> Settings:
        """Return the settings with these addresses."""
        return replace(settings, redis_url=self.redis_url, ray_address=self.ray_address)


def ensure(settings: Settings, *, announce: Announce, need_ray: bool = True) -> StackAddresses:
    """Start the missing members; return when Redis answers, while Ray may still be starting.

    With shared addresses nothing is started and no connection is made. `announce` gets a line when something
    starts.

    Raises: ConfigError: one address without the other. QueueError, StorageError: a member cannot be started.
    """
    if not settings.is_embedded:
        return _shared(settings)
    paths = stack_paths(settings)
    members = MEMBERS if need_ray else MEMBERS[:1]
    if not (_all_alive(paths, members) and redis_server.answers(paths.redis_socket)):
        paths.make_folders()
        with _start_lock(paths) as fd:
            start_missing(settings, members=members, lock_fd=fd, announce=announce)
    ray = read_record(paths.record_file("ray"))
    return StackAddresses(redis_server.url_of(paths), None if ray is None else ray.address)


def running_redis(settings: Settings) -> str | None:
    """Return the address of the embedded Redis; None where it was not started."""
    paths = stack_paths(settings)
    return redis_server.url_of(paths) if paths.redis_socket.exists() else None


def up(settings: Settings, *, announce: Announce, timeout_s: float = _RAY_START_S) -> StackAddresses:
    """Start the missing members, and wait until Ray accepts jobs.

    Raises: as `ensure`. QueueError: Ray ended while starting, or has no node after `timeout_s`.
    """
    addresses = ensure(settings, announce=announce)
    if not settings.is_embedded:
        return addresses
    paths = stack_paths(settings)
    token, end = ray_head.read_token(paths), time.monotonic() + timeout_s
    ray = read_record(paths.record_file("ray"))
    while ray is not None and ray.address and not ray_head.is_ready(ray.address, token=token):
        if not ray.is_alive or time.monotonic() > end:
            how = f"has no node after {timeout_s:.0f} s" if ray.is_alive else "ended while starting"
            raise QueueError(
                f"Ray {how}. Its log, {ray.log}, ends with:\n{process.tail(ray.log, num_lines=12)}"
            )
        time.sleep(0.1)
        ray = read_record(paths.record_file("ray"))
    return ensure(settings, announce=announce)


def down(settings: Settings, *, announce: Announce) -> bool:
    """Stop all members in order and wait until they have ended; return whether one was running.

    Raises: ConfigError: Redis and Ray are shared. QueueError: a process does not end.
    """
    if not settings.is_embedded:
        raise ConfigError(
            "The addresses are those of a shared Redis and Ray, which are not stopped from here",
            hint="Unset BERTJOBS_REDIS_URL and BERTJOBS_RAY_ADDRESS to stop the embedded stack.",
        )
    paths = stack_paths(settings)
    if not paths.stack_dir.exists():
        return False
    with _start_lock(paths):
        was_running = False
        for member in (*_FORMER_MEMBERS, *reversed(MEMBERS)):
            was_running |= _stop(paths, member, announce=announce)
    return was_running


def start_missing(settings: Settings, *, members: Sequence[str], lock_fd: int, announce: Announce) -> None:
    """Start those of `members` that are not running. The caller holds the start lock.

    Raises: QueueError, StorageError: a member cannot be started.
    """
    paths = stack_paths(settings)
    records = {member: read_record(paths.record_file(member)) for member in MEMBERS}
    missing = [m for m in members if not _is_alive(records[m])]
    if missing:
        died = [m for m in missing if records[m] is not None]
        what = f"Restarting {', '.join(died)}, which ended," if died else f"Starting {_names(missing)}"
        announce(f"{what} under {paths.home}; `bertjobs cluster down` stops it.")
    redis = records["redis"]
    if redis is not None and "redis" not in missing:
        redis_server.wait_ready(paths, redis)
    if "redis" in missing:
        redis_server.start(paths, environ=_environment(settings, "redis"), lock_fd=lock_fd)
    if "ray" in missing:
        _start_ray(settings, paths, last=records["ray"], lock_fd=lock_fd)
    if "dispatcher" in members:
        _start_dispatcher(settings, paths, lock_fd=lock_fd)
    if "watchdog" in missing:
        _start_python(settings, paths, "watchdog", module="bertjobs.stack.watchdog", lock_fd=lock_fd)


def _start_ray(settings: Settings, paths: StackPaths, *, last: ProcessRecord | None, lock_fd: int) -> None:
    # Processes that a killed head left behind would keep its ports and processors.
    process.stop_descendants("ray", home=paths.home, leader=last, grace_s=2.0)
    ray_head.prepare(paths)
    ports = ray_head.pick_ports(paths, last=last)
    environ = _environment(settings, "ray", ray_address=ray_head.url_of(ports))
    process.start(
        paths.record_file("ray"), argv=ray_head.command(paths, ports=ports), environ=environ,
        cwd=paths.stack_dir, log=paths.log_file("ray"), lock_fds=[lock_fd],
        address=ray_head.url_of(ports), ports=ports,
    )  # fmt: skip


def _start_dispatcher(settings: Settings, paths: StackPaths, *, lock_fd: int) -> None:
    ray, running = read_record(paths.record_file("ray")), read_record(paths.record_file("dispatcher"))
    if running is not None and running.is_alive:
        if ray is not None and running.address == ray.address:
            return
        process.stop(running, grace_s=_STOP_S["dispatcher"])  # it serves a Ray on other ports
    _start_python(settings, paths, "dispatcher", module="bertjobs.jobs.dispatcher.loop", lock_fd=lock_fd)


def _start_python(settings: Settings, paths: StackPaths, member: str, *, module: str, lock_fd: int) -> None:
    ray = read_record(paths.record_file("ray"))
    address = ray.address if ray is not None and member == "dispatcher" else None
    environ = _environment(settings, member, ray_address=address)
    process.start(
        paths.record_file(member), argv=_python_command(module), environ=environ,
        cwd=paths.stack_dir, log=paths.log_file(member), lock_fds=[lock_fd], address=address,
    )  # fmt: skip


def _python_command(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


def _stop(paths: StackPaths, member: str, *, announce: Announce) -> bool:
    record = read_record(paths.record_file(member))
    if member == "redis" and not _is_alive(record):
        record = redis_server.adopt(paths)
    was_running = _is_alive(record)
    if record is not None and was_running:
        announce(f"Stopping {member}.")
        if member == "redis":
            redis_server.stop(paths, record)
        else:
            process.stop(record, grace_s=_STOP_S[member])
    was_running |= process.stop_descendants(member, home=paths.home, leader=record, grace_s=2.0) > 0
    paths.record_file(member).unlink(missing_ok=True)
    return was_running


def _environment(settings: Settings, member: str, *, ray_address: str | None = None) -> dict[str, str]:
    """Build a member's environment; Ray's is also that of the drivers.

    The user's own RAY_* and BERTJOBS_* are left out: they are meant for another Ray, or for this command
    only.
    """
    paths = stack_paths(settings)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "BERTJOBS_"))}
    ours = {
        process.MEMBER_VARIABLE: f"{member}@{paths.home}",
        "BERTJOBS_HOME": str(settings.home),
        "BERTJOBS_STORAGE": settings.storage,
        "BERTJOBS_CACHE": str(settings.cache),
        "BERTJOBS_LEASE_S": repr(settings.lease_s),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": ",".join(filter(None, [kept.get("NO_PROXY"), "127.0.0.1,localhost"])),
    }
    if settings.metrics_port is not None:
        ours["BERTJOBS_METRICS_PORT"] = str(settings.metrics_port)
    if settings.test_precision is not None:
        ours["BERTJOBS_TEST_PRECISION"] = settings.test_precision
    if ray_address is not None:
        ours |= {"BERTJOBS_REDIS_URL": redis_server.url_of(paths), "BERTJOBS_RAY_ADDRESS": ray_address}
        ours |= ray_head.environment(paths)
    return thread_environment(kept) | kept | ours


def _shared(settings: Settings) -> StackAddresses:
    if settings.redis_url is None or settings.ray_address is None:
        given, missing = ("BERTJOBS_REDIS_URL", "BERTJOBS_RAY_ADDRESS")[:: 1 if settings.redis_url else -1]
        raise ConfigError(
            f"{given} is set and {missing} is not", hint="Set both to use a shared cluster, or neither."
        )
    return StackAddresses(settings.redis_url, settings.ray_address)


@contextmanager
def _start_lock(paths: StackPaths) -> Iterator[int]:
    busy = f"Another command has been starting or stopping the stack for more than {_LOCK_S:.0f} s."
    with lock.hold(paths.lock, timeout_s=_LOCK_S, busy=busy) as fd:
        yield fd


def _all_alive(paths: StackPaths, members: Sequence[str]) -> bool:
    return all(_is_alive(read_record(paths.record_file(member))) for member in members)


def _is_alive(record: ProcessRecord | None) -> bool:
    return record is not None and record.is_alive


def _names(members: Sequence[str]) -> str:
    names = {"redis": "Redis", "ray": "Ray", "dispatcher": "the dispatcher", "watchdog": "their watchdog"}
    shown = [names[m] for m in members]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
