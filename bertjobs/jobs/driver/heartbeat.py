"""The driver's heartbeat: `python -m bertjobs.jobs.driver.heartbeat JOB ATTEMPT TOKEN PID`, a process that a
busy step loop cannot starve. It renews the lease until its stdin closes, which happens also when the driver
is killed.

It sends SIGTERM to the driver (PID) once the job is cancelled or the token is refused, with the word for it
on stdout, and kills one that holds no lease and has not left after a while: two attempts must never write at
once.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from bertjobs.errors import LeaseLost
from bertjobs.jobs.store.connection import RedisDown, open_connection, patiently
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.settings import load_settings

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 5
"""Beats that fit into a lease: so many may be lost before anyone asks."""
LEAVE_S = 30.0
"""How long a driver without a lease may take to clean up."""


def main() -> None:
    """Beat for the attempt on the command line."""
    job_id, attempt, token, pid = sys.argv[1], *(int(word) for word in sys.argv[2:5])
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {job_id} attempt {attempt}: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver; we end when it does
    settings = load_settings()
    connection = patiently(lambda: open_connection(settings), for_s=float("inf"))
    store = LeaseStore(connection, job_id=job_id, attempt=attempt, token=token, lease_s=settings.lease_s)
    beat(
        store.report,
        tell=_say,
        wait=_wait_for_driver(settings.lease_s / BEATS_PER_LEASE),
        kill=lambda signum: os.kill(pid, signum),
        clock=time.monotonic,
    )


def beat(
    report: Callable[[], str],
    *,
    tell: Callable[[str], None],
    wait: Callable[[], bool],
    kill: Callable[[int], None],
    clock: Callable[[], float],
) -> None:
    """Report until the driver has gone or ended its attempt; pass on what it must know.

    `tell` says why, in a word, before `kill` sends a signal.
    `wait` sleeps for one beat and answers whether the driver is still there.
    """
    was_told, leave_by = False, float("inf")
    while True:
        try:
            command = report()
            if command == "ended":
                return
            if command == "cancel" and not was_told:
                logger.info("cancelled; telling the driver")
                was_told = True
                tell("cancel")
                kill(signal.SIGTERM)
        except RedisDown as e:
            logger.warning("no heartbeat: %s", e.message)
        except LeaseLost:
            if leave_by == float("inf"):
                logger.error("the lease is lost; telling the driver to leave")
                leave_by = clock() + LEAVE_S
                tell("lost")
                kill(signal.SIGTERM)
            elif clock() >= leave_by:
                logger.error("the driver has not left; killing it")
                kill(signal.SIGKILL)
                return
        if not wait():
            return


def _say(word: str) -> None:
    os.write(sys.stdout.fileno(), f"{word}\n".encode())


def _wait_for_driver(beat_s: float) -> Callable[[], bool]:
    """Sleep on stdin, which the driver holds open and never writes to."""
    return lambda: not select.select([sys.stdin], [], [], beat_s)[0]


if __name__ == "__main__":
    main()
