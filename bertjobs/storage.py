"""Paths and URIs of a job's artefacts, and how they are published: written under a new name, then moved into
place. Knows folders and bytes, not what is in them.

A job's folder, under `BERTJOBS_STORAGE/<job id>/`:

    config.json                 the resolved configuration
    checkpoints/<name>/         training state to resume from; Redis says which one counts, under the lease
    model/                      the model to use: config.json, model.safetensors, vocabulary, bertjobs.json
    metrics.json                the final metrics
    metrics.jsonl               the series behind the curves, a step or an epoch a line
    predictions.parquet         texts, labels, predictions, probabilities
    plots/*.png, tensorboard/, logs/a<attempt>.log
"""

import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertjobs.errors import StorageError

_URI = re.compile(r"^[a-z][a-z0-9+.-]+://")


class JobDir:
    """The artefacts of one job, on a local path or any file system that `pyarrow.fs` opens by URI."""

    def __init__(self, root: str, job_id: str) -> None:
        self.uri = f"{root.rstrip('/')}/{job_id}"
        self._is_remote = bool(_URI.match(root)) and not root.startswith("file://")
        self._local = Path(root.removeprefix("file://")) / job_id

    def path_of(self, name: str) -> str:
        """Return where an artefact is, for a person or another program."""
        return f"{self.uri}/{name}" if self._is_remote else str(self._local / name)

    def check_writable(self) -> None:
        """Write and remove a small file. Raises: StorageError: it cannot be done."""
        name = f".probe-{uuid.uuid4().hex[:8]}"
        self.write_bytes(name, b"bertjobs")
        self.remove(name)

    def exists(self, name: str) -> bool:
        """Return whether the file or folder is there."""
        if not self._is_remote:
            return (self._local / name).exists()
        fs, base = self._filesystem()
        return bool(fs.get_file_info(f"{base}/{name}").type.value)

    def read_bytes(self, name: str) -> bytes:
        """Read one file. Raises: StorageError: it is missing or cannot be read."""
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                return (self._local / name).read_bytes()
            fs, base = self._filesystem()
            with fs.open_input_file(f"{base}/{name}") as f:
                return bytes(f.read())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file so that a reader sees all of it or none. Raises: StorageError: no room, no right."""
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                write_atomically(self._local / name, data)
                return
            fs, base = self._filesystem()
            with fs.open_output_stream(f"{base}/{name}") as f:  # object stores publish on close
                f.write(data)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON document atomically."""
        self.write_bytes(name, json.dumps(value, indent=1, sort_keys=False).encode() + b"\n")

    def read_json(self, name: str) -> Any:
        """Read one JSON document."""
        return json.loads(self.read_bytes(name))

    @contextmanager
    def new_dir(self, name: str) -> Iterator[Path]:
        """Give a local folder to fill; publish it under `name` when the block ends well, else drop it.

        A folder of that name which is already there is replaced. Raises: StorageError.
        """
        with _storage_errors(self.path_of(name)), self._scratch() as scratch:
            yield scratch
            if self._is_remote:
                self._upload(scratch, name)
            else:
                _move_into_place(scratch, self._local / name)

    @contextmanager
    def open_dir(self, name: str) -> Iterator[Path]:
        """Give a published folder as a local path; a remote one is downloaded for the time of the block."""
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                if not (self._local / name).is_dir():
                    raise StorageError(f"{self.path_of(name)} is not there.")
                yield self._local / name
                return
            with tempfile.TemporaryDirectory(prefix="bertjobs-") as scratch:
                fs, base = self._filesystem()
                from pyarrow.fs import LocalFileSystem, copy_files

                copy_files(
                    f"{base}/{name}", scratch, source_filesystem=fs, destination_filesystem=LocalFileSystem()
                )
                yield Path(scratch)

    def list(self, name: str) -> list[str]:
        """Return the names directly under a folder, sorted; nothing where there is no such folder."""
        if not self._is_remote:
            folder = self._local / name
            return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        fs, base = self._filesystem()
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{base}/{name}", allow_not_found=True)
        return sorted(info.base_name for info in fs.get_file_info(selector))

    def remove(self, name: str) -> None:
        """Remove a file or folder if it is there."""
        if not self._is_remote:
            target = self._local / name
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
            return
        fs, base = self._filesystem()
        if self.list(name):
            fs.delete_dir(f"{base}/{name}")
        elif self.exists(name):
            fs.delete_file(f"{base}/{name}")

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Make an empty folder on the disk where the result will lie, so that publishing is a rename."""
        if self._is_remote:
            with tempfile.TemporaryDirectory(prefix="bertjobs-") as scratch:
                yield Path(scratch)
            return
        self._local.mkdir(parents=True, exist_ok=True)
        scratch_path = Path(tempfile.mkdtemp(prefix=".new-", dir=self._local))
        scratch_path.chmod(0o755)
        try:
            yield scratch_path
        finally:
            shutil.rmtree(scratch_path, ignore_errors=True)

    def _upload(self, scratch: Path, name: str) -> None:
        fs, base = self._filesystem()
        from pyarrow.fs import LocalFileSystem, copy_files

        fs.create_dir(f"{base}/{name}", recursive=True)
        copy_files(
            str(scratch), f"{base}/{name}", source_filesystem=LocalFileSystem(), destination_filesystem=fs
        )

    def _filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem  # 120 ms that local paths need not pay

        with _storage_errors(self.uri):
            fs, base = FileSystem.from_uri(self.uri)
        return fs, base


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _move_into_place(scratch: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".old-{target.name}-{uuid.uuid4().hex[:8]}")
    if target.exists():
        target.rename(old)
    scratch.rename(target)
    shutil.rmtree(old, ignore_errors=True)


_REMEDIES = {
    errno.ENOSPC: "The disk is full: free room there, or set BERTJOBS_STORAGE to another place.",
    errno.EDQUOT: "The quota is used up: free room there, or set BERTJOBS_STORAGE to another place.",
    errno.EROFS: "The file system is read-only: set BERTJOBS_STORAGE to a writable place.",
    errno.EACCES: "It may not be written by this user: change its rights, or set BERTJOBS_STORAGE.",
    errno.EPERM: "It may not be written by this user: change its rights, or set BERTJOBS_STORAGE.",
}


@contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        hint = _REMEDIES.get(e.errno or 0, "")
        raise StorageError(f"{where}: {e.strerror or e}.", hint=hint) from e
    except Exception as e:
        # pyarrow's own errors (no such scheme, refused credentials) are ValueErrors and subclasses of these.
        if type(e).__module__.startswith("pyarrow"):
            raise StorageError(f"{where}: {e}.") from e
        raise
