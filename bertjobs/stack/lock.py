"""File locks between commands. The kernel releases them when their holder ends, so a crash leaves none
behind."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bertjobs.errors import QueueError
from bertjobs.stack.paths import unwritable_home

_POLL_S = 0.01


@contextlib.contextmanager
def hold(path: Path, *, timeout_s: float, busy: str) -> Iterator[int]:
    """Hold a lock for the duration of the block; yield its file descriptor, so that children can hold it too.

    Raises: QueueError: another process has held it for `timeout_s`; `busy` is the message. StorageError: the
        file cannot be opened.
    """
    fd = open_lock(path)
    try:
        end = time.monotonic() + timeout_s
        while not try_lock(fd):
            if time.monotonic() > end:
                raise QueueError(busy, hint=f"The lock is {path}.")
            time.sleep(_POLL_S)
        yield fd
    finally:
        close(fd)


def open_lock(path: Path) -> int:
    """Open a lock file, and create it if missing. Raises: StorageError: it cannot be opened."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise unwritable_home(path, e) from e


def try_lock(fd: int) -> bool:
    """Take the lock if it is free; return whether we have it.

    flock, not lockf: it belongs to the open file, which a child inherits.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close(fd: int) -> None:
    """Close a lock file. Children that inherited it keep the lock."""
    os.close(fd)
