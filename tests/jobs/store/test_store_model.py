"""Random histories: the store against a model of it, and two gangs on one cluster with everything failing."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bertjobs.errors import LeaseLost, QueueError
from bertjobs.jobs.dispatcher.state_cache import StateCache
from bertjobs.jobs.job import REOPENED_BY_RETRY, TRANSITIONS, Grant, State
from bertjobs.jobs.retry import RetryDecision
from bertjobs.jobs.scheduling.types import Node
from bertjobs.jobs.store.connection import WrongState
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.jobs.store.lease_store import LeaseStore

pytestmark = pytest.mark.redis

GRANT = Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1)
ENDS = [State.SUCCEEDED, State.FAILED, State.RETRYING, State.CANCELLED]


class StoreMachine(RuleBasedStateMachine):
    """What a job may do, in ten lines of Python per rule, beside what the scripts did."""

    connection = None
    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.connection.client.flushall()
        self.store = JobStore(self.connection)
        self.dispatch = DispatchStore(self.connection, owner="model", lease_s=3600)
        assert self.dispatch.lead()
        self.cache = StateCache(self.dispatch)
        self.states, self.order, self.attempts, self.alive, self.stop_as = {}, {}, {}, set(), {}

    @rule(target=jobs, priority=st.integers(-3, 3), hold=st.booleans())
    def submit(self, priority, hold):
        job, created = self.store.submit(
            "finetune", {}, storage="/x", resources={}, priority=priority, hold=hold
        )
        assert created
        self.states[job.id] = State.HELD if hold else State.QUEUED
        self.order[job.id] = (-priority, len(self.order))
        self.attempts[job.id] = 0
        return job.id

    @rule(job=jobs)
    def cancel(self, job):
        state = self.states[job]
        if state.is_terminal and state is not State.CANCELLED:
            with pytest.raises(QueueError):
                self.store.cancel(job)
            return
        self.store.cancel(job)
        if state.is_waiting:
            self.states[job] = State.CANCELLED
        elif state.is_active:
            self.states[job] = State.CANCELLING

    @rule(job=jobs)
    def hold(self, job):
        self.ask(self.store.hold, job, frozenset({State.HELD, State.QUEUED, State.RETRYING}), State.HELD)

    @rule(job=jobs)
    def release(self, job):
        self.ask(self.store.release, job, frozenset({State.HELD, State.QUEUED}), State.QUEUED)

    @rule(job=jobs, priority=st.integers(-3, 3))
    def prioritize(self, job, priority):
        if not self.states[job].is_waiting:
            with pytest.raises(QueueError):
                self.store.prioritize(job, priority)
            return
        assert self.store.prioritize(job, priority).priority == priority
        self.order[job] = (-priority, self.order[job][1])

    @rule(job=jobs)
    def retry(self, job):
        self.ask(self.store.retry, job, REOPENED_BY_RETRY | {State.RETRYING}, State.QUEUED)

    def ask(self, method, job, allowed, target):
        if self.states[job] not in allowed:
            with pytest.raises(QueueError):
                method(job)
            return
        method(job)
        self.states[job] = target

    @rule(job=jobs)
    def claim(self, job):
        is_free = self.states[job] is State.QUEUED and (job, self.attempts[job]) not in self.alive
        if not is_free:
            with pytest.raises(WrongState):
                self.dispatch.claim(job, grant=GRANT, placement={})
            return
        live = self.dispatch.claim(job, grant=GRANT, placement={})
        number, token = live.number, live.token
        self.attempts[job] += 1
        assert number == token == self.attempts[job]
        self.states[job] = State.STARTING
        self.alive.add((job, number))

    @precondition(lambda self: any(self.attempts.values()))
    @rule(job=jobs, data=st.data())
    def report(self, job, data):
        number = data.draw(st.integers(1, max(self.attempts[job], 1)))
        if number != self.attempts[job] or not self.states[job].is_active:
            if self.attempts[job]:
                self.refused(lambda: self.lease(job, number).publish_checkpoint("stale", step=1))
            return
        command = self.lease(job, number).report(progress={"step": 1})
        assert (command == "cancel") is (self.states[job] is State.CANCELLING)
        if self.states[job] is State.STARTING:
            self.states[job] = State.RUNNING

    @precondition(lambda self: any(self.attempts.values()))
    @rule(job=jobs, outcome=st.sampled_from(ENDS))
    def end(self, job, outcome):
        state, number = self.states[job], self.attempts[job]
        if not number:
            return
        target = outcome
        decision = RetryDecision(state=outcome, reason="Word", message="Sentence.")
        call = lambda: self.lease(job, number).end(decision, nonce=uuid.uuid4().hex, metrics={}, artifacts={})  # noqa: E731
        if not state.is_active:
            self.refused(call)
            return
        if state is State.CANCELLING and target is not State.SUCCEEDED:
            target = State.CANCELLED
        if target not in TRANSITIONS[state]:
            return
        assert call() is target
        self.states[job] = target

    @rule(job=jobs)
    def driver_leaves(self, job):
        live = [a for a in self.dispatch.live()[1] if (a.job_id, a.number) == (job, self.attempts[job])]
        if live and live[0].ended_ago_s is not None:
            self.dispatch.note_gone(live[0])
            self.alive.discard((job, live[0].number))

    def lease(self, job, number):
        return LeaseStore(self.connection, job_id=job, attempt=number, token=number, lease_s=15)

    @staticmethod
    def refused(call):
        with pytest.raises(LeaseLost):
            call()

    @invariant()
    def redis_says_the_same(self):
        listed = self.store.list(limit=None)
        assert {job.id: job.state for job in listed} == self.states
        queued = sorted((j for j, s in self.states.items() if s is State.QUEUED), key=lambda j: self.order[j])
        assert {job.id: job.place for job in listed if job.place} == {j: n + 1 for n, j in enumerate(queued)}
        assert {(a.job_id, a.number) for a in self.dispatch.live()[1]} == self.alive
        counted = {state: n for state, n in self.store.count().items() if n}
        assert counted == {s: list(self.states.values()).count(s) for s in set(self.states.values())}
        leased = set(self.connection.client.zrange("bj:leases", 0, -1))
        assert leased == {job for job, state in self.states.items() if state.is_active}

    @invariant()
    def what_the_dispatcher_remembers_is_what_redis_says(self):
        """Read step by step, it is the same as read at once."""
        self.cache.refresh()
        at_once = StateCache(self.dispatch)
        at_once.refresh()
        assert self.cache.queue.waiting() == at_once.queue.waiting()
        assert facts_of(self.cache.attempts) == facts_of(at_once.attempts)
        self.cache.refresh()  # the other one has read the same changes, and dropped them


def facts_of(attempts):
    """Return what does not age of the live attempts."""
    return {
        live.submission_id: (
            live.state,
            live.token,
            live.num_faults,
            live.cancel_ago_s is None,
            live.ended_ago_s is None,
        )
        for live in attempts.all()
    }


def test_any_history_leaves_redis_as_the_model_predicts(connection):
    StoreMachine.connection = connection
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=25, stateful_step_count=40, deadline=None)
    )


MOVES = st.sampled_from(
    (
        *("turn", "turn", "turn", "step", "finish", "fail", "kill", "leave", "cancel", "pass_1", "pass_16"),
        *("ray_down", "ray_up", "lose_answers", "forget", "restart"),
    )
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=st.lists(st.tuples(MOVES, st.integers(0, 1)), max_size=40))
def test_two_gangs_never_hold_the_cluster_at_once_whatever_happens_and_both_end(world, submit, moves):
    world.connection.client.flushall()
    world.__init__(world.connection, world._let_pass)
    world.ray.nodes = [Node(id="n1", cpus=16, gpus=4), Node(id="n2", cpus=16, gpus=4)]
    gangs = [submit(resources={"gpus": 8}) for _ in range(2)]
    for move, which in moves:
        make(world, gangs[which], move)
        check_one_at_a_time(world, gangs)
    settle(world, gangs)
    assert is_over(world, gangs)
    assert world.connection.client.scard("bj:live") == 0


def make(world, job_id, move):
    job = world.store.get(job_id)
    submission = job.attempt.submission_id if job.attempt else None
    lives = submission in world.ray.jobs and not world.ray.jobs[submission].has_ended
    if move == "turn":
        world.turn()
    elif move == "step" and lives and job.state.is_active:
        world.driver(job_id).report(progress={"step": 1})
    elif move in ("finish", "fail") and lives and job.state.is_active:
        end = RetryDecision(
            state=State.SUCCEEDED if move == "finish" else State.FAILED, reason="", message=""
        )
        world.driver(job_id).end(end, nonce=uuid.uuid4().hex, metrics={}, artifacts={})
    elif move == "kill" and lives:
        world.ray.ends(submission, "FAILED", exit_code=-9)
    elif move == "leave" and lives:
        world.ray.ends(submission, "STOPPED" if submission in world.ray.stops else "FAILED")
    elif move == "forget" and lives:
        world.ray.jobs.clear()
    elif move == "cancel" and not job.state.is_terminal:
        world.store.cancel(job_id)
    elif move == "restart":
        world.restart_dispatcher()
    elif move.startswith("pass_"):
        world.passes(int(move.removeprefix("pass_")))
    else:
        world.ray.is_down = (world.ray.is_down or move == "ray_down") and move != "ray_up"
        world.ray.loses_answers = move == "lose_answers"


def is_over(world, gangs):
    return all(world.store.get(job_id).state.is_terminal for job_id in gangs)


def check_one_at_a_time(world, gangs):
    alive = [s for s, job in world.ray.jobs.items() if not job.has_ended]
    assert len(alive) <= 1, f"two gangs of eight GPUs on eight: {alive}"
    assert world.connection.client.scard("bj:live") <= 1
    for job_id in gangs:
        tokens = [attempt.token for attempt in world.store.get(job_id).attempts]
        assert tokens == sorted(set(tokens))


def settle(world, gangs):
    """Let drivers finish and time pass, with a Ray that works."""
    world.ray.is_down = world.ray.loses_answers = False
    for _ in range(60):
        world.turn()
        if not world.connection.client.scard("bj:live") and is_over(world, gangs):
            return
        for job_id in gangs:
            make(world, job_id, "finish")
        for submission, job in list(world.ray.jobs.items()):
            owner = submission[3:].rpartition("-a")[0]
            if not job.has_ended and not world.store.get(owner).state.is_active:
                world.ray.ends(submission, "SUCCEEDED")
        world.passes(20)
