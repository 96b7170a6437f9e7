"""Wait for what other processes do. A test gives up when nothing changes any more, not when a time is over:
on a machine that is busy with other work everything takes longer, and nothing hangs."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 240.0
"""How long nothing may change before a wait is given up; only a hang takes that long."""


def wait_until(
    look: Callable[[], T],
    is_there: Callable[[T], bool] = bool,
    *,
    is_final: Callable[[T], bool] = lambda seen: False,
    interval_s: float = 0.1,
    patience_s: float = PATIENCE_S,
    describe: Callable[[], str] = lambda: "",
) -> T:
    """Look again until what is seen is as it should be, and return it.

    `is_final` says whether what is seen will never be otherwise.

    Raises: AssertionError: what is seen is final, or has stayed the same for `patience_s`.
    """
    seen = look()
    changed_at = time.monotonic()
    while not is_there(seen):
        assert not is_final(seen), f"this will not change any more: {seen}\n{describe()}"
        time.sleep(interval_s)  # for processes outside, not for our own code
        before, seen = seen, look()
        if seen != before:
            changed_at = time.monotonic()
        if time.monotonic() - changed_at > patience_s:
            raise AssertionError(f"nothing has changed for {patience_s:.0f} s: {seen}\n{describe()}")
    return seen
