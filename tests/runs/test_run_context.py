"""Which checkpoint an attempt goes on from."""

import logging

import pytest

from bertjobs.runs.run_context import remaining_checkpoint
from bertjobs.storage import JobDir


@pytest.fixture
def job_dir(tmp_path):
    return JobDir(str(tmp_path), "j-1")


def test_a_published_checkpoint_counts_while_its_folder_is_there(job_dir):
    with job_dir.new_dir("checkpoints/step-00000002"):
        pass
    assert remaining_checkpoint(job_dir, "step-00000002") == "step-00000002"


def test_a_job_without_a_checkpoint_starts_from_the_beginning(job_dir):
    assert remaining_checkpoint(job_dir, None) is None


def test_removing_a_damaged_checkpoint_starts_the_work_anew_and_the_log_says_so(job_dir, caplog):
    with caplog.at_level(logging.WARNING):
        assert remaining_checkpoint(job_dir, "step-00000002") is None
    assert "step-00000002 is no longer in" in caplog.text


def test_where_a_published_checkpoint_is_gone_the_last_one_that_remains_counts(job_dir, caplog):
    for name in ("step-00000002-a1", "step-00000006-a1", "step-00000006-a2", "other"):
        with job_dir.new_dir(f"checkpoints/{name}"):
            pass
    # Redis was rolled back by a minute: it names one that was removed when later ones were published.
    with caplog.at_level(logging.WARNING):
        assert remaining_checkpoint(job_dir, "step-00000001-a1") == "step-00000006-a2"
    assert "resuming from step-00000006-a2" in caplog.text
