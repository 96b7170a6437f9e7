"""A training state on disk, written so that half of one is never taken for a whole one.

    model.safetensors       the weights, under the model's own names
    optimizer.safetensors   AdamW's moments
    state.json              where the run stands: step, best result so far, what run it belongs to
    manifest.json           size and SHA-256 of each of the others; written last

There is no state of a random generator: order and dropout masks are functions of (seed, step, row).
Publishing a folder (rename, lease) is the caller's. Nothing is unpickled.

The checkpoints of one job: which are written, which count, which are kept.
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
from bertjobs.training.progress import Hooks
from bertjobs.training.run_state import checkpoint_name

_MANIFEST = "manifest.json"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_VERSION = 1
_CHUNK_BYTES = 1 << 20
_REMEDY = "Remove the folder; `bertjobs retry` then starts from the beginning."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if nothing had happened."""

    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Fill an empty folder; each file is on disk before the manifest that vouches for it.

    Raises: OSError: no room or no right; `JobDir.new_dir` turns it into a StorageError.
    """
    save_file(_plain(checkpoint.model), folder / _MODEL)
    save_file(_plain(checkpoint.optimizer), folder / _OPTIMIZER)
    (folder / _STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    files = {name: _seal(folder / name) for name in (_MODEL, _OPTIMIZER, _STATE)}
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({"version": _VERSION, "files": files}, indent=1), encoding="utf-8")
    _flush(manifest)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a whole checkpoint onto the CPU, after checking it.

    Raises: ModelError: it was cut short, changed since it was written, or is none.
    """
    verify_checkpoint(folder)
    return Checkpoint(
        model=_tensors(folder / _MODEL),
        optimizer=_tensors(folder / _OPTIMIZER),
        state=_json(folder / _STATE),
    )


def read_weights(folder: Path) -> Mapping[str, torch.Tensor]:
    """Read only the weights, after checking the whole folder. Raises: ModelError: as `read_checkpoint`."""
    verify_checkpoint(folder)
    return _tensors(folder / _MODEL)


def verify_checkpoint(folder: Path) -> None:
    """Raises: ModelError: a file is missing, shorter or longer than written, or has other content."""
    if not (folder / _MANIFEST).is_file():
        raise ModelError(
            f"Checkpoint {folder} has no {_MANIFEST}: it was not written to its end.", hint=_REMEDY
        )
    for name, written in _read_manifest(folder / _MANIFEST).items():
        _verify(folder / name, **written)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    manifest = _json(path)
    is_whole = isinstance(manifest, dict) and manifest.keys() == {"version", "files"}
    if is_whole and manifest["version"] != _VERSION:
        raise ModelError(
            f"Checkpoint {path.parent} has version {manifest['version']}, this program reads {_VERSION}.",
            hint="Resume it with the program that wrote it, or start the job anew.",
        )
    if not is_whole or set(manifest["files"]) != {_MODEL, _OPTIMIZER, _STATE}:
        raise ModelError(f"{path} does not describe a checkpoint of this program.", hint=_REMEDY)
    for written in manifest["files"].values():
        if not isinstance(written, dict) or written.keys() != {"size_bytes", "sha256"}:
            raise ModelError(f"{path} does not describe a checkpoint of this program.", hint=_REMEDY)
    return dict(manifest["files"])


def _verify(path: Path, *, size_bytes: int, sha256: str) -> None:
    if not path.is_file():
        raise ModelError(f"Checkpoint file {path} is missing.", hint=_REMEDY)
    found_bytes = path.stat().st_size
    if found_bytes != size_bytes:
        raise ModelError(
            f"Checkpoint file {path} was cut short or changed: it has {found_bytes} bytes, {size_bytes} were "
            "written.",
            hint=_REMEDY,
        )
    if sha256_of(path) != sha256:
        raise ModelError(
            f"Checkpoint file {path} was changed: its SHA-256 is not the one written.", hint=_REMEDY
        )


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as e:
        raise ModelError(f"Checkpoint file {path} cannot be read: {e}.", hint=_REMEDY) from e


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as e:
        raise ModelError(f"Checkpoint file {path} is not JSON: {e}.", hint=_REMEDY) from e


def _seal(path: Path) -> dict[str, Any]:
    _flush(path)
    return {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
