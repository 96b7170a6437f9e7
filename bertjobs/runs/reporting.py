"""How a training worker reports: the hooks that its step loop calls, and the gauges of Ray's dashboard.

Lives in the worker of rank 0. The names of the gauges are in `jobs.dispatcher.metrics`.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from ray.util.metrics import Gauge

from bertjobs.errors import BertjobsError, Cancelled, RunError
from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.driver.stall import dumping_stacks
from bertjobs.jobs.driver.throttle import Throttle, is_last_step
from bertjobs.jobs.job import JobSummary
from bertjobs.runs.run_context import Reporter
from bertjobs.runs.trackers import TrackedRun
from bertjobs.settings import load_settings
from bertjobs.training.monitoring import activity
from bertjobs.training.monitoring.progress import EpochResult, Progress

_NO_METRICS = frozenset({"step", "num_steps", "eta_s"})
"""Values of a report that are no curve."""
SERIES_INTERVAL_S = 0.5
"""Least time between two points of the live series; the whole series is in metrics.jsonl."""


def open_session(*, job_id: str, attempt: int, token: int) -> JobSession:
    """Open a worker's own session, with the address from its node's environment, so that no secret travels.

    Raises: LeaseLost, QueueError: as `JobSession.open`.
    """
    return JobSession.open(load_settings(), job_id=job_id, attempt=attempt, token=token)


@contextmanager
def watched(reporter: Reporter, *, is_first: bool) -> Iterator[None]:
    """Report what a worker does for the duration of the block, and write its stacks into the log where it
    does nothing for most of the stall timeout. is_first: whether it is the rank that reports."""
    if not isinstance(reporter, JobSession):  # outside the queue there is no such timeout
        yield
        return
    reporting = activity.listening(reporter.note_activity) if is_first else nullcontext()
    with dumping_stacks(reporter.stall_timeout_s) as note, activity.listening(note), reporting:
        yield


class TrainingHooks:
    """`training.Hooks` over a reporter, which limits how often progress is sent."""

    def __init__(
        self, reporter: Reporter, *, metric: str, device: torch.device, tracker: TrackedRun | None = None
    ) -> None:
        self._reporter = reporter
        self._tracker = tracker
        self._metric = metric
        self._device = device
        self._series = Throttle(self._add_point, interval_s=SERIES_INTERVAL_S)
        self._latest: Progress | None = None
        # Outside the queue there is no job to label them with.
        self._gauges = TrainingGauges(reporter.job) if isinstance(reporter, JobSession) else None

    def on_progress(self, progress: Progress) -> None:
        values = progress.to_json()
        self._latest = progress
        self._reporter.progress(values)
        self._series.put(values, at_once=is_last_step(values))
        if self._tracker is not None:
            self._tracker.log(
                progress.step,
                {f"train/{name}": value for name, value in values.items() if name not in _NO_METRICS},
            )

    def on_epoch(self, result: EpochResult) -> None:
        self._series.flush()  # the points of the series stay in the order of the steps
        metrics = result.metrics
        if self._tracker is not None:
            scores = metrics.curves().items()
            self._tracker.log(result.step, {f"dev/{name}": value for name, value in scores})
        self._reporter.log_metrics(
            {
                "step": result.step,
                "epoch": result.epoch,
                "valid_loss": metrics.loss,
                f"valid_{self._metric}": metrics.value_of(self._metric),
                "is_best": result.is_best,
            }
        )

    def before_checkpoint(self) -> None:
        self._reporter.confirm_lease()

    def publish_checkpoint(self, name: str, step: int) -> None:
        self._series.flush()
        self._reporter.publish_checkpoint(name, step)

    def should_stop(self) -> str | None:
        return self._reporter.command()

    def _add_point(self, values: Mapping[str, Any]) -> None:
        self._reporter.log_metrics(dict(values))
        if self._gauges is not None and self._latest is not None:
            self._gauges.show(
                self._latest, now_s=time.monotonic(), gpu_memory_bytes=_gpu_memory_bytes(self._device)
            )


def _gpu_memory_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


class DriverStopped(RunError):
    """This attempt was asked to end, the job was not: it resumes from its checkpoint."""

    failure = "DriverStopped"


class Drained(RunError):
    """The queue is drained: the job resumes from its checkpoint when the queue is open again."""

    failure = "Drained"


class Stalled(RunError):
    """The attempt made no progress for too long; its processes hang, or what they wait for does."""

    failure = "Stalled"


def stop_reason(command: str, *, stall_timeout_s: float = 0.0) -> BertjobsError:
    """Return the error that ends an attempt which stopped because it was asked to."""
    if command == "cancel":
        return Cancelled("Cancelled while it ran")
    if command == "drain":
        return Drained("The queue was drained")
    if command == "stalled":
        return Stalled(
            f"No progress for {stall_timeout_s:.0f} s, or for 20 times the median step"
            if stall_timeout_s
            else "No progress for too long",
            hint="The log has the stacks of its processes. `--stall-timeout` allows more time.",
        )
    return DriverStopped("Stopped on request; the next attempt resumes from the last checkpoint")


class TrainingGauges:
    """The gauges of one job. Each `set` is kept in this process; Ray's metrics agent collects it."""

    def __init__(self, job: JobSummary) -> None:
        tags = {"job_id": job.id, "kind": job.kind, "user": job.user, "name": job.name}
        self._gauges = {}
        for metric in names.TRAINING_METRICS:
            gauge = Gauge(metric.name, description=metric.help, tag_keys=metric.labels)
            gauge.set_default_tags(tags)
            self._gauges[metric.name] = gauge
        self._last: tuple[float, int] | None = None

    def show(self, progress: Progress, *, now_s: float, gpu_memory_bytes: int | None) -> None:
        """Show the state after a step, at a monotonic time."""
        values = {
            names.STEP: float(progress.step),
            names.NUM_STEPS: float(progress.num_steps),
            names.LOSS: progress.loss,
            names.EXAMPLES_PER_SECOND: progress.examples_per_s,
            names.TOKENS_PER_SECOND: progress.tokens_per_s,
        }
        if self._last is not None and progress.step > self._last[1]:
            values[names.STEP_SECONDS] = (now_s - self._last[0]) / (progress.step - self._last[1])
        if gpu_memory_bytes is not None:
            values[names.GPU_MEMORY] = float(gpu_memory_bytes)
        self._last = (now_s, progress.step)
        for metric, value in values.items():
            self._gauges[metric.name].set(value)
