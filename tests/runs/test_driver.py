"""A driver of another version than the dispatcher's does no work."""

import pytest

import bertjobs
from bertjobs.jobs.job import State
from bertjobs.jobs.retry import decide, failure_of
from bertjobs.runs.driver import VersionMismatch, check_version


def test_another_version_is_named_with_ours_and_is_not_tried_again():
    check_version(bertjobs.__version__)
    with pytest.raises(VersionMismatch) as raised:
        check_version("9.9.9")
    message = str(raised.value)
    assert message.startswith(f"The dispatcher is bertjobs 9.9.9, this node has {bertjobs.__version__}.")
    assert "`bertjobs retry`" in message
    decision = decide(failure_of(raised.value), num_faults=0, num_charged=0, max_retries=5)
    assert (decision.state, decision.reason) == (State.FAILED, "VersionMismatch")


def test_a_dispatcher_that_does_not_say_its_version_is_another():
    with pytest.raises(VersionMismatch, match=r"bertjobs \(unknown\)"):
        check_version("")
