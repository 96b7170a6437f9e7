"""Ray's autoscaler hears what waits, once, apart from the pass, and hears when nothing waits any more."""

import json
import shlex

import pytest

from bertjobs.jobs.dispatcher.autoscaler import (
    MIN_INTERVAL_S,
    RENEW_S,
    TIMEOUT_S,
    Autoscaler,
    ScaleRequestFailed,
)
from bertjobs.jobs.ray.api import RayJob, RayUnreachable
from bertjobs.jobs.scheduling.autoscaling import ScaleLimits

EIGHT = {(1.0, 1.0): 8, (0.5, 0.0): 1}


class FakeRay:
    """Ends each job as told, and keeps what its command line asked for."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.status = "SUCCEEDED"
        self.stopped: list[str] = []
        self.is_down = False

    def start(self, submission_id, *, entrypoint, env, metadata):
        if self.is_down:
            raise RayUnreachable("Ray does not answer")
        python, dash_m, module, bundles = shlex.split(entrypoint)
        assert (python, dash_m, module) == ("/p/python", "-m", "bertjobs.runs.scale_request")
        assert submission_id.startswith("bj-scale-") and env == {"A": "1"}
        self.asked.append(json.loads(bundles))

    def job(self, submission_id):
        return RayJob(status=self.status, message="no such module")

    def stop(self, submission_id):
        self.stopped.append(submission_id)


class Told:
    """An autoscaler whose clock a test moves."""

    def __init__(self) -> None:
        self.ray, self.now_s = FakeRay(), 0.0
        self.autoscaler = Autoscaler(
            self.ray, python="/p/python", env={"A": "1"}, clock=lambda: self.now_s, wait=self.wait
        )

    def wait(self, seconds):
        self.now_s += seconds
        return False

    def after(self, seconds, request):
        """Let time pass, want something, and return whether it was sent."""
        self.now_s += seconds
        self.autoscaler.want(request)
        return self.autoscaler.send_due()


@pytest.fixture
def told():
    return Told()


def test_a_request_is_sent_once_and_taken_back_when_nothing_waits(told):
    assert told.after(0, EIGHT)
    assert told.ray.asked == [[[0.5, 0.0, 1], [1.0, 1.0, 8]]]
    assert not told.after(MIN_INTERVAL_S, EIGHT)
    assert told.after(MIN_INTERVAL_S, {})
    assert told.ray.asked[-1] == []
    assert not told.after(10 * RENEW_S, {})


def test_the_first_request_is_sent_even_if_it_is_empty_as_an_earlier_one_may_hold(told):
    assert told.after(0, {})
    assert told.ray.asked == [[]]


def test_changes_follow_one_another_no_faster_than_nodes_could(told):
    told.after(0, EIGHT)
    assert not told.after(MIN_INTERVAL_S / 2, {(1.0, 1.0): 16})
    assert told.after(MIN_INTERVAL_S, {(1.0, 1.0): 24})
    assert told.ray.asked[1:] == [[[1.0, 1.0, 24]]]


def test_a_request_that_holds_is_sent_again_for_a_head_that_was_restarted(told):
    told.after(0, EIGHT)
    assert not told.after(RENEW_S - 1, EIGHT)
    assert told.after(2, EIGHT)


def test_what_failed_is_sent_again_and_a_dispatcher_that_stands_by_sends_nothing(told):
    told.ray.status = "FAILED"
    with pytest.raises(ScaleRequestFailed, match="no such module"):
        told.after(0, EIGHT)
    told.ray.status, told.ray.is_down = "SUCCEEDED", True
    with pytest.raises(RayUnreachable):
        told.after(MIN_INTERVAL_S, EIGHT)
    told.ray.is_down = False
    assert told.after(MIN_INTERVAL_S, EIGHT)
    told.autoscaler.stand_by()
    told.now_s += 10 * RENEW_S
    assert not told.autoscaler.send_due()
    assert told.after(0, EIGHT), "what another dispatcher has asked for meanwhile is not known"


def test_a_job_that_hangs_is_stopped(told):
    told.ray.status = "RUNNING"
    with pytest.raises(ScaleRequestFailed):
        told.after(0, EIGHT)
    assert told.now_s >= TIMEOUT_S and len(told.ray.stopped) == 1


@pytest.mark.redis
def test_a_pass_notes_what_waits_and_sends_nothing_itself(world, submit):
    told = Told()
    world.ray.nodes = []
    world.dispatcher._autoscaler = told.autoscaler
    world.dispatcher._scale_limits = ScaleLimits(gpus=8, cpus=0)
    job = submit(resources={"gpus": 8, "workers": None, "cpus_per_worker": None})
    world.turn()
    assert told.ray.asked == []
    assert told.autoscaler.send_due()
    assert told.ray.asked == [[[0.5, 0.0, 1], [1.0, 1.0, 8]]]
    world.store.cancel(job)
    world.turn()
    told.now_s += MIN_INTERVAL_S
    assert told.autoscaler.send_due()
    assert told.ray.asked[-1] == []
