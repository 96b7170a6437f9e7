"""What training tells Ray's metrics agent, so that it stands in the Grafana of the Ray dashboard. Lives in
the worker of rank 0; the names are in `jobs.metric_names`."""

from ray.util.metrics import Gauge

from bertjobs.jobs.dispatcher import metrics as names
from bertjobs.jobs.job import JobSummary
from bertjobs.training.progress import Progress


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
