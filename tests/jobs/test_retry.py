"""What becomes of a job after a bad end."""

import pickle

import pytest

from bertjobs import errors
from bertjobs.jobs.job import State
from bertjobs.jobs.retry import INFRASTRUCTURE, MAX_FAULTS, Failure, decide, failure_of


def decided(word, *, num_faults=0, num_charged=0, max_retries=0):
    failure = Failure(word=word, message="It broke.")
    return decide(failure, num_faults=num_faults, num_charged=num_charged, max_retries=max_retries)


@pytest.mark.parametrize("word", sorted(INFRASTRUCTURE))
def test_the_clusters_faults_are_retried_free_of_charge(word):
    decision = decided(word)
    assert (decision.state, decision.charged) == (State.RETRYING, False)
    assert "not charged" in decision.message


def test_faults_back_off_and_end_when_nothing_gets_done():
    delays = [decided("DriverLost", num_faults=n).delay_s for n in range(MAX_FAULTS)]
    assert delays == [2, 4, 8, 16, 32, 64]
    assert decided("DriverLost", num_faults=MAX_FAULTS).state is State.FAILED


@pytest.mark.parametrize("word", ["UserError", "DataError", "ConfigError", "ModelError", "TrainingError"])
def test_the_jobs_own_fault_is_final_unless_retries_were_asked_for(word):
    assert decided(word).state is State.FAILED
    asked = decided(word, max_retries=1)
    assert (asked.state, asked.charged, asked.delay_s) == (State.RETRYING, True, 2)
    assert decided(word, max_retries=1, num_charged=1).state is State.FAILED


@pytest.mark.parametrize(
    "error", [errors.StorageError("nfs: Input/output error", may_pass=True), errors.DownloadError("no route")]
)
def test_storage_or_a_server_that_is_away_is_a_fault_that_ends_after_some_tries(error):
    failure = failure_of(pickle.loads(pickle.dumps(error)))  # it comes from a worker
    decision = decide(failure, num_faults=0, num_charged=0, max_retries=0)
    assert (decision.state, decision.charged, decision.delay_s) == (State.RETRYING, False, 2)
    given_up = decide(failure, num_faults=MAX_FAULTS, num_charged=0, max_retries=0)
    assert (given_up.state, given_up.reason) == (State.FAILED, error.failure)


def test_storage_that_someone_has_to_mend_ends_the_job():
    failure = failure_of(errors.StorageError("/disk: No space left on device"))
    assert decide(failure, num_faults=0, num_charged=0, max_retries=0).state is State.FAILED


def test_out_of_memory_is_not_tried_again_even_when_asked():
    decision = decided("OutOfMemory", max_retries=3)
    assert (decision.state, decision.reason) == (State.FAILED, "OutOfMemory")


def test_cancelled_is_cancelled():
    assert decided("Cancelled", max_retries=3).state is State.CANCELLED


@pytest.mark.parametrize(
    ("error", "word", "message"),
    [
        (
            errors.DataError("dev.jsonl:3 is broken.", hint="Mend it."),
            "DataError",
            "dev.jsonl:3 is broken. Mend it.",
        ),
        (errors.OutOfMemory("no room"), "OutOfMemory", "no room"),
        (errors.QueueError("down"), "QueueError", "down"),
        (ValueError("bad\nsecond line"), "UserError", "ValueError: bad"),
        (KeyError(), "UserError", "KeyError: KeyError"),
    ],
)
def test_errors_are_named_by_their_class(error, word, message):
    assert failure_of(error) == Failure(word=word, message=message)


def test_a_failure_whose_message_has_no_period_gets_one_before_the_next_sentence():
    for word in ("UserError", "DriverLost"):
        failure = Failure(word=word, message="dev.jsonl:3 is broken")
        decision = decide(failure, num_faults=0, num_charged=0, max_retries=1)
        assert decision.message.startswith(f"{word}: dev.jsonl:3 is broken. Re")
