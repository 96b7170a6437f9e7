"""What is done about a live attempt; the whole way through is in test_dispatcher."""

from dataclasses import replace

import pytest

from bertjobs.jobs.dispatcher.attempt_policy import End, Gone, Keep, Limits, Start, Stop, TimeIsUp, judge
from bertjobs.jobs.job import State
from bertjobs.jobs.ray.api import RayJob
from bertjobs.jobs.scheduling.types import Live

LIMITS = Limits(lease_s=15)
LIVE = Live(
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
    alive_ago_s=1,
    heard_ago_s=1,
    told_ago_s=None,
    drained_ago_s=None,
    ended_ago_s=None,
    waited_s=1,
    time_left_s=None,
    max_retries=0,
    num_charged=0,
    num_faults=0,
    outcome="",
    failure="",
    plan={},
)
NEW = {"state": State.STARTING, "heard_ago_s": None, "claimed_ago_s": 1}
RUNNING = RayJob(status="RUNNING", message="")


@pytest.mark.parametrize(
    ("facts", "ray_job", "expected"),
    [
        ({}, RUNNING, Keep),
        ({"heard_ago_s": 14.9}, RUNNING, Keep),
        ({"heard_ago_s": 15}, RUNNING, Stop),
        (NEW, RUNNING, Keep),
        (NEW | {"alive_ago_s": 900}, RUNNING, Stop),
        (NEW | {"is_submitted": False}, None, Start),
        (NEW | {"is_submitted": False, "state": State.CANCELLING}, None, End),
        (NEW | {"is_submitted": False, "drained_ago_s": 1}, None, End),
        ({"drained_ago_s": 119}, RUNNING, Keep),
        ({"drained_ago_s": 120}, RUNNING, Stop),
        ({"drained_ago_s": 5}, RayJob(status="STOPPED", message=""), End),
        (NEW, RayJob(status="FAILED", message=""), End),
        ({"time_left_s": 0.1}, RUNNING, Keep),
        ({"time_left_s": 0}, RUNNING, TimeIsUp),
        ({"time_left_s": 0, "state": State.CANCELLING, "told_ago_s": 1}, RUNNING, Keep),
        ({"state": State.CANCELLING, "told_ago_s": 20}, RUNNING, Stop),
        ({}, RayJob(status="FAILED", message="monitor"), Keep),
        ({"heard_ago_s": 15}, RayJob(status="FAILED", message="monitor"), End),
        ({}, RayJob(status="FAILED", message="", exit_code=-9), End),
        ({}, RayJob(status="STOPPED", message=""), End),
        ({}, RayJob(status="SUCCEEDED", message=""), End),
        ({}, None, Keep),
        ({"heard_ago_s": 15}, None, End),
        ({"ended_ago_s": 1}, RUNNING, Keep),
        ({"ended_ago_s": 20}, RUNNING, Stop),
        ({"ended_ago_s": 0}, RayJob(status="SUCCEEDED", message=""), Gone),
        ({"ended_ago_s": 0}, None, Gone),
    ],
)
def test_each_case_has_its_action(facts, ray_job, expected):
    assert type(judge(replace(LIVE, **facts), ray_job, limits=LIMITS, watched_s=1000)) is expected


def test_silence_before_the_dispatcher_watched_does_not_count():
    silent = replace(LIVE, heard_ago_s=500)
    assert type(judge(silent, RUNNING, limits=LIMITS, watched_s=14)) is Keep
    assert type(judge(silent, RUNNING, limits=LIMITS, watched_s=15)) is Stop


def test_a_long_message_of_ray_is_cut_to_its_last_words():
    job = RayJob(status="FAILED", message="noise " * 500 + "ValueError: the cause", exit_code=1)
    end = judge(LIVE, job, limits=LIMITS, watched_s=1000)
    assert end.failure.message.endswith("ValueError: the cause") and len(end.failure.message) < 400


def test_what_ends_in_a_drained_queue_has_been_drained_whoever_ended_it():
    drained = replace(LIVE, drained_ago_s=5)
    end = judge(drained, RayJob(status="STOPPED", message=""), limits=LIMITS, watched_s=1000)
    assert end.failure.word == "Drained"
    never_started = replace(drained, is_submitted=False, heard_ago_s=None, state=State.STARTING)
    assert judge(never_started, None, limits=LIMITS, watched_s=1000).failure.word == "Drained"


def test_an_attempt_that_ages_ages_in_all_it_has():
    older = replace(LIVE, told_ago_s=3, time_left_s=60).aged(10)
    assert (older.claimed_ago_s, older.alive_ago_s, older.heard_ago_s, older.told_ago_s) == (110, 11, 11, 13)
    assert (older.time_left_s, older.ended_ago_s, older.drained_ago_s) == (50, None, None)
