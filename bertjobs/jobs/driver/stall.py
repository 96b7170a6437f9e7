"""Whether an attempt that is alive makes no progress, and what the processes of such an attempt were doing.

The driver's heartbeat process decides, not the dispatcher: it is beside the driver, so that the stacks of
the driver get into the log before it ends, and with every beat it asks Redis, where rank 0 reports its steps
from whichever node. Where the driver does not obey, the heartbeat kills it, and the dispatcher finds in Redis
why. A heartbeat that is silent itself is the dispatcher's to notice, by the lease.
"""

import faulthandler
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from bertjobs.jobs.job import STARTING_WORKERS
from bertjobs.jobs.store.lease_store import Beat

STEPS = 20
"""Median times between two reports of steps after which no report means a stall, where that is longer than
the stall timeout. A report is a step, on CUDA up to 20."""
CONFIRM_S = 60.0
"""How long a stall must be seen without a gap: after an outage of Redis the last report is old, and drivers
need a moment to report again."""
DUMP_RATIO = 0.9
"""Part of the stall timeout after which a worker writes its stacks: before the driver is stopped."""


class StallRule:
    """Decides, beat by beat, whether an attempt is stalled."""

    def __init__(self, *, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._seen_since: float | None = None

    def is_stalled(self, beat: Beat) -> bool:
        """Return whether no progress was made for too long. Starting workers has a deadline of its own."""
        limit_s = max(self._timeout_s, STEPS * (beat.step_s or 0.0))
        if beat.phase == STARTING_WORKERS or beat.idle_s < limit_s:
            self._seen_since = None
            return False
        if self._seen_since is None:
            self._seen_since = self._clock()
        return self._clock() - self._seen_since >= min(CONFIRM_S, self._timeout_s)

    def forget(self) -> None:
        """Start again: Redis could not be asked, so nobody could report."""
        self._seen_since = None


class StepTimes:
    """The median time between the last reports of steps."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=51)
        self._last: tuple[float, int] | None = None

    def add(self, step: int) -> None:
        """Count a report; several of the same step are one."""
        now = self._clock()
        if self._last is not None:
            if step == self._last[1]:
                return
            self._times.append(now - self._last[0])
        self._last = (now, step)

    def median_s(self) -> float | None:
        """Return it; None before there are five, as the first steps compile."""
        return median(self._times) if len(self._times) >= 5 else None


@contextmanager
def dumping_stacks(timeout_s: float) -> Iterator[Callable[[], None]]:
    """Write the stacks of all threads of this process to stderr once nothing was noted for most of
    `timeout_s`; yields the function that notes.

    The timer is a thread of C, which needs no lock of Python: a process that hangs in a collective operation
    writes its stacks too.
    """
    armed_at = float("-inf")

    def note() -> None:
        nonlocal armed_at
        if time.monotonic() - armed_at >= 1.0:
            armed_at = time.monotonic()
            faulthandler.dump_traceback_later(DUMP_RATIO * timeout_s)

    note()
    try:
        yield note
    finally:
        faulthandler.cancel_dump_traceback_later()
