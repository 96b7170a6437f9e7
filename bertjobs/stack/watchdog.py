"""The watchdog of the stack: `python -m bertjobs.stack.watchdog`.

It restarts members that have ended, with a growing delay if they keep ending, and stops all of them if the
home is deleted. The watchdog itself is restarted by the next command that needs the stack.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from bertjobs.errors import BertjobsError
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import lifecycle, lock, process
from bertjobs.stack.paths import stack_paths
from bertjobs.stack.process import ProcessRecord, read_record

log = logging.getLogger(__name__)

WATCHED = tuple(m for m in lifecycle.MEMBERS if m != "watchdog")
_CHECK_INTERVAL_S = 1.0
_MAX_DELAY_S = 60.0
_RESET_S = 120.0


def main() -> None:
    """Check the members once a second until the stack is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings()
    restarts: dict[str, list[float]] = {member: [] for member in WATCHED}
    known: dict[str, ProcessRecord] = {}
    while True:
        time.sleep(_CHECK_INTERVAL_S)
        if not stack_paths(settings).stack_dir.exists():
            _stop_all(known, home=settings.home)
            return
        if not _is_current(settings):
            return
        known = _records(settings)
        due = restarts_due(known, restarts, now=time.monotonic())
        if due:
            _restart(settings, due)


def restarts_due(
    known: Mapping[str, ProcessRecord], restarts: dict[str, list[float]], *, now: float
) -> list[str]:
    """Return the members to restart now, and add the time to `restarts`.

    The first restart is immediate, the following ones after 2, 4, 8 ... 60 s; two quiet minutes reset the
    delay.
    """
    due = []
    for member in WATCHED:
        if member in known and known[member].is_alive:
            continue
        recent = [t for t in restarts[member] if now - t < _RESET_S + _MAX_DELAY_S]
        if not recent or now - recent[-1] >= delay_s(len(recent)):
            restarts[member] = [*recent, now]
            due.append(member)
    return due


def delay_s(num_restarts: int) -> float:
    """Return how long after its last restart a member that ended again is restarted."""
    return min(_MAX_DELAY_S, 2.0**num_restarts)


def _restart(settings: Settings, members: list[str]) -> None:
    fd = lock.open_lock(stack_paths(settings).lock)
    try:
        if lock.try_lock(fd) and _is_current(settings):  # otherwise a command is starting or stopping members
            wanted = [m for m in WATCHED if m in members]
            lifecycle.start_missing(settings, members=wanted, lock_fd=fd, announce=log.warning)
    except BertjobsError as e:
        log.error("%s", e)
    finally:
        lock.close(fd)


def _is_current(settings: Settings) -> bool:
    record = read_record(stack_paths(settings).record_file("watchdog"))
    return record is not None and record.pid == os.getpid()


def _records(settings: Settings) -> dict[str, ProcessRecord]:
    records = {member: read_record(stack_paths(settings).record_file(member)) for member in WATCHED}
    return {member: record for member, record in records.items() if record is not None}


def _stop_all(known: Mapping[str, ProcessRecord], *, home: Path) -> None:
    for member in reversed(WATCHED):
        if member in known:
            process.stop(known[member], grace_s=10.0)
            process.stop_descendants(member, home=home, leader=known[member], grace_s=5.0)


if __name__ == "__main__":
    main()
