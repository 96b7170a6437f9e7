"""File locks between commands. The kernel drops them with their holder, so a crash leaves none behind."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bertjobs.errors import QueueError
from bertjobs.stack.home import home_error

_POLL_S = 0.01


@contextlib.contextmanager
def hold(path: Path, *, timeout_s: float, busy: str) -> Iterator[int]:
    """Hold a lock for the time of the block; give its file descriptor, for children to hold it as well.

    Raises: QueueError: someone else has held it for `timeout_s`; `busy` says who that may be.
        StorageError: the file cannot be opened.
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
    """Open a lock file, made if missing. Raises: StorageError: it cannot be."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise home_error(path, e) from e


def try_lock(fd: int) -> bool:
    """Take the lock if it is free; return whether we have it.

    flock, not lockf: it belongs to the open file and goes to a child with it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close(fd: int) -> None:
    """Let go of a lock file; the lock stays with children that hold it."""
    os.close(fd)
