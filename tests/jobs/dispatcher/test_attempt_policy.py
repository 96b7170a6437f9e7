"""Which action follows from what Redis and Ray report of a live attempt."""

from dataclasses import replace

import pytest

from bertjobs.jobs.dispatcher.attempt_policy import (
    EndAttempt,
    NoAction,
    ReleaseResources,
    StartRayJob,
    StopRayJob,
    TimeOut,
    Timeouts,
    next_action,
)
from bertjobs.jobs.job import State
from bertjobs.jobs.ray.api import RayJob
from bertjobs.jobs.scheduling.types import LiveAttempt

TIMEOUTS = Timeouts(lease_s=15)
LIVE = LiveAttempt(
    job_id="j-1",
    number=1,
    token=1,
    submission_id="bj-j-1-a1",
    state=State.RUNNING,
    storage="/x",
    kind="finetune",
    name="",
    user="ada",
    is_submitted=True,
    claimed_ago_s=100,
    progress_ago_s=1,
    heartbeat_ago_s=1,
    cancel_ago_s=None,
    drained_ago_s=None,
    ended_ago_s=None,
    waited_s=1,
    time_left_s=None,
    max_retries=0,
    num_charged=0,
    num_faults=0,
    num_stalls=0,
    phase="",
    is_stalled=False,
    outcome="",
    failure="",
    placement={},
)
NEW = {"state": State.STARTING, "heartbeat_ago_s": None, "claimed_ago_s": 1}
REPORTED = NEW | {"heartbeat_ago_s": 1, "progress_ago_s": 5000}
RUNNING = RayJob(status="RUNNING", message="")


@pytest.mark.parametrize(
    ("facts", "ray_job", "expected"),
    [
        ({}, RUNNING, NoAction),
        ({"heartbeat_ago_s": 14.9}, RUNNING, NoAction),
        ({"heartbeat_ago_s": 15}, RUNNING, StopRayJob),
        (NEW, RUNNING, NoAction),
        (NEW | {"progress_ago_s": 900}, RUNNING, StopRayJob),
        (REPORTED | {"phase": "starting workers"}, RUNNING, StopRayJob),
        (REPORTED | {"phase": "encoding the corpus"}, RUNNING, NoAction),
        (NEW | {"is_submitted": False}, None, StartRayJob),
        (NEW | {"is_submitted": False, "state": State.CANCELLING}, None, EndAttempt),
        (NEW | {"is_submitted": False, "drained_ago_s": 1}, None, EndAttempt),
        ({"drained_ago_s": 119}, RUNNING, NoAction),
        ({"drained_ago_s": 120}, RUNNING, StopRayJob),
        ({"drained_ago_s": 5}, RayJob(status="STOPPED", message=""), EndAttempt),
        (NEW, RayJob(status="FAILED", message=""), EndAttempt),
        ({"time_left_s": 0.1}, RUNNING, NoAction),
        ({"time_left_s": 0}, RUNNING, TimeOut),
        ({"time_left_s": 0, "state": State.CANCELLING, "cancel_ago_s": 1}, RUNNING, NoAction),
        ({"state": State.CANCELLING, "cancel_ago_s": 20}, RUNNING, StopRayJob),
        ({}, RayJob(status="FAILED", message="monitor"), NoAction),
        ({"heartbeat_ago_s": 15}, RayJob(status="FAILED", message="monitor"), EndAttempt),
        ({}, RayJob(status="FAILED", message="", exit_code=-9), EndAttempt),
        ({}, RayJob(status="STOPPED", message=""), EndAttempt),
        ({}, RayJob(status="SUCCEEDED", message=""), EndAttempt),
        ({}, None, NoAction),
        ({"heartbeat_ago_s": 15}, None, EndAttempt),
        ({"ended_ago_s": 1}, RUNNING, NoAction),
        ({"ended_ago_s": 20}, RUNNING, StopRayJob),
        ({"ended_ago_s": 0}, RayJob(status="SUCCEEDED", message=""), ReleaseResources),
        ({"ended_ago_s": 0}, RayJob(status="FAILED", message="monitor", has_actors=True), NoAction),
        ({"ended_ago_s": 20}, RayJob(status="FAILED", message="monitor", has_actors=True), StopRayJob),
        ({"ended_ago_s": 20}, None, ReleaseResources),
        ({"ended_ago_s": 0}, None, ReleaseResources),
    ],
)
def test_each_case_has_its_action(facts, ray_job, expected):
    assert type(next_action(replace(LIVE, **facts), ray_job, timeouts=TIMEOUTS, observed_s=1000)) is expected


def test_silence_before_the_dispatcher_observed_redis_does_not_count():
    silent = replace(LIVE, heartbeat_ago_s=500)
    assert type(next_action(silent, RUNNING, timeouts=TIMEOUTS, observed_s=14)) is NoAction
    assert type(next_action(silent, RUNNING, timeouts=TIMEOUTS, observed_s=15)) is StopRayJob


def test_a_long_message_of_ray_is_cut_to_its_end():
    job = RayJob(status="FAILED", message="noise " * 500 + "ValueError: the cause", exit_code=1)
    end = next_action(LIVE, job, timeouts=TIMEOUTS, observed_s=1000)
    assert end.failure.message.endswith("ValueError: the cause") and len(end.failure.message) < 400


def test_an_attempt_that_ends_in_a_drained_queue_counts_as_drained_whoever_ended_it():
    drained = replace(LIVE, drained_ago_s=5)
    end = next_action(drained, RayJob(status="STOPPED", message=""), timeouts=TIMEOUTS, observed_s=1000)
    assert end.failure.word == "Drained"
    never_started = replace(drained, is_submitted=False, heartbeat_ago_s=None, state=State.STARTING)
    assert next_action(never_started, None, timeouts=TIMEOUTS, observed_s=1000).failure.word == "Drained"


def test_ageing_an_attempt_changes_all_its_ages():
    older = replace(LIVE, cancel_ago_s=3, time_left_s=60).aged(10)
    assert (older.claimed_ago_s, older.progress_ago_s, older.heartbeat_ago_s, older.cancel_ago_s) == (
        110,
        11,
        11,
        13,
    )
    assert (older.time_left_s, older.ended_ago_s, older.drained_ago_s) == (50, None, None)


def test_an_attempt_that_its_heartbeat_found_stalled_ends_as_stalled():
    silent = replace(LIVE, is_stalled=True, progress_ago_s=970, heartbeat_ago_s=60)
    failed = RayJob(status="FAILED", message="killed")
    action = next_action(silent, failed, timeouts=TIMEOUTS, observed_s=1000)
    assert isinstance(action, EndAttempt)
    assert action.failure.word == "Stalled"
    assert action.failure.message == "No progress for 970 s, and the driver could not end the attempt itself."
