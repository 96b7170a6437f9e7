"""Values that replace each other, with a clock of the test's own."""

import pytest

from bertjobs.jobs.driver.throttle import Throttle, is_last_step


class Sink:
    """What was sent, and the time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.steps: list[int] = []
        self.throttle = Throttle(
            lambda values: self.steps.append(values["step"]), interval_s=1.0, clock=lambda: self.now_s
        )

    def put(self, step: int, *, at_s: float, at_once: bool = False) -> None:
        self.now_s = at_s
        self.throttle.put({"step": step}, at_once=at_once)


def test_the_first_values_are_sent_and_the_next_ones_wait_for_the_interval() -> None:
    sink = Sink()
    for step, at_s in enumerate((0.0, 0.1, 0.9, 1.0, 1.1), start=1):
        sink.put(step, at_s=at_s)
    assert sink.steps == [1, 4]


def test_a_flush_sends_the_newest_values_once() -> None:
    sink = Sink()
    for step in (1, 2, 3):
        sink.put(step, at_s=0.0)
    sink.throttle.flush()
    sink.throttle.flush()
    assert sink.steps == [1, 3]


def test_values_that_cannot_wait_are_sent_and_replace_those_kept() -> None:
    sink = Sink()
    sink.put(1, at_s=0.0)
    sink.put(2, at_s=0.1)
    sink.put(3, at_s=0.2, at_once=True)
    sink.throttle.flush()
    assert sink.steps == [1, 3]


def test_values_that_were_refused_are_not_sent_again() -> None:
    def refuse(_: object) -> None:
        raise ConnectionError

    throttle = Throttle(refuse, interval_s=1.0)
    with pytest.raises(ConnectionError):
        throttle.put({"step": 1})
    throttle.flush()


def test_the_last_step_is_known_where_the_number_of_steps_is() -> None:
    assert is_last_step({"step": 8, "num_steps": 8})
    assert not is_last_step({"step": 7, "num_steps": 8})
    assert not is_last_step({"step": 7})
