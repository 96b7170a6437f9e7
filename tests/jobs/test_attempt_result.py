"""The result that an attempt leaves in storage."""

import pytest

from bertjobs.errors import StorageError
from bertjobs.jobs.attempt_result import (
    AttemptResult,
    read_latest_result,
    read_result,
    result_name,
    write_result,
)
from bertjobs.storage import JobDir

JOB = "j-000000001"


@pytest.fixture
def job_dir(tmp_path):
    return JobDir(str(tmp_path), JOB)


def result(accuracy):
    return AttemptResult(metrics={"accuracy": accuracy}, artifacts={"model": "/x"})


def test_what_was_written_is_read_under_the_same_attempt_and_token_only(job_dir):
    write_result(job_dir, job_id=JOB, attempt=2, token=3, result=result(0.5))
    assert read_result(job_dir, job_id=JOB, attempt=2, token=3) == result(0.5)
    assert read_result(job_dir, job_id=JOB, attempt=2, token=4) is None
    assert read_result(job_dir, job_id=JOB, attempt=1, token=3) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"job_id": "j-000000001"}',
        '{"job_id": "j-9", "attempt": 1, "token": 1, "metrics": {}, "artifacts": {}}',
    ],
)
def test_a_file_that_is_no_result_of_this_attempt_counts_as_none(job_dir, text):
    job_dir.write_bytes(result_name(attempt=1, token=1), text.encode())
    assert read_result(job_dir, job_id=JOB, attempt=1, token=1) is None


def test_of_several_attempts_the_latest_with_a_result_counts(job_dir):
    for attempt in (1, 2):
        write_result(job_dir, job_id=JOB, attempt=attempt, token=attempt, result=result(attempt))
    attempts = [(1, 1), (2, 2), (3, 3)]
    assert read_latest_result(job_dir, job_id=JOB, attempts=attempts) == result(2)
    assert read_latest_result(job_dir, job_id=JOB, attempts=[]) is None


def test_a_storage_that_cannot_be_read_is_an_error_and_not_an_absent_result(job_dir, monkeypatch):
    write_result(job_dir, job_id=JOB, attempt=1, token=1, result=result(1))

    def fails(*_):
        raise StorageError("It is away")

    monkeypatch.setattr(JobDir, "read_json", fails)
    with pytest.raises(StorageError, match="It is away"):
        read_result(job_dir, job_id=JOB, attempt=1, token=1)
