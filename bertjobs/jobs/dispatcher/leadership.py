"""Renewal of the leadership beside the pass, as long as passes are made.

A pass may take longer than the lease, with ten thousand jobs to read or a slow Ray; it must not cost the
leadership. A dispatcher whose passes hang must lose it, so that a standby takes over.
"""

import logging
import threading
import time
from collections.abc import Callable

from bertjobs.errors import BertjobsError
from bertjobs.jobs.store.dispatch_store import DispatchStore

logger = logging.getLogger(__name__)

RENEW_INTERVAL_S = 2.5
MAX_PASS_AGE_S = 30.0
"""How long after its last pass a dispatcher is believed to work."""


class LeadershipRenewal:
    """Renews the leadership in a thread of its own, from `start` to `close`. It never takes it: only a pass
    does, which reads everything again."""

    def __init__(
        self,
        store: DispatchStore,
        *,
        last_pass_at: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._last_pass_at = last_pass_at
        self._clock = clock
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    def close(self) -> None:
        """Stop renewing."""
        self._is_closed.set()

    def renew(self) -> bool:
        """Renew the leadership once if we lead and passes are made. Returns whether it was renewed.

        Raises: RedisDown.
        """
        if not self._store.term or self._clock() - self._last_pass_at() > MAX_PASS_AGE_S:
            return False
        return self._store.renew()

    def _run(self) -> None:
        while not self._is_closed.wait(RENEW_INTERVAL_S):
            try:
                self.renew()
            except BertjobsError as e:
                logger.warning("the leadership is not renewed: %s", e)
            except Exception:  # a border: the thread must survive
                logger.exception("the leadership is not renewed")
