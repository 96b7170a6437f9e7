"""Write checkpoints while training continues: the state is copied at the step, and a thread writes the copy.

Only writing the files is the thread's. Publishing through the hooks and removing older checkpoints happen
between two steps, on the thread that trains: hooks are called by one thread only, and in the same order as
without a thread. At most one checkpoint is on its way. Killed at any point, the one published before remains.
"""

import logging
import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from bertjobs.storage import JobDir
from bertjobs.training.checkpoints.checkpoint import (
    Checkpoint,
    publish_checkpoint,
    store_checkpoint,
)
from bertjobs.training.monitoring.progress import Hooks

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Write and publish the checkpoints of a run, on rank 0."""

    def __init__(
        self, job_dir: JobDir, *, hooks: Hooks, is_behind: bool, previous: str | None = None
    ) -> None:
        """is_behind: whether a thread writes, else `write` does. previous: what the run resumes from."""
        self._job_dir, self._hooks, self._is_behind = job_dir, hooks, is_behind
        self._published = previous
        self._on_its_way: _Write | None = None

    def write(self, checkpoint: Checkpoint, *, num_done: int, best_step: int | None) -> None:
        """Write a checkpoint and publish it, now or after one of the next steps; see `poll`.

        Raises: as `publish_checkpoint`, for this checkpoint or for the one before.
        """
        self.finish()
        given = copy_to_host(checkpoint) if self._is_behind else HostCopy(checkpoint, is_done=None)
        self._on_its_way = _Write(self._job_dir, given, num_done=num_done, best_step=best_step)
        if not self._is_behind:
            self.finish()

    def poll(self) -> None:
        """Publish the checkpoint that is on its way if it is written. Raises: as `write`."""
        if self._on_its_way is not None and self._on_its_way.is_written():
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is on its way, and publish it. Raises: as `write`."""
        write, self._on_its_way = self._on_its_way, None
        if write is None:
            return
        name = write.wait()
        publish_checkpoint(
            self._job_dir,
            name,
            num_done=write.num_done,
            previous=self._published,
            best_step=write.best_step,
            hooks=self._hooks,
        )
        self._published = name

    def close(self) -> None:
        """Wait for the thread, and publish nothing: after an error, the run is resumed from what is known."""
        if self._on_its_way is not None:
            self._on_its_way.join()
            self._on_its_way = None


class HostCopy:
    """A checkpoint whose tensors are on the host once `wait` returns."""

    def __init__(self, checkpoint: Checkpoint, *, is_done: "torch.cuda.Event | None") -> None:
        self._checkpoint, self._is_done = checkpoint, is_done

    def wait(self) -> Checkpoint:
        """Return it when the device has copied it."""
        if self._is_done is not None:
            self._is_done.synchronize()
        return self._checkpoint


def copy_to_host(checkpoint: Checkpoint) -> HostCopy:
    """Copy the tensors of a checkpoint, so that the next step may change them; from CUDA without a wait."""
    model, optimizer = _copied(checkpoint.model), _copied(checkpoint.optimizer)
    is_done = None
    if any(tensor.is_cuda for tensor in checkpoint.model.values()):
        # The next step's kernels are queued behind the copies, so what they change is copied already.
        is_done = torch.cuda.Event()
        is_done.record()
    return HostCopy(Checkpoint(model=model, optimizer=optimizer, state=checkpoint.state), is_done=is_done)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors.items():
        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name].copy_(tensor.detach(), non_blocking=True)
    return copies


class _Write:
    """One checkpoint that a thread writes."""

    def __init__(self, job_dir: JobDir, given: HostCopy, *, num_done: int, best_step: int | None) -> None:
        self.num_done, self.best_step = num_done, best_step
        self._job_dir, self._given = job_dir, given
        self._name: str | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bertjobs-checkpoint", daemon=True)
        self._thread.start()

    def is_written(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def wait(self) -> str:
        """Return the checkpoint's name once its files are there. Raises: StorageError."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._name is not None
        return self._name

    def _run(self) -> None:
        try:
            self._name = store_checkpoint(self._job_dir, self._given.wait(), num_done=self.num_done)
        except BaseException as e:  # the training thread raises it
            self._error = e
