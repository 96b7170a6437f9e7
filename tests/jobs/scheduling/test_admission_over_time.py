"""Whole courses of a queue under a simulated clock: admission decides, jobs run and end, over and over. No
Redis, no Ray."""

import random
from dataclasses import dataclass, field

import pytest

from bertjobs.jobs.scheduling.admission import GangSizes, admit
from bertjobs.jobs.scheduling.types import (
    NO_QUOTAS,
    Admit,
    Allocation,
    Cluster,
    Node,
    Quotas,
    Wait,
    WaitingJob,
)

EIGHT = Cluster(nodes=(Node(id="n", cpus=64, gpus=8),))
FOUR_NODES = Cluster(nodes=tuple(Node(id=f"n{i}", cpus=32, gpus=4) for i in range(4)))


@dataclass
class Course:
    """A cluster whose jobs run as long as they were drawn to, never beyond their limit."""

    cluster: Cluster
    now_s: float = 0.0
    queue: list[WaitingJob] = field(default_factory=list)
    running: dict[str, tuple[Allocation, float, float]] = field(default_factory=dict)
    """Job -> what it holds, when it ends, when its time limit is over."""
    took_s: dict[str, float] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    quotas: Quotas = NO_QUOTAS

    def __post_init__(self):
        self.sizes = GangSizes(self.cluster)

    def submit(self, name, *, gpus, took_s, limit_s=None, workers=None, cpus=None, user="ada", first=False):
        resources = {"gpus": gpus, "workers": workers, "cpus_per_worker": cpus}
        job = WaitingJob(
            job_id=name,
            resources=resources,
            time_limit_s=limit_s,
            waits_for=None,
            dependency_ended_as=None,
            is_still_alive=False,
            user=user,
        )
        self.took_s[name] = took_s if limit_s is None else min(took_s, limit_s)
        self.queue.insert(0 if first else len(self.queue), job)

    def turn(self):
        """Let end what is over, then start what may; nothing is ever granted twice."""
        self.running = {n: entry for n, entry in self.running.items() if entry[1] > self.now_s}
        decisions = admit(
            self.queue,
            cluster=self.cluster,
            allocations=self.allocations(),
            quotas=self.quotas,
            sizes=self.sizes,
        )
        left = []
        for job, decision in zip(self.queue, decisions, strict=True):
            if isinstance(decision, Admit):
                self._start(job, decision)
            else:
                assert isinstance(decision, Wait) and decision.reason.word and decision.reason.message
                left.append(job)
        self.queue = left
        self.check()

    def allocations(self):
        return [
            Allocation(
                job_id=h.job_id,
                placement=h.placement,
                user=h.user,
                ends_in_s=None if over_s == float("inf") else over_s - self.now_s,
            )
            for h, _, over_s in self.running.values()
        ]

    def check(self):
        for node in self.cluster.nodes:
            shares = [h.placement[node.id] for h, _, _ in self.running.values() if node.id in h.placement]
            assert sum(gpus for _, gpus in shares) <= node.gpus
            assert sum(cpus for cpus, _ in shares) <= node.cpus + 1e-3

    def next_end_s(self):
        return min((end for _, end, _ in self.running.values()), default=None)

    def finish(self):
        """Run to the end of all; a queue that stands still fails."""
        for _ in range(10_000):
            self.turn()
            if not self.queue and not self.running:
                return
            end = self.next_end_s()
            assert end is not None, f"deadlock: {[job.job_id for job in self.queue]}"
            self.now_s = end
        raise AssertionError("it never ended")

    def _start(self, job, decision):
        limit = float("inf") if job.time_limit_s is None else job.time_limit_s
        allocation = Allocation(
            job_id=job.job_id, placement=decision.placement, ends_in_s=None, user=job.user
        )
        self.running[job.job_id] = (allocation, self.now_s + self.took_s[job.job_id], self.now_s + limit)
        self.started_s[job.job_id] = self.now_s


def test_two_gangs_of_eight_on_eight_gpus_never_deadlock_in_a_thousand_interleavings():
    for seed in range(1000):
        rng = random.Random(seed)
        course = Course(EIGHT)
        names = ["a", "b"]
        rng.shuffle(names)
        for name in names:
            if rng.random() < 0.5:
                course.turn()
                course.now_s += rng.uniform(0, 20)
            limit_s = rng.choice([None, rng.uniform(5, 50)])
            course.submit(name, gpus=8, took_s=rng.uniform(1, 50), limit_s=limit_s, first=rng.random() < 0.3)
        for n in range(rng.randrange(4)):  # others in between
            course.submit(f"s{n}", gpus=rng.randrange(3), took_s=rng.uniform(1, 30))
        course.finish()
        first, second = sorted(("a", "b"), key=lambda name: course.started_s[name])
        assert course.started_s[second] >= course.started_s[first] + course.took_s[first]


@pytest.mark.parametrize("cluster", [EIGHT, FOUR_NODES], ids=["one node", "four nodes"])
def test_a_stream_of_small_jobs_never_delays_a_large_one_beyond_its_bound(cluster):
    """The bound: when all that runs as the large one comes has reached its time limit."""
    num_checked = 0
    for seed in range(100):
        rng = random.Random(seed)
        course = Course(cluster)
        for n in range(rng.randrange(3, 10)):
            limit_s = rng.uniform(10, 100)
            gpus = rng.choice([0, 1, 1, 2, 4])
            course.submit(f"r{n}", gpus=gpus, took_s=rng.uniform(1, 1.2) * limit_s, limit_s=limit_s)
        course.turn()
        course.queue.clear()  # what did not start at once went elsewhere
        bound_s = max((over_s for _, _, over_s in course.running.values()), default=0.0)
        course.submit("large", gpus=int(cluster.gpus), took_s=10)
        for n in range(60):
            limit_s = rng.choice([None, rng.uniform(1, 60)])
            took_s = rng.uniform(1, 200)
            course.submit(f"s{n}", gpus=rng.choice([0, 0, 1, 1, 2]), took_s=took_s, limit_s=limit_s)
            course.turn()
            end = course.next_end_s()
            course.now_s = min(course.now_s + rng.uniform(0, 5), end if end is not None else float("inf"))
            if "large" in course.started_s:
                break
        course.finish()
        num_checked += bool(course.started_s["large"])
        assert course.started_s["large"] <= bound_s + 1e-6, seed
    assert num_checked > 80, "too few of the large ones had to wait"


def test_a_job_without_gpus_never_takes_cpus_that_the_first_in_line_needs_on_the_node_that_frees_first():
    """Neither of those who hold the GPUs has a limit: which node frees first, nobody knows."""
    nodes = tuple(Node(id=name, cpus=16, gpus=4) for name in ("n1", "n2"))
    held = [Allocation(job_id=f"x{i}", placement={f"n{i}": (1, 4)}, ends_in_s=None) for i in (1, 2)]
    large = {"gpus": 4, "workers": 1, "cpus_per_worker": 12}
    small = {"gpus": 0, "workers": 1, "cpus_per_worker": 4}
    queue = [
        WaitingJob(
            job_id=name,
            resources=resources,
            time_limit_s=None,
            waits_for=None,
            dependency_ended_as=None,
            is_still_alive=False,
        )
        for name, resources in (("large", large), ("small", small))
    ]
    decisions = admit(queue, cluster=Cluster(nodes=nodes), allocations=held)
    assert [v.reason.word for v in decisions] == ["InsufficientGpus", "BehindPriority"]


def test_any_mix_of_jobs_and_limits_ends_and_is_never_over_granted():
    for seed in range(40):
        rng = random.Random(seed)
        course = Course(FOUR_NODES, quotas=Quotas(max_gpus={"bob": 4.0}))
        for n in range(40):
            gpus = rng.choice([0, 0, 1, 2, 4, 8, 16])
            user = "bob" if gpus <= 4 and rng.random() < 0.5 else "ada"
            limit_s = rng.choice([None, rng.uniform(1, 100)])
            workers = rng.choice([None, 1]) if gpus <= 4 else None
            course.submit(
                f"j{n}", gpus=gpus, took_s=rng.uniform(1, 100), limit_s=limit_s, workers=workers, user=user
            )
            if rng.random() < 0.5:
                course.turn()
                held = sum(
                    gpus
                    for h, _, _ in course.running.values()
                    if h.user == "bob"
                    for _, gpus in h.placement.values()
                )
                assert held <= 4
        course.finish()
        assert len(course.started_s) == 40
