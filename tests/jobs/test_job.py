"""States and ids."""

import json
from dataclasses import asdict

from bertjobs.jobs.job import REOPENED_BY_RETRY, TRANSITIONS, Grant, State, grant_of, new_job_id


def test_every_state_has_a_row_and_every_terminal_one_is_final():
    assert set(TRANSITIONS) == set(State)
    assert {state for state in State if not TRANSITIONS[state]} == {s for s in State if s.is_terminal}


def test_every_state_is_reached_from_where_jobs_begin():
    reached, frontier = set(), {State.QUEUED, State.HELD}
    while frontier:
        reached |= frontier
        frontier = {after for state in frontier for after in TRANSITIONS[state]} - reached
    assert reached == set(State)


def test_each_state_is_in_exactly_one_stage():
    for state in State:
        assert state.is_waiting + state.is_active + state.is_terminal == 1, state


def test_retry_reopens_every_end_but_success():
    assert {s for s in State if s.is_terminal} - {State.SUCCEEDED} == REOPENED_BY_RETRY


def test_ids_sort_by_the_second_and_have_no_letters_to_misread():
    ids = [new_job_id(now_s=second) for second in range(1_790_000_000, 1_790_000_200)]
    assert ids == sorted(ids)
    assert all(len(job_id) == 11 and not set("ilou") & set(job_id[2:]) for job_id in ids)


def test_a_grant_counts_the_gang_and_survives_storage():
    grant = Grant(workers=4, gpus_per_worker=2, cpus_per_worker=3.5, data_cpus=2)
    assert (grant.gpus, grant.cpus) == (8, 16)
    assert grant_of(json.dumps(asdict(grant))) == grant
