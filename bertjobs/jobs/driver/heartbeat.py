"""The driver's heartbeat process: `python -m bertjobs.jobs.driver.heartbeat JOB ATTEMPT TOKEN PID
STALL_TIMEOUT_S`.

A busy step loop cannot starve it. It renews the lease until its stdin closes, which happens also when the
driver is killed. Once the job is cancelled or the token is refused, it writes `cancel` or `lost` to stdout
and sends SIGTERM to the driver (PID). It kills a driver that has no lease and has not exited after a while:
two attempts must never write at the same time.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from bertjobs.errors import LeaseLost
from bertjobs.jobs.driver.stall import StallRule
from bertjobs.jobs.store.connection import RedisDown, open_connection, retry_while_down
from bertjobs.jobs.store.lease_store import LeaseStore
from bertjobs.settings import load_settings

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 5
"""Heartbeats per lease: all of them have to be lost before the lease expires."""
EXIT_TIMEOUT_S = 30.0
"""How long a driver without a lease may take to exit."""
CANCEL_TIMEOUT_S = 60.0
"""How long the driver of a cancelled job may: three times what the dispatcher waits before it asks Ray."""


def main() -> None:
    """Send heartbeats for the attempt on the command line."""
    job_id, attempt, token, pid = sys.argv[1], *(int(word) for word in sys.argv[2:5])
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {job_id} attempt {attempt}: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver; we end when it ends
    settings = load_settings()
    # Without a limit: if the attempt is ended meanwhile, the first report is refused.
    connection = retry_while_down(lambda: open_connection(settings), for_s=float("inf"))
    store = LeaseStore(connection, job_id=job_id, attempt=attempt, token=token, lease_s=settings.lease_s)
    rule = StallRule(timeout_s=float(sys.argv[5]))
    beat(
        lambda: command_of(store, rule),
        notify=_write_word,
        wait=_wait_for_driver(settings.lease_s / BEATS_PER_LEASE),
        kill=lambda signum: os.kill(pid, signum),
        clock=time.monotonic,
    )


def command_of(store: LeaseStore, rule: StallRule) -> str:
    """Renew the lease and return what the driver is to do: its command, or `stalled`.

    Raises: LeaseLost, RedisDown.
    """
    try:
        found = store.beat()
    except RedisDown:
        rule.forget()
        raise
    if found.command or not rule.is_stalled(found):
        return found.command
    logger.error("no progress for %.0f s in phase %r", found.idle_s, found.phase)
    store.beat(is_stalled=True)  # for the dispatcher, should the driver not be able to end its attempt
    return "stalled"


def beat(
    report: Callable[[], str],
    *,
    notify: Callable[[str], None],
    wait: Callable[[], bool],
    kill: Callable[[int], None],
    clock: Callable[[], float],
) -> None:
    """Report until the driver has exited or ended its attempt, and stop it where it has to stop.

    `notify` passes the reason, one word, before `kill` sends a signal.
    `wait` sleeps for one interval and returns whether the driver is still there.
    """
    was_told, exit_by, kill_at = False, float("inf"), float("inf")
    while True:
        try:
            command = report()
            # The race: the driver has just ended its attempt. It is not stopped like one without a lease.
            if command == "ended":
                return
            if command == "cancel" and not was_told:
                logger.info("the job is cancelled; stopping the driver")
                # Once: a second signal would interrupt the driver while it cleans up.
                was_told, kill_at = True, clock() + CANCEL_TIMEOUT_S
                notify("cancel")
                kill(signal.SIGTERM)
            elif command == "cancel" and clock() >= kill_at:
                # Ray stops it long before; but Ray may have forgotten it.
                logger.error("the driver of the cancelled job has not exited; killing it")
                kill(signal.SIGKILL)
                return
            elif command == "stalled" and exit_by == float("inf"):
                logger.info("the attempt is stalled; the driver writes its stacks and stops")
                exit_by = clock() + EXIT_TIMEOUT_S
                kill(signal.SIGUSR1)  # its stacks, see runs/driver.py
                notify("stalled")
                kill(signal.SIGTERM)
            elif command == "stalled" and clock() >= exit_by:
                logger.error("the driver has not exited; killing it")
                kill(signal.SIGKILL)
                return
        except RedisDown as e:
            # Whether the lease is lost is unknown, so the driver goes on; its writes need a valid token.
            logger.warning("no heartbeat: %s", e.message)
        except LeaseLost:
            if exit_by == float("inf"):
                logger.error("the lease is lost; stopping the driver")
                exit_by = clock() + EXIT_TIMEOUT_S
                # The word before the signal: the driver reads it when the signal arrives.
                notify("lost")
                kill(signal.SIGTERM)
            # A driver that hangs could still write to storage beside the attempt that follows.
            elif clock() >= exit_by:
                logger.error("the driver has not exited; killing it")
                kill(signal.SIGKILL)
                return
        if not wait():
            return


def _write_word(word: str) -> None:
    os.write(sys.stdout.fileno(), f"{word}\n".encode())


def _wait_for_driver(interval_s: float) -> Callable[[], bool]:
    """Wait on stdin, which the driver keeps open and never writes to."""
    return lambda: not select.select([sys.stdin], [], [], interval_s)[0]


if __name__ == "__main__":
    main()
