"""File locks."""

import pytest

from bertjobs import stack
from bertjobs.stack import lock


def test_a_lock_that_is_held_too_long_is_an_error(paths):
    paths.make_folders()
    with (
        lock.hold(paths.lock, timeout_s=1, busy=""),
        pytest.raises(stack.lifecycle.QueueError, match="someone else is at it"),
        lock.hold(paths.lock, timeout_s=0.05, busy="someone else is at it"),
    ):
        pytest.fail("two hold one lock")
