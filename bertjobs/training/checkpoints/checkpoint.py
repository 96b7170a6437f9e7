"""Write, publish, prune and read the checkpoints of a job; an incomplete one is never read as a whole one.

    checkpoints/step-00000040-a3/
        model.safetensors       the weights, under the model's own names
        optimizer.safetensors   AdamW's moments
        state.json              progress of the run, best result so far, and which run it belongs to
        manifest.json           size and SHA-256 of each of the others; written last

There is no state of a random generator: order and dropout masks are functions of (seed, step, row). Which
checkpoint counts is decided by whoever implements `Hooks.publish_checkpoint`. Nothing is unpickled.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bertjobs.errors import ModelError
from bertjobs.storage import JobDir, sha256_of
from bertjobs.training.checkpoints.checkpoint_names import (
    checkpoint_name,
    checkpoints_at,
    checkpoints_before,
    superseded,
)
from bertjobs.training.monitoring.progress import Hooks

logger = logging.getLogger(__name__)

_FOLDER = "checkpoints"
_MANIFEST = "manifest.json"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_VERSION = 1
_HINT = "Remove the folder; `bertjobs retry` then starts from the beginning."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to continue bit for bit."""

    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


def store_checkpoint(job_dir: JobDir, checkpoint: Checkpoint, *, num_done: int) -> str:
    """Write a checkpoint into the job's folder, and return its name; nobody resumes from it yet.

    Killed at any point, it changes no other one: a folder appears by a rename, under a name that no other
    attempt writes to. Raises: StorageError: no space or no permission.
    """
    name = checkpoint_name(num_done, writer=job_dir.writer)
    with job_dir.new_dir(f"{_FOLDER}/{name}") as folder:
        write_checkpoint(folder, checkpoint)
    return name


def publish_checkpoint(
    job_dir: JobDir,
    name: str,
    *,
    num_done: int,
    previous: str | None,
    best_step: int | None,
    hooks: Hooks,
) -> None:
    """Publish a stored checkpoint through the hooks, and remove the ones no longer needed.

    previous: the one published before. Only those are removed that are neither one of the two newest
    published ones nor the best.

    Raises: StorageError: no permission. LeaseLost: another attempt owns the job; then nothing is removed.
    """
    hooks.publish_checkpoint(name, num_done)
    logger.info("checkpoint %s published", name)
    # Only now, since a lost lease has raised above: the other attempt may be reading the older ones.
    for old in superseded(job_dir.list(_FOLDER), published=name, previous=previous, best_step=best_step):
        job_dir.remove(f"{_FOLDER}/{old}")


def read_published_checkpoint(job_dir: JobDir, name: str) -> Checkpoint:
    """Read a checkpoint of a job. Raises: ModelError: it is damaged. StorageError: it is missing."""
    with job_dir.open_dir(f"{_FOLDER}/{name}") as folder:
        return read_checkpoint(folder)


def find_checkpoint(job_dir: JobDir, step: int) -> str:
    """Return the name of the checkpoint after this step, by whichever attempt. Raises: StorageError."""
    return next(iter(checkpoints_at(job_dir.list(_FOLDER), step)), checkpoint_name(step))


def read_checkpoint_or_earlier(job_dir: JobDir, name: str) -> Checkpoint:
    """Read a checkpoint, or the latest one before it where it is damaged.

    Raises: ModelError: it is damaged, and there is no other. StorageError: it is missing.
    """
    try:
        return read_published_checkpoint(job_dir, name)
    except ModelError as e:
        for earlier in checkpoints_before(job_dir.list(_FOLDER), name):
            try:
                checkpoint = read_published_checkpoint(job_dir, earlier)
            except ModelError:
                continue
            logger.warning("%s. Resuming from %s instead", str(e).splitlines()[0].rstrip("."), earlier)
            return checkpoint
        raise


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into an empty folder; each file is on disk before the manifest that names it.

    Raises: OSError: no space or no permission; `JobDir.new_dir` turns it into a StorageError.
    """
    save_file(_contiguous(checkpoint.model), folder / _MODEL)
    save_file(_contiguous(checkpoint.optimizer), folder / _OPTIMIZER)
    (folder / _STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    files = {name: _synced_size_and_hash(folder / name) for name in (_MODEL, _OPTIMIZER, _STATE)}
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({"version": _VERSION, "files": files}, indent=1), encoding="utf-8")
    _fsync(manifest)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a whole checkpoint onto the CPU, after checking it.

    Raises: ModelError: it is incomplete, was changed since it was written, or is no checkpoint.
    """
    verify_checkpoint(folder)
    return Checkpoint(
        model=_read_tensors(folder / _MODEL),
        optimizer=_read_tensors(folder / _OPTIMIZER),
        state=_read_json(folder / _STATE),
    )


def verify_checkpoint(folder: Path) -> None:
    """Check all files of a checkpoint against its manifest.

    Raises: ModelError: a file is missing, shorter or longer than written, or has other content.
    """
    if not (folder / _MANIFEST).is_file():
        raise ModelError(f"Checkpoint {folder} has no {_MANIFEST}: it is incomplete", hint=_HINT)
    for name, written in _read_manifest(folder / _MANIFEST).items():
        _verify(folder / name, **written)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    manifest = _read_json(path)
    is_whole = isinstance(manifest, dict) and manifest.keys() == {"version", "files"}
    if is_whole and manifest["version"] != _VERSION:
        raise ModelError(
            f"Checkpoint {path.parent} has version {manifest['version']}, this program reads {_VERSION}",
            hint="Resume it with the program that wrote it, or start a new job.",
        )
    if not is_whole or set(manifest["files"]) != {_MODEL, _OPTIMIZER, _STATE}:
        raise ModelError(f"{path} does not describe a checkpoint of this program", hint=_HINT)
    for written in manifest["files"].values():
        if not isinstance(written, dict) or written.keys() != {"size_bytes", "sha256"}:
            raise ModelError(f"{path} does not describe a checkpoint of this program", hint=_HINT)
    return dict(manifest["files"])


def _verify(path: Path, *, size_bytes: int, sha256: str) -> None:
    if not path.is_file():
        raise ModelError(f"Checkpoint file {path} is missing", hint=_HINT)
    found_bytes = path.stat().st_size
    if found_bytes != size_bytes:
        raise ModelError(
            f"Checkpoint file {path} was cut short or changed: it has {found_bytes} bytes, {size_bytes} were "
            "written",
            hint=_HINT,
        )
    if sha256_of(path) != sha256:
        raise ModelError(
            f"Checkpoint file {path} was changed: its SHA-256 is not the one written", hint=_HINT
        )


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as e:
        raise ModelError(f"Checkpoint file {path} cannot be read: {e}", hint=_HINT) from e


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as e:
        raise ModelError(f"Checkpoint file {path} is not JSON: {e}", hint=_HINT) from e


def _synced_size_and_hash(path: Path) -> dict[str, Any]:
    _fsync(path)
    return {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
