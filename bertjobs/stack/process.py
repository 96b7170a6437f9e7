"""Members as processes: their records, whether they live, and how they end. Knows pids, not what they serve.

A record names a process by pid *and* start time; a pid alone is never trusted and never sent a signal.
"""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertjobs.errors import QueueError
from bertjobs.stack import launch
from bertjobs.stack.home import home_error
from bertjobs.storage import write_atomically

MEMBER_VARIABLE = "BERTJOBS_STACK_MEMBER"
"""Set to `<member>@<home>` in a member's environment, and so in all its descendants in whatever session."""

_MAX_LOG_BYTES = 16 << 20
_KILL_WAIT_S = 10.0
_DISK_ERRORS = {str(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a member wrote about itself when it started."""

    pid: int
    started: str
    """Boot and start time, as `launch.started` names them."""
    since: str
    """ISO-8601 UTC."""
    host: str
    log: str
    address: str | None
    ports: tuple[int, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether this very process, not another under its pid, is still running."""
        return launch.started(self.pid) == self.started


def read_record(path: Path) -> Record | None:
    """Read a record; None where there is none, or none that a member wrote."""
    try:
        found = json.loads(path.read_text())
        return Record(**{**found, "ports": tuple(found["ports"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # a file cut short by a full disk counts as no record


def start(
    record: Path,
    *,
    log: Path,
    cwd: Path,
    argv: Sequence[str],
    environ: Mapping[str, str],
    lock_fds: Sequence[int],
    kept_fds: Sequence[int] = (),
    address: str | None = None,
    ports: Sequence[int] = (),
) -> Record:
    """Start a detached process that writes its own record; return when it has.

    `lock_fds` are held by it until its record is written, `kept_fds` for as long as it lives.

    Raises: StorageError: the record or the log cannot be written. QueueError: the program cannot be run.
    """  # fmt: skip
    _rotate(log)
    spec = {
        "record": str(record), "log": str(log), "cwd": str(cwd), "argv": list(argv),
        "lock_fds": list(lock_fds), "facts": {"address": address, "ports": list(ports)},
    }  # fmt: skip
    launcher = subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__, json.dumps(spec)],
        env=dict(environ), pass_fds=(*lock_fds, *kept_fds),
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if launcher.returncode != 0:
        number, _, words = launcher.stderr.strip().partition(" ")
        if number in _DISK_ERRORS:
            raise home_error(record, OSError(int(number), os.strerror(int(number))))
        raise QueueError(f"{argv[0]} cannot be started: {words}")
    written = read_record(record)
    assert written is not None, f"{record} was written by the launcher"
    return written


def stop(record: Record, *, first: signal.Signals = signal.SIGTERM, grace_s: float) -> None:
    """End a process: a first signal, then SIGKILL after `grace_s`; return when it is gone.

    Raises: QueueError: it does not go even then.
    """
    for signum, wait_s in ((first, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
        send(record, signum)
        if wait_gone(record, timeout_s=wait_s):
            return
    raise QueueError(
        f"Process {record.pid} does not end, not even on SIGKILL.",
        hint="It waits for a disk or a device; see `ps`.",
    )


def send(record: Record, signum: signal.Signals) -> None:
    """Send a signal to this very process; nothing if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if record.is_alive:
                os.kill(record.pid, signum)
            return
        fd = os.pidfd_open(record.pid)  # no other process can take the pid between look and signal
        try:
            if record.is_alive:
                signal.pidfd_send_signal(fd, signum)
        finally:
            os.close(fd)


def wait_gone(record: Record, *, timeout_s: float) -> bool:
    """Wait for the end of a process; return whether it came in time."""
    end = time.monotonic() + timeout_s
    while record.is_alive:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def descendants(member: str, *, home: Path, leader: Record | None = None) -> list[Record]:
    """Find every process of a member, whether or not the member itself still runs.

    That is: those in the session of `leader`, and those with the member's mark in their environment, which
    finds drivers in sessions of their own. Neither alone is enough: a process that sets its title, as Redis
    and Ray's workers do, may overwrite what shows of its environment.

    Linux only; elsewhere nothing is found and Ray's own clean-up is all there is.
    """
    mark = f"{MEMBER_VARIABLE}={member}@{home}".encode()
    session = _session_of(leader)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            in_session = session is not None and os.getsid(pid) == session
            if in_session or mark in (folder / "environ").read_bytes().split(b"\0"):
                start_time = launch.started(pid)
                if start_time is not None:
                    found.append(_unrecorded(pid, start_time))
    return found


def _session_of(leader: Record | None) -> int | None:
    if leader is None or leader.started.partition(":")[0] != launch.boot():
        return None
    # While a session has members its number is not given to a new process; a living process of that number
    # which is not the leader means that the session is long gone.
    return leader.pid if leader.is_alive or launch.started(leader.pid) is None else None


def identify(pid: int) -> Record | None:
    """Name a running process found by other means than a record."""
    start_time = launch.started(pid)
    return None if start_time is None else _unrecorded(pid, start_time)


def adopt(path: Path, found: Record, *, address: str, log: Path) -> Record:
    """Write the record of a member that has lost its own."""
    record = replace(found, address=address, log=str(log), host=os.uname().nodename)
    write_atomically(path, json.dumps(asdict(record)).encode())
    return record


def sweep(member: str, *, home: Path, leader: Record | None = None, grace_s: float) -> int:
    """End all that is left of a member; return how many processes that were.

    Raises: QueueError: one does not go.
    """
    left = descendants(member, home=home, leader=leader)
    for record in left:
        send(record, signal.SIGTERM)
    end = time.monotonic() + grace_s
    for record in left:
        if not wait_gone(record, timeout_s=max(0.0, end - time.monotonic())):
            stop(record, first=signal.SIGKILL, grace_s=_KILL_WAIT_S)
    return len(left)


def tail(log: str | Path, *, num_lines: int) -> str:
    """Return the last lines of a log; nothing if there is none."""
    try:
        with Path(log).open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 65536))
            return b"\n".join(f.read().splitlines()[-num_lines:]).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _unrecorded(pid: int, start_time: str) -> Record:
    return Record(pid=pid, started=start_time, since="", host="", log="", address=None)


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


def as_json(record: Record) -> dict[str, Any]:
    """Return what `cluster status` shows of a record."""
    return {"pid": record.pid, "since": record.since, "address": record.address, "log": record.log}
