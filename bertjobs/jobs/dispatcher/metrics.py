"""The names of all metrics, and the interface through which the dispatcher reports them. Knows no Prometheus.

Metrics of the queue are served by the dispatcher at `/metrics` (`BERTJOBS_METRICS_PORT`). Metrics of training
go through Ray's own metrics agent, which prefixes the name with `ray_`: `ray_bertjobs_loss`. Prometheus reads
a histogram as `<name>_bucket`, `<name>_sum` and `<name>_count`. A test holds dashboards and alert rules to
these names.

The label is `job_id`, not `job`: Prometheus itself uses `job` for the scraped target.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bertjobs.jobs.job import State
from bertjobs.jobs.scheduling.types import Cluster, LiveAttempt


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


# Metrics of the queue, from the dispatcher. One that does not lead reports only its version and that.
BUILD = Metric(
    name="bertjobs_build_info",
    kind="gauge",
    help="Always 1; the label is the dispatcher's version.",
    labels=("version",),
)
LEADER = Metric(
    name="bertjobs_leader",
    kind="gauge",
    help="1 while this dispatcher leads the queue, 0 while it stands by or its leadership has expired.",
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

# Metrics of training, from the worker of rank 0. `name` is the job's, empty where it has none.
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
"""What Ray's agent prefixes to the names of training metrics."""


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """The queue after one pass of the leader."""

    counts: Mapping[State, int]
    reasons: Mapping[str, int]
    """Word of the reason -> number of QUEUED jobs."""
    live: Sequence[LiveAttempt]
    overdue: Collection[str]
    """Jobs whose lease has expired."""
    cluster: Cluster | None
    """None while Ray does not answer."""
    is_ray_reachable: bool
    first_waiting_s: float
    is_drained: bool


class QueueObserver:
    """Is told what the dispatcher does. This one ignores it; `QueueMetrics` counts."""

    def pass_finished(self, took_s: float, snapshot: QueueSnapshot | None) -> None:
        """A pass is over; without a snapshot we do not lead."""

    def attempt_claimed(self, attempt: LiveAttempt) -> None:
        """An attempt has been claimed."""

    def attempt_gone(self, attempt: LiveAttempt) -> None:
        """An attempt has ended and its driver has exited."""
