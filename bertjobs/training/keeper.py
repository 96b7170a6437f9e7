"""The checkpoints of one job: which are written, which count, which are kept."""

import logging

from bertjobs.storage import JobDir
from bertjobs.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from bertjobs.training.position import checkpoint_name
from bertjobs.training.progress import Hooks

logger = logging.getLogger(__name__)

_FOLDER = "checkpoints"


def publish(
    job_dir: JobDir, checkpoint: Checkpoint, *, num_done: int, best_step: int | None, hooks: Hooks
) -> None:
    """Write a checkpoint, say that it counts, and remove those that no longer do.

    A death at any point leaves the one published before whole: a folder appears by a rename, and what is
    removed is neither the newest published nor the best.

    Raises: StorageError: no room, no right. LeaseLost: another attempt owns the job; nothing is removed then.
    """
    name = checkpoint_name(num_done)
    with job_dir.new_dir(f"{_FOLDER}/{name}") as folder:
        write_checkpoint(folder, checkpoint)
    hooks.publish_checkpoint(name, num_done)
    logger.info("checkpoint %s published", name)
    kept = {name, *([] if best_step is None else [checkpoint_name(best_step)])}
    for old in job_dir.list(_FOLDER):
        if old not in kept:
            job_dir.remove(f"{_FOLDER}/{old}")


def recall(job_dir: JobDir, name: str) -> Checkpoint:
    """Read a published checkpoint. Raises: ModelError: it is damaged. StorageError: it is not there."""
    with job_dir.open_dir(f"{_FOLDER}/{name}") as folder:
        return read_checkpoint(folder)
