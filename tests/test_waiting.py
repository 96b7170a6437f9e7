"""Waiting ends with the effect, or when nothing changes any more."""

from itertools import count

import pytest

import waiting
from waiting import wait_until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each look at the clock be a second later, and no sleep take any time."""
    seconds = count()
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(waiting.time, "sleep", lambda _: None)


@pytest.mark.usefixtures("clock")
def test_it_waits_for_as_long_as_something_changes() -> None:
    steps = iter(range(10_000))
    assert wait_until(lambda: next(steps), lambda step: step == 5_000) == 5_000


@pytest.mark.usefixtures("clock")
def test_it_gives_up_when_nothing_changes_and_shows_what_was_seen() -> None:
    with pytest.raises(AssertionError, match=r"nothing has changed for 240 s: stuck\nthe log"):
        wait_until(lambda: "stuck", lambda _: False, describe=lambda: "the log")
