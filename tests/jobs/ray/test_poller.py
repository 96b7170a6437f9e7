"""Polling Ray in a background thread."""

import threading

import pytest

from bertjobs.jobs.ray.api import RayJob, RayUnreachable
from bertjobs.jobs.ray.poller import RayPoller
from bertjobs.jobs.scheduling.types import Cluster, Node


class SlowRay:
    """Answers when it is let; counts what it is asked."""

    def __init__(self):
        self.may_answer, self.answered = threading.Event(), threading.Semaphore(0)
        self.is_down = False
        self.asked = []

    def cluster(self):
        self.may_answer.wait(timeout=30)
        self.answered.release()
        if self.is_down:
            raise RayUnreachable("Ray does not answer.")
        return Cluster(nodes=(Node(id="n1", cpus=2, gpus=0),))

    def job(self, submission_id):
        self.asked.append(submission_id)
        if submission_id.startswith("ended"):
            return RayJob(status="FAILED", message="", ray_id=submission_id)
        return RayJob(status="RUNNING", message="")

    def has_actors(self, job):
        assert job.has_ended, "only those of ended jobs are asked for"
        return job.ray_id == "ended with actors"


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr("bertjobs.jobs.ray.poller.POLL_INTERVAL_S", 0.01)
    ray = SlowRay()
    watch = RayPoller(ray)
    yield watch, ray
    ray.may_answer.set()
    watch.close()


def looks(ray, times):
    for _ in range(times):
        assert ray.answered.acquire(timeout=30)


def test_the_first_call_waits_for_the_first_poll_and_later_calls_do_not_wait(watch):
    watch, ray = watch
    watch.start()
    threading.Timer(0.05, ray.may_answer.set).start()
    assert watch.cluster().cpus == 2
    ray.may_answer.clear()
    assert watch.cluster().cpus == 2


def test_a_job_that_was_not_polled_yet_counts_as_pending(watch):
    watch, ray = watch
    ray.may_answer.set()
    watch.watch(["a"])
    watch.start()
    looks(ray, 3)
    asked = len(ray.asked)
    assert asked >= 1 and set(ray.asked) == {"a"}
    assert watch.job("b").status == "PENDING", "nobody has looked at it yet"
    assert "b" not in ray.asked
    assert watch.job("a").status == "RUNNING"


def test_of_an_ended_job_the_actors_are_asked_for_too(watch):
    watch, ray = watch
    ray.may_answer.set()
    watch.watch(["a", "ended", "ended with actors"])
    watch.start()
    looks(ray, 3)
    found = {name: watch.job(name).has_actors for name in ("a", "ended", "ended with actors")}
    assert found == {"a": False, "ended": False, "ended with actors": True}


def test_a_ray_that_is_down_is_unreachable_until_it_is_back(watch):
    watch, ray = watch
    ray.is_down = True
    ray.may_answer.set()
    watch.start()
    with pytest.raises(RayUnreachable, match="does not answer"):
        watch.cluster()
    ray.is_down = False
    looks(ray, 4)  # the third of them began after it was back, and has ended
    assert watch.cluster().cpus == 2
