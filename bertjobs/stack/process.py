"""Members as processes: start, record, signals and end. Knows nothing of what the members do.

A record identifies a process by pid *and* start time. A pid alone is never trusted and never sent a signal.
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
from bertjobs.stack.paths import unwritable_home
from bertjobs.storage import write_atomically

MEMBER_VARIABLE = "BERTJOBS_STACK_MEMBER"
"""Set to `<member>@<home>` in a member's environment, and so in that of all its descendants in any
session."""

_MAX_LOG_BYTES = 16 << 20
_KILL_WAIT_S = 10.0
_DISK_ERRORS = {str(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)}


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """What a member wrote about itself at its start."""

    pid: int
    started: str
    """Boot and start time, as `launch.started` returns them."""
    since: str
    """ISO-8601 UTC."""
    host: str
    log: str
    address: str | None
    ports: tuple[int, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether this process, not another one under its pid, is still running."""
        return launch.started(self.pid) == self.started


def read_record(path: Path) -> ProcessRecord | None:
    """Read a record; None where there is no valid one."""
    try:
        found = json.loads(path.read_text())
        return ProcessRecord(**{**found, "ports": tuple(found["ports"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None  # a file that a full disk cut short counts as no record


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
) -> ProcessRecord:
    """Start a detached process that writes its own record; return when it has written it.

    It holds `lock_fds` until then, and `kept_fds` for as long as it runs.

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
        number, _, problem = launcher.stderr.strip().partition(" ")
        if number in _DISK_ERRORS:
            raise unwritable_home(record, OSError(int(number), os.strerror(int(number))))
        raise QueueError(f"{argv[0]} cannot be started: {problem}")
    written = read_record(record)
    assert written is not None, f"{record} was written by the launcher"
    return written


def stop(record: ProcessRecord, *, first: signal.Signals = signal.SIGTERM, grace_s: float) -> None:
    """Stop a process: a first signal, then SIGKILL after `grace_s`; return when it has ended.

    Raises: QueueError: it does not end even then.
    """
    for signum, wait_s in ((first, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
        send(record, signum)
        if wait_gone(record, timeout_s=wait_s):
            return
    raise QueueError(
        f"Process {record.pid} does not end, not even after SIGKILL",
        hint="It waits for a disk or a device; see `ps`.",
    )


def send(record: ProcessRecord, signum: signal.Signals) -> None:
    """Send a signal to this process; do nothing if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if record.is_alive:
                os.kill(record.pid, signum)
            return
        fd = os.pidfd_open(
            record.pid
        )  # the race: another process cannot get the pid between check and signal
        try:
            if record.is_alive:
                signal.pidfd_send_signal(fd, signum)
        finally:
            os.close(fd)


def wait_gone(record: ProcessRecord, *, timeout_s: float) -> bool:
    """Wait until a process has ended; return whether it has within `timeout_s`."""
    end = time.monotonic() + timeout_s
    while record.is_alive:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def descendants(member: str, *, home: Path, leader: ProcessRecord | None = None) -> list[ProcessRecord]:
    """Find every process of a member, whether or not the member itself still runs.

    These are the processes in the session of `leader`, and those with the member's mark in their environment:
    that finds drivers in sessions of their own. Neither alone is enough: a process that sets its title, as
    Redis and Ray's workers do, may overwrite what can be read of its environment.
    """
    import psutil  # 15 ms, and most commands stop nothing

    mark, session = f"{member}@{home}", _session_of(leader)
    found = []
    for pid in psutil.pids():
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.Error):  # it has ended meanwhile, or is another user's
            in_session = session is not None and os.getsid(pid) == session
            if in_session or psutil.Process(pid).environ().get(MEMBER_VARIABLE) == mark:
                start_time = launch.started(pid)
                if start_time is not None:
                    found.append(_unrecorded(pid, start_time))
    return found


def _session_of(leader: ProcessRecord | None) -> int | None:
    if leader is None or leader.started.partition(":")[0] != launch.boot():
        return None
    # The kernel does not reuse the number of a session that has members. A running process with that pid
    # which is not the leader means that the session has ended.
    return leader.pid if leader.is_alive or launch.started(leader.pid) is None else None


def identify(pid: int) -> ProcessRecord | None:
    """Return a record of a running process that was found by its pid; None if it has ended."""
    start_time = launch.started(pid)
    return None if start_time is None else _unrecorded(pid, start_time)


def adopt(path: Path, found: ProcessRecord, *, address: str, log: Path) -> ProcessRecord:
    """Write the record of a member whose own was lost."""
    record = replace(found, address=address, log=str(log), host=os.uname().nodename)
    write_atomically(path, json.dumps(asdict(record)).encode())
    return record


def stop_descendants(member: str, *, home: Path, leader: ProcessRecord | None = None, grace_s: float) -> int:
    """Stop all remaining processes of a member; return their number.

    Raises: QueueError: one does not end.
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
    """Return the last lines of a log; empty if there is none."""
    try:
        with Path(log).open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 65536))
            return b"\n".join(f.read().splitlines()[-num_lines:]).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _unrecorded(pid: int, start_time: str) -> ProcessRecord:
    return ProcessRecord(pid=pid, started=start_time, since="", host="", log="", address=None)


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


def as_json(record: ProcessRecord) -> dict[str, Any]:
    """Return what `cluster status` shows of a record."""
    return {"pid": record.pid, "since": record.since, "address": record.address, "log": record.log}
