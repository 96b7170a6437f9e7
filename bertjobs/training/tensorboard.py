"""TensorBoard events beside the artefacts. Rank 0 only; thinned out, so that long runs stay cheap."""

import tempfile
from pathlib import Path

from tensorboardX import SummaryWriter

from bertjobs.storage import JobDir
from bertjobs.training.progress import EpochResult, Progress

_MAX_STEP_POINTS = 2000


class TensorBoard:
    """Event files under `tensorboard/`: live on a local path, uploaded with `save` elsewhere."""

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
        """Bring what was written so far to where it is kept."""
        self._writer.flush()
        if self._scratch:
            with self._job_dir.new_dir("tensorboard") as folder:
                for path in Path(self._scratch.name).iterdir():
                    (folder / path.name).write_bytes(path.read_bytes())

    def close(self) -> None:
        self._writer.close()
        if self._scratch:
            self._scratch.cleanup()
