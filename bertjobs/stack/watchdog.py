"""Keep the stack whole while no command is looking: `python -m bertjobs.stack.watchdog`.

A loop that restarts members which have ended, ever later if they keep ending, and ends all of them if the
home is removed under them. It is itself restarted by the next command that needs the stack.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from bertjobs.errors import BertjobsError
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import lifecycle, lock, process
from bertjobs.stack.home import layout_of
from bertjobs.stack.process import Record, read_record

log = logging.getLogger(__name__)

KEPT = tuple(m for m in lifecycle.MEMBERS if m != "keeper")
_LOOK_S = 1.0
_LONGEST_WAIT_S = 60.0
_FORGIVEN_S = 120.0


def main() -> None:
    """Look at the members once a second until someone takes them down."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings()
    deaths: dict[str, list[float]] = {member: [] for member in KEPT}
    known: dict[str, Record] = {}
    while True:
        time.sleep(_LOOK_S)
        if not layout_of(settings).stack_dir.exists():
            _end_all(known, home=settings.home)
            return
        if not _is_mine(settings):
            return
        known = _look(settings)
        due = restarts_due(known, deaths, now=time.monotonic())
        if due:
            _restart(settings, due)


def restarts_due(known: Mapping[str, Record], deaths: dict[str, list[float]], *, now: float) -> list[str]:
    """Name the members to restart now, and note the time of it in `deaths`.

    The first restart comes at once, the following ones after 2, 4, 8 ... 60 s; two quiet minutes forgive all.
    """
    due = []
    for member in KEPT:
        if member in known and known[member].is_alive:
            continue
        recent = [t for t in deaths[member] if now - t < _FORGIVEN_S + _LONGEST_WAIT_S]
        if not recent or now - recent[-1] >= wait_s(len(recent)):
            deaths[member] = [*recent, now]
            due.append(member)
    return due


def wait_s(num_deaths: int) -> float:
    """Return how long after its last restart a member that ended again stays down."""
    return min(_LONGEST_WAIT_S, 2.0**num_deaths)


def _restart(settings: Settings, members: list[str]) -> None:
    fd = lock.open_lock(layout_of(settings).lock)
    try:
        if lock.try_lock(fd) and _is_mine(settings):  # else a command is at work and will do it
            wanted = [m for m in KEPT if m in members]
            lifecycle.start_missing(settings, members=wanted, lock_fd=fd, announce=log.warning)
    except BertjobsError as e:
        log.error("%s", e)
    finally:
        lock.close(fd)


def _is_mine(settings: Settings) -> bool:
    record = read_record(layout_of(settings).record("keeper"))
    return record is not None and record.pid == os.getpid()


def _look(settings: Settings) -> dict[str, Record]:
    records = {member: read_record(layout_of(settings).record(member)) for member in KEPT}
    return {member: record for member, record in records.items() if record is not None}


def _end_all(known: Mapping[str, Record], *, home: Path) -> None:
    for member in reversed(KEPT):
        if member in known:
            process.stop(known[member], grace_s=10.0)
            process.sweep(member, home=home, leader=known[member], grace_s=5.0)


if __name__ == "__main__":
    main()
