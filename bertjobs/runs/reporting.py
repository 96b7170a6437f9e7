"""What the step loop calls while it goes, turned into reports.

What training tells Ray's metrics agent, so that it stands in the Grafana of the Ray dashboard. Lives in
the worker of rank 0; the names are in `jobs.metric_names`.
"""

import time
from dataclasses import dataclass

import torch
from ray.util.metrics import Gauge

from bertjobs.errors import BertjobsError, Cancelled, RunError
from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.jobs.driver.session import JobSession
from bertjobs.jobs.job import JobSummary
from bertjobs.runs.run_context import Reporter
from bertjobs.settings import load_settings
from bertjobs.training.progress import EpochResult, Progress

PROGRESS_INTERVAL_S = 0.25
"""Least time between two reports of progress, whoever they go to; the first and the last step always do."""
SERIES_INTERVAL_S = 0.5
"""Least time between two points of the live series; the whole series is in metrics.jsonl."""


class DriverStopped(RunError):
    """This attempt was asked to end, the job was not: it goes on from its checkpoint."""

    failure = "DriverStopped"


class Drained(RunError):
    """The queue is drained: the job goes on from its checkpoint when it is open again."""

    failure = "Drained"


@dataclass(frozen=True, kw_only=True)
class OpenSession:
    """Opens a worker's own session: with the address from its node's environment, so no secret travels."""

    job_id: str
    attempt: int
    token: int

    def __call__(self) -> Reporter:
        return JobSession.open(load_settings(), job_id=self.job_id, attempt=self.attempt, token=self.token)


class TrainingHooks:
    """`training.Hooks` over a reporter; lives in the worker of rank 0."""

    def __init__(self, reporter: Reporter, *, metric: str) -> None:
        self._reporter = reporter
        self._metric = metric
        self._last_report = self._last_point = float("-inf")
        # Outside the queue there is no job to label them with.
        self._gauges = TrainingGauges(reporter.job) if isinstance(reporter, JobSession) else None

    def on_progress(self, progress: Progress) -> None:
        now, is_last = time.monotonic(), progress.step == progress.num_steps
        if now - self._last_report >= PROGRESS_INTERVAL_S or is_last:
            self._last_report = now
            self._reporter.progress(progress.to_json())
        if now - self._last_point >= SERIES_INTERVAL_S or is_last:
            self._last_point = now
            self._reporter.log_metrics(progress.to_json())
            if self._gauges is not None:
                self._gauges.show(progress, now_s=now, gpu_memory_bytes=_gpu_memory_bytes())

    def on_epoch(self, result: EpochResult) -> None:
        metrics = result.metrics
        self._reporter.log_metrics(
            {
                "step": result.step,
                "epoch": result.epoch,
                "valid_loss": metrics.loss,
                f"valid_{self._metric}": metrics.value_of(self._metric),
                "is_best": result.is_best,
            }
        )

    def publish_checkpoint(self, name: str, step: int) -> None:
        self._reporter.publish_checkpoint(name, step)

    def should_stop(self) -> str | None:
        return self._reporter.command()


def _gpu_memory_bytes() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def stop_reason(command: str) -> BertjobsError:
    """Return what ends an attempt that stopped because it was asked to."""
    if command == "cancel":
        return Cancelled("Cancelled while it ran.")
    if command == "drain":
        return Drained("The queue was drained.")
    return DriverStopped("Stopped as asked, to go on from its last checkpoint.")


class TrainingGauges:
    """The gauges of one job. Each `set` is a note in this process; the agent fetches it when it likes."""

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
