"""How a driver ends: with another version than the dispatcher's, and with work that is done."""

import signal

import pytest

import bertjobs
from bertjobs.errors import StorageError
from bertjobs.jobs.attempt_result import AttemptResult
from bertjobs.jobs.job import State
from bertjobs.jobs.retry import decide, failure_of
from bertjobs.jobs.store.connection import RedisDown
from bertjobs.runs.driver import VersionMismatch, _run_job, _succeed, check_version
from bertjobs.settings import load_settings


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


class UntoldSession:
    """A session whose Redis stays away while the attempt ends."""

    def __init__(self, *, has_result):
        self.has_result = has_result
        self.job = type("Job", (), {"id": "j-000000001"})

    def finish(self, outcome, **_):
        assert outcome == "SUCCEEDED"
        raise RedisDown("Redis is away")


@pytest.fixture
def sigterm():
    """Put the handler back that the driver replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_a_success_that_redis_was_not_told_of_is_no_error(sigterm):
    result = AttemptResult(metrics={}, artifacts={})
    assert _succeed(UntoldSession(has_result=True), result) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "a late SIGTERM must not turn it into one"
    with pytest.raises(RedisDown):
        _succeed(UntoldSession(has_result=False), result)


def test_a_driver_writes_nothing_outside_the_storage_of_its_dispatcher(tmp_path):
    settings = load_settings(
        {
            "BERTJOBS_REDIS_URL": "redis://r",
            "BERTJOBS_RAY_ADDRESS": "http://r",
            "BERTJOBS_STORAGE": "/allowed",
        }
    )

    class Session:
        job = type("Job", (), {"id": "j-000000001", "storage": str(tmp_path)})
        attempt = None

    with pytest.raises(StorageError, match="is in none of the places where the storage of jobs may be"):
        _run_job(Session(), settings)
    assert not list(tmp_path.iterdir())


def test_a_node_that_names_no_storage_limits_its_drivers_to_none():
    shared = {"BERTJOBS_REDIS_URL": "redis://r", "BERTJOBS_RAY_ADDRESS": "http://r"}
    assert load_settings(shared).allowed_to_drivers is None
    assert load_settings(shared | {"BERTJOBS_STORAGE": "/a"}).allowed_to_drivers == ("/a",)
