"""Limit how often values that replace each other are sent, without losing the last of them.

A module of its own because the session under a lease, a foreground run and the trials of a search use it.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

PROGRESS_INTERVAL_S = 0.25
"""Least time between two reports of progress; the first and the last step are reported at once."""

Values = Mapping[str, Any]


class Throttle:
    """Sends the newest values at most once per interval, and keeps those that it has not sent.

    Values that come too soon replace the ones kept. They are sent with the next `put` after the interval,
    or by `flush`, which the owner calls where nothing may follow: at the end of a phase and of the process.
    """

    def __init__(
        self,
        send: Callable[[Values], None],
        *,
        interval_s: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._send, self._interval_s = send, interval_s
        self._clock = clock or time.monotonic
        self._kept: Values | None = None
        self.sent_at = float("-inf")

    def put(self, values: Values, *, at_once: bool = False) -> None:
        """Send the values, or keep them. at_once: whatever the interval."""
        self._kept = values
        if at_once or self._clock() - self.sent_at >= self._interval_s:
            self.flush()

    def flush(self) -> None:
        """Send what was kept."""
        if self._kept is None:
            return
        # Taken out before sending: a refused lease raises here, and must not raise again from `close`.
        values, self._kept = self._kept, None
        self.sent_at = self._clock()
        self._send(values)


def is_last_step(values: Values) -> bool:
    """Return whether progress says that no step remains."""
    return bool(values["step"] == values.get("num_steps"))
