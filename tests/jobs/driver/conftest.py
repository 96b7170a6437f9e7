"""A job whose driver has started, and its session."""

import pytest

from bertjobs.jobs.driver.session import JobSession


@pytest.fixture
def started(world, submit, tmp_path):
    """A job whose attempt has been granted."""
    job_id = submit(storage=str(tmp_path), max_retries=1)
    world.turn()
    return job_id


@pytest.fixture
def session(settings, started):
    with JobSession.open(settings, job_id=started, attempt=1, token=1) as session:
        yield session
