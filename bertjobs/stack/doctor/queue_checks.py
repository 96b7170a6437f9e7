"""Whether somebody dispatches, and whether our clock and Redis' agree."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from bertjobs.jobs.dispatcher.loop import LEADER_LEASE_S
from bertjobs.jobs.store.connection import Connection
from bertjobs.stack.doctor.check import Check, broken, ok, warning

CLOCKS_APART_S = 5.0
"""Leases are counted by Redis' clock alone; certificates, tokens and people compare with ours."""


def check_queue(connection: Connection, *, clock: Callable[[], float] = time.time) -> Iterator[Check]:
    """Look at the leader's mark, and at the time."""
    with connection.errors():
        leader: Any = connection.client.get("bj:leader")
        left_ms: Any = connection.client.pttl("bj:leader")
        seconds, micros = connection.client.time()  # type: ignore[misc]
    yield check_leader(leader, left_s=left_ms / 1000)
    yield check_clock("this machine", clock() - (int(seconds) + int(micros) / 1e6))


def check_leader(leader: str | None, *, left_s: float) -> Check:
    """See that somebody leads, and has said so lately."""
    if leader is None:
        remedy = "Start `bertjobs dispatcher`; two of them, so that one stands by."
        return broken("dispatcher", "none leads: no job is started, none is watched", remedy)
    host, pid, *_ = leader.split(":")
    return ok("dispatcher", f"{host} (pid {pid}) leads, heard {LEADER_LEASE_S - left_s:.1f} s ago")


def check_clock(whose: str, ahead_s: float) -> Check:
    """Compare a clock with Redis'."""
    found = f"{whose} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} Redis"
    if abs(ahead_s) > CLOCKS_APART_S:
        return warning("clock", found, "Run a time service (chrony, systemd-timesyncd) on both.")
    return ok("clock", found)
