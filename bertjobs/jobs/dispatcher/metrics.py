"""The metrics by name, in one place: dashboards and alert rules refer to these and a test holds them to it.

Those of the queue are served by the dispatcher at `/metrics` (`BERTJOBS_METRICS_PORT`). Those of training go
through Ray's own metrics agent, which writes `ray_` in front of the name: `ray_bertjobs_loss`. As Prometheus
has it, a histogram is read as `<name>_bucket`, `<name>_sum` and `<name>_count`.

The label is `job_id`, not `job`: that one is Prometheus' own, for who was scraped.

What the dispatcher tells of its work to whoever counts it; nobody does unless there is a port for it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import Cluster, Live


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One family of series."""

    name: str
    """As it is scraped; a counter's ends in `_total`."""
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""


# Of the queue, from the dispatcher. One that does not lead says only which version it is, and that it does
# not lead.
BUILD = Metric(
    name="bertjobs_build_info",
    kind="gauge",
    help="Always 1; the label is the dispatcher's version.",
    labels=("version",),
)
LEADER = Metric(
    name="bertjobs_leader",
    kind="gauge",
    help="1 while this dispatcher leads the queue, 0 while it stands by.",
)
JOBS = Metric(
    name="bertjobs_jobs",
    kind="gauge",
    help="Jobs by state; QUEUED ones also by the word why they wait, the label is empty for all others.",
    labels=("state", "reason"),
)
FIRST_WAITING = Metric(
    name="bertjobs_first_waiting_seconds",
    kind="gauge",
    help="How long the first job in the queue that could run on this cluster has waited since it was "
    "submitted or came back; 0 where none waits.",
)
WAITING = Metric(
    name="bertjobs_waiting_seconds",
    kind="histogram",
    help="From entering the queue to the grant, per attempt.",
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600),
)
ATTEMPTS = Metric(
    name="bertjobs_attempts_total",
    kind="counter",
    help="Attempts that have ended, by the state the job took and by the class of failure (empty: none).",
    labels=("outcome", "failure"),
)
SILENCE = Metric(
    name="bertjobs_silence_seconds",
    kind="gauge",
    help="Since the last heartbeat of each attempt that holds a lease.",
    labels=("job_id", "kind", "user"),
)
GPUS_PRESENT = Metric(name="bertjobs_gpus_present", kind="gauge", help="GPUs on Ray's living nodes.")
GPUS_GRANTED = Metric(name="bertjobs_gpus_granted", kind="gauge", help="GPUs granted to live attempts.")
CPUS_PRESENT = Metric(name="bertjobs_cpus_present", kind="gauge", help="CPUs on Ray's living nodes.")
CPUS_GRANTED = Metric(name="bertjobs_cpus_granted", kind="gauge", help="CPUs granted to live attempts.")
NODES = Metric(name="bertjobs_nodes", kind="gauge", help="Ray's living nodes.")
RAY_REACHABLE = Metric(
    name="bertjobs_ray_reachable", kind="gauge", help="1 while Ray's dashboard answers the dispatcher."
)
DRAINING = Metric(
    name="bertjobs_draining", kind="gauge", help="1 while the queue is drained and starts nothing."
)
PASS = Metric(
    name="bertjobs_pass_seconds",
    kind="histogram",
    help="One pass of the dispatcher over live attempts and queue.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
LAST_PASS = Metric(
    name="bertjobs_last_pass_age_seconds",
    kind="gauge",
    help="Since this dispatcher last finished a pass, leading or standing by.",
)

QUEUE_METRICS = (
    BUILD,
    LEADER,
    JOBS,
    FIRST_WAITING,
    WAITING,
    ATTEMPTS,
    SILENCE,
    GPUS_PRESENT,
    GPUS_GRANTED,
    CPUS_PRESENT,
    CPUS_GRANTED,
    NODES,
    RAY_REACHABLE,
    DRAINING,
    PASS,
    LAST_PASS,
)

# Of training, from the worker of rank 0. `name` is the job's, empty where it has none.
TRAINING_LABELS = ("job_id", "kind", "user", "name")
STEP = Metric(
    name="bertjobs_step", kind="gauge", help="Optimizer steps done, of all attempts.", labels=TRAINING_LABELS
)
NUM_STEPS = Metric(
    name="bertjobs_num_steps", kind="gauge", help="Optimizer steps planned.", labels=TRAINING_LABELS
)
LOSS = Metric(
    name="bertjobs_loss", kind="gauge", help="Training loss, as `watch` shows it.", labels=TRAINING_LABELS
)
EXAMPLES_PER_SECOND = Metric(
    name="bertjobs_examples_per_second",
    kind="gauge",
    help="Examples trained per second, over all workers.",
    labels=TRAINING_LABELS,
)
TOKENS_PER_SECOND = Metric(
    name="bertjobs_tokens_per_second",
    kind="gauge",
    help="Tokens trained per second, over all workers.",
    labels=TRAINING_LABELS,
)
STEP_SECONDS = Metric(
    name="bertjobs_step_seconds",
    kind="gauge",
    help="Seconds per optimizer step, averaged since the last report.",
    labels=TRAINING_LABELS,
)
GPU_MEMORY = Metric(
    name="bertjobs_gpu_memory_bytes",
    kind="gauge",
    help="Most GPU memory that the worker of rank 0 has had allocated; absent on a CPU.",
    labels=TRAINING_LABELS,
)

TRAINING_METRICS = (STEP, NUM_STEPS, LOSS, EXAMPLES_PER_SECOND, TOKENS_PER_SECOND, STEP_SECONDS, GPU_MEMORY)
RAY_PREFIX = "ray_"
"""What Ray's agent writes in front of the names of training."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The queue after one pass of the leader."""

    counts: Mapping[State, int]
    reasons: Mapping[str, int]
    """Word why it waits -> number of QUEUED jobs."""
    live: Sequence[Live]
    overdue: Collection[str]
    """Jobs whose lease has run out."""
    cluster: Cluster | None
    """None while Ray does not answer, or has not been asked."""
    is_ray_reachable: bool
    first_waiting_s: float
    is_drained: bool


class Unobserved:
    """Counts nothing."""

    def passed(self, took_s: float, picture: Picture | None) -> None:
        """A pass is over; without a picture we do not lead."""

    def granted(self, attempt: Live) -> None:
        """An attempt has been claimed."""

    def gone(self, attempt: Live) -> None:
        """An attempt has ended and its driver has left."""
