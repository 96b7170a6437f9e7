"""Log the metrics of every step and evaluation: as JSON lines, and as TensorBoard event files. Rank 0 only.

`metrics.jsonl` is complete; TensorBoard gets at most 2,000 points per curve, so that long runs stay cheap.
"""

import tempfile
from pathlib import Path

from tensorboardX import SummaryWriter

from bertjobs.storage import JobDir
from bertjobs.training.monitoring.metrics_file import MetricsLine, read_metrics_log, write_metrics_log
from bertjobs.training.monitoring.progress import EpochResult, Progress


class MetricsLog:
    """The metrics of all attempts so far, kept in memory and saved as a whole with each checkpoint."""

    def __init__(self, job_dir: JobDir, *, num_done: int, num_steps: int) -> None:
        self._job_dir = job_dir
        self._tensorboard = TensorBoard(job_dir, num_steps=num_steps, first_step=num_done)
        # An earlier attempt may have gone past its last checkpoint: this one takes those steps again.
        self.lines: list[MetricsLine] = [
            line for line in read_metrics_log(job_dir) if line["step"] <= num_done
        ]

    def add_step(self, progress: Progress) -> None:
        line = progress.to_json()
        del line["num_steps"], line["eta_s"]
        self.lines.append({"kind": "step", **line})
        self._tensorboard.add_step(progress)

    def add_epoch(self, result: EpochResult) -> None:
        place = {"epoch": result.epoch, "step": result.step, "is_best": result.is_best}
        self.lines.append({"kind": "epoch", **place, **result.metrics.curves()})
        self._tensorboard.add_epoch(result)

    def save(self) -> None:
        """Write all lines."""
        write_metrics_log(self._job_dir, self.lines)
        self._tensorboard.save()

    def close(self) -> None:
        self._tensorboard.close()


_MAX_STEP_POINTS = 2000


class TensorBoard:
    """Write event files under `tensorboard/`: live on a local path, uploaded by `save` elsewhere."""

    def __init__(self, job_dir: JobDir, *, num_steps: int, first_step: int) -> None:
        self._job_dir = job_dir
        self._every = max(1, num_steps // _MAX_STEP_POINTS)
        target = job_dir.path_of("tensorboard")
        self._is_remote = "://" in target
        self._scratch = tempfile.TemporaryDirectory(prefix="bertjobs-") if self._is_remote else None
        folder = self._scratch.name if self._scratch else target
        Path(folder).mkdir(parents=True, exist_ok=True)
        # An attempt that died may have written past its last checkpoint; purge_step hides those points.
        self._writer = SummaryWriter(folder, purge_step=first_step if first_step else None, flush_secs=5)

    def add_step(self, progress: Progress) -> None:
        if progress.step % self._every and progress.step != progress.num_steps:
            return
        for name, loss in {"loss": progress.loss, **progress.losses}.items():
            self._writer.add_scalar(f"train/{name}", loss, progress.step)
        self._writer.add_scalar("train/lr", progress.lr, progress.step)
        self._writer.add_scalar("train/grad_norm", progress.grad_norm, progress.step)
        self._writer.add_scalar("speed/examples_per_s", progress.examples_per_s, progress.step)

    def add_epoch(self, result: EpochResult) -> None:
        for name, score in result.metrics.curves().items():
            self._writer.add_scalar(f"dev/{name}", score, result.step)

    def save(self) -> None:
        """Flush the events, and upload them where the artefacts are remote."""
        self._writer.flush()
        if self._scratch:
            with self._job_dir.new_dir("tensorboard") as folder:
                for path in Path(self._scratch.name).iterdir():
                    (folder / path.name).write_bytes(path.read_bytes())

    def close(self) -> None:
        self._writer.close()
        if self._scratch:
            self._scratch.cleanup()
