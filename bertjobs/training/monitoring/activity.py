"""Signs of life of the work in this process: a step, a batch of an evaluation, a checkpoint.

The loops call `note` and do not know who listens: the worker's reporter, so that a long evaluation is not
taken for one that hangs, and the timer that writes the stacks of a process that does. A module, not a
parameter: whatever a process computes, it has one such state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


def note() -> None:
    """Note that the work of this process has advanced. Cheap: called once per batch."""
    for listener in _listeners:
        listener()


@contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
    """Call the listener whenever the work advances, for the duration of the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
