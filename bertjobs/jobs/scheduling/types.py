"""What admission is given, and what it answers. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.scheduling.free_nodes import Plan


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Why something waits: a word and a sentence."""

    word: str
    message: str
    group: str = ""
    """What jobs that wait for the same thing have in common while the numbers in the message change; of
    itself the reason as it stands."""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", f"{self.word}:{self.message}")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of the cluster, with what Ray says it has and what is taken of it."""

    id: str
    cpus: float
    gpus: float
    used_cpus: float = 0.0
    used_gpus: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All nodes that are alive."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class Live:
    """A live attempt; ages are seconds by Redis' clock, None for what has not happened."""

    job_id: str
    number: int
    token: int
    submission_id: str
    state: State
    storage: str
    kind: str
    name: str
    user: str
    is_submitted: bool
    """Ray has confirmed that it took the job."""
    claimed_ago_s: float
    alive_ago_s: float
    """Since the last phase, progress, or the claim."""
    heard_ago_s: float | None
    told_ago_s: float | None
    """Since the driver was told to stop."""
    drained_ago_s: float | None
    """Since the driver was told that the queue is drained."""
    ended_ago_s: float | None
    waited_s: float
    """In the queue, before the attempt was claimed."""
    time_left_s: float | None
    """Until the job's time limit; None without one."""
    max_retries: int
    num_charged: int
    num_faults: int
    outcome: str
    """The state the job took when the attempt ended, and the class of failure; empty before, and for none."""
    failure: str
    plan: Plan
    """Node id -> CPUs and GPUs; by the driver's report, or before it as planned."""

    def aged(self, seconds: float) -> "Live":
        """Return the attempt so much later, as far as nothing has been heard of it since."""

        def later(ago_s: float | None) -> float | None:
            return None if ago_s is None else ago_s + seconds

        return replace(
            self,
            claimed_ago_s=self.claimed_ago_s + seconds,
            alive_ago_s=self.alive_ago_s + seconds,
            heard_ago_s=later(self.heard_ago_s),
            told_ago_s=later(self.told_ago_s),
            drained_ago_s=later(self.drained_ago_s),
            ended_ago_s=later(self.ended_ago_s),
            time_left_s=None if self.time_left_s is None else self.time_left_s - seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What is to be written of why jobs wait."""

    groups: Mapping[str, str]
    """Job -> the group whose reason it shows from now on."""
    texts: Mapping[str, Pending]
    """Group -> its reason, where that is new."""
    unused: frozenset[str]
    """Groups that no job shows any more."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.texts or self.unused)


SHORT_OF_ROOM = frozenset({"InsufficientGpus", "InsufficientCpus", "Fragmented", "BehindPriority"})
"""Words of those that would start if there were more room, and nothing else is in their way."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one live attempt takes of the cluster."""

    job_id: str
    plan: Plan
    ends_in_s: float | None
    """Seconds until its time limit ends it; None without one."""
    is_gone: bool = False
    """Ended a moment ago: Ray's numbers may still hold it, the ledger no longer does."""
    user: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What admission needs to know of a job in the queue."""

    job_id: str
    resources: Mapping[str, Any]
    time_limit_s: float | None
    """Seconds it may run, those of earlier attempts taken off; None without a limit."""
    waits_for: str | None
    """A job in `after` that has not succeeded yet."""
    dependency_ended_as: str | None
    """The state in which that job ended, so that it will never succeed."""
    is_still_alive: bool
    """Its last attempt is not known to be gone."""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What its owners have said of the sharing of this queue."""

    max_gpus: Mapping[str, float] = field(default_factory=dict)
    """User -> GPUs that all jobs of this user together may hold."""
    drained_by: str | None = None
    """Who has the queue drained, so that nothing starts; None while it is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admit:
    """Start the job."""

    grant: Grant
    plan: Plan


@dataclass(frozen=True, slots=True)
class Wait:
    """Leave the job in the queue, and say why. Thousands share one."""

    reason: Pending


@dataclass(frozen=True, slots=True)
class Reject:
    """End the job: it can never start."""

    reason: Pending


Verdict = Admit | Wait | Reject
OPEN = Rules()
