"""How a driver ends: with another version than the dispatcher's, and with work that is done."""

import signal
from types import SimpleNamespace

import pytest

import bertjobs
from bertjobs import __version__
from bertjobs.errors import StorageError
from bertjobs.jobs.attempt_result import AttemptResult, write_result
from bertjobs.jobs.job import State
from bertjobs.jobs.retry import decide, failure_of
from bertjobs.jobs.store.connection import RedisDown
from bertjobs.runs.driver import VersionMismatch, _run_attempt, _succeed, check_version
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir


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
        job = SimpleNamespace(id="j-000000001", job_dir=JobDir(str(tmp_path), "j-000000001"))
        attempt = SimpleNamespace(number=1, version=__version__)
        start = staticmethod(lambda: None)

        def earlier_result(self):
            raise AssertionError("nothing is read there either")

        def finish(self, error):
            raise error

    with pytest.raises(StorageError, match="is in none of the places where the storage of jobs may be"):
        _run_attempt(Session(), settings)
    assert not list(tmp_path.iterdir())


def test_the_winner_copies_its_outputs_to_the_names_without_an_attempt(tmp_path, sigterm):
    job_dir = JobDir(str(tmp_path), "j-000000001")
    for number in (1, 2):  # the first was taken for lost, and wrote on
        outputs = JobDir(str(tmp_path), "j-000000001", writer=f"a{number}").outputs()
        outputs.write_json("metrics.json", {"attempt": number})
        outputs.write_bytes("plots/curves.png", b"png")
    write_result(
        job_dir, job_id="j-000000001", attempt=2, token=7, result=AttemptResult(metrics={}, artifacts={})
    )

    class Session:
        has_result = True
        job = SimpleNamespace(id="j-000000001", job_dir=job_dir)

        def finish(self, *_, **__):
            assert not job_dir.exists("metrics.json"), "not before Redis has accepted the end"

    assert _succeed(Session(), AttemptResult(metrics={}, artifacts={})) == 0
    assert job_dir.read_json("metrics.json") == {"attempt": 2}
    assert job_dir.read_bytes("plots/curves.png") == b"png"


def test_a_node_that_names_no_storage_limits_its_drivers_to_none():
    shared = {"BERTJOBS_REDIS_URL": "redis://r", "BERTJOBS_RAY_ADDRESS": "http://r"}
    assert load_settings(shared).allowed_to_drivers is None
    assert load_settings(shared | {"BERTJOBS_STORAGE": "/a"}).allowed_to_drivers == ("/a",)
