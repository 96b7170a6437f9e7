"""The input and the output of admission. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bertjobs.jobs.job import Grant, State
from bertjobs.jobs.scheduling.free_resources import Placement


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of the cluster: its total resources, and what Ray reports as in use."""

    id: str
    cpus: float
    gpus: float
    used_cpus: float = 0.0
    used_gpus: float = 0.0
    driver_slots: float | None = None
    """Drivers that the node may hold; None where it holds none, or where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All living nodes."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def driver_slots(self) -> int | None:
        """Drivers that the cluster may hold; None where it is not known."""
        known = [node.driver_slots for node in self.nodes if node.driver_slots is not None]
        return int(sum(known)) if known else None


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingJob:
    """What admission needs to know about a job in the queue."""

    job_id: str
    resources: Mapping[str, Any]
    time_limit_s: float | None
    """Seconds it may run, minus those of earlier attempts; None without a limit."""
    waits_for: str | None
    """A job in `after` that has not succeeded yet."""
    dependency_ended_as: str | None
    """The state in which that job ended, so that it will never succeed."""
    is_still_alive: bool
    """Its last attempt is not known to be gone."""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What one live attempt holds of the cluster."""

    job_id: str
    placement: Placement
    ends_in_s: float | None
    """Seconds until its time limit ends it; None without one."""
    is_gone: bool = False
    """Ended a moment ago: Ray's numbers may still count it, although it holds nothing."""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """The limits of each user, and whether the queue is drained."""

    max_gpus: Mapping[str, float] = field(default_factory=dict)
    """User -> GPUs that all jobs of this user may hold together; no entry, no limit."""
    drained_by: str | None = None
    """Who drained the queue, so that nothing starts; None while it is open."""


NO_QUOTAS = Quotas()


@dataclass(frozen=True, kw_only=True)
class WaitReason:
    """Why a job waits: a word and a sentence. `REASONS` lists the words."""

    word: str
    message: str
    group: str = ""
    """The same for all jobs that wait for the same thing, while the numbers in the message change. By default
    the word and the message."""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", f"{self.word}:{self.message}")


REASONS: Mapping[str, str] = {
    "Submitted": "No dispatcher has looked at the job yet.",
    "Held": "Held by a user; `bertjobs release` puts it back.",
    "BackoffUntil": "Waits before the next attempt.",
    "WaitingForDependency": "Starts after another job has succeeded.",
    "LastAttemptAlive": "Starts once Ray confirms that the last attempt is gone.",
    "Draining": "The queue is drained; nothing starts.",
    "RayUnreachable": "Ray's dashboard does not answer.",
    "NoNodesYet": "Ray answers and has no node yet: it is starting, or no node has joined.",
    "ExceedsCluster": "The cluster could not hold the job even if it were empty.",
    "UserLimit": "The user's jobs hold as many GPUs as `bertjobs cluster limit` allows.",
    "InsufficientGpus": "Too few GPUs are free.",
    "InsufficientCpus": "Too few CPUs are free.",
    "Fragmented": "Enough is free in total, but not on any one node.",
    "DriverSlots": "As many drivers run as the nodes that hold them have memory for.",
    "BehindPriority": "Fits, but would delay a job that is ahead in the queue.",
}
"""Every word that tells why a job waits, with what it means."""

SHORT_OF_RESOURCES = frozenset({"InsufficientGpus", "InsufficientCpus", "Fragmented", "BehindPriority"})
"""Words of jobs that wait for resources only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admit:
    """Start the job."""

    grant: Grant
    placement: Placement


@dataclass(frozen=True, slots=True)
class Wait:
    """Leave the job in the queue. Thousands of jobs share one instance."""

    reason: WaitReason


@dataclass(frozen=True, slots=True)
class Reject:
    """Fail the job: it can never start."""

    reason: WaitReason


AdmissionDecision = Admit | Wait | Reject


@dataclass(frozen=True, kw_only=True)
class LiveAttempt:
    """An attempt whose Ray Job is not known to be gone.

    Ages are seconds by Redis' clock; None for what has not happened.
    """

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
    """Ray has confirmed that it accepted the job."""
    claimed_ago_s: float
    progress_ago_s: float
    """Since the last report of a phase or of progress, or since the claim."""
    heartbeat_ago_s: float | None
    cancel_ago_s: float | None
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
    num_stalls: int
    phase: str
    """What the driver is doing; empty before its first report."""
    is_stalled: bool
    """Its heartbeat has found that it makes no progress."""
    outcome: str
    """The state the job took when the attempt ended; empty before."""
    failure: str
    """The class of failure; empty for none."""
    placement: Placement
    """Node id -> CPUs and GPUs: as planned, or as the driver reported."""

    def aged(self, seconds: float) -> "LiveAttempt":
        """Return the attempt as it is `seconds` later if nothing happened in between."""

        def later(ago_s: float | None) -> float | None:
            return None if ago_s is None else ago_s + seconds

        return replace(
            self,
            claimed_ago_s=self.claimed_ago_s + seconds,
            progress_ago_s=self.progress_ago_s + seconds,
            heartbeat_ago_s=later(self.heartbeat_ago_s),
            cancel_ago_s=later(self.cancel_ago_s),
            drained_ago_s=later(self.drained_ago_s),
            ended_ago_s=later(self.ended_ago_s),
            time_left_s=None if self.time_left_s is None else self.time_left_s - seconds,
        )


@dataclass(frozen=True, kw_only=True)
class ReasonChanges:
    """What has to be written to Redis about why jobs wait."""

    groups: Mapping[str, str]
    """Job -> the group whose reason it shows from now on."""
    texts: Mapping[str, WaitReason]
    """Group -> its reason, where that is new."""
    unused: frozenset[str]
    """Groups that no job shows any more."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.texts or self.unused)
