"""The folders of jobs, on a local path or any file system of `pyarrow.fs`, and how artefacts are published in
them: written under a new name, then moved into place. Knows files and folders, not what is in them.

A job's folder, under `BERTJOBS_STORAGE/<job id>/`:

    config.json                 the resolved configuration
    checkpoints/<name>/         training state to resume from; Redis says which one counts, under the lease
    model-a<attempt>/           the model to use: config.json, model.safetensors, vocabulary, bertjobs.json;
                                `artifacts.model` of the job names it. Outside the queue it is `model/`
    outputs-a<attempt>/         what an attempt leaves besides: predictions, plots, metrics; `artifacts` names
                                those of the attempt that succeeded, which copies them to:
    metrics.json                the final metrics
    results/                    which attempts have succeeded, with their metrics and artefacts
    series.jsonl                the live series that Redis had, once the job has ended
    metrics.jsonl               the series behind the curves, a step or an epoch a line
    predictions.parquet         texts, labels, predictions, probabilities
    embeddings/part-*.parquet   lines and their vectors
    plots/*.png, tensorboard/, profile/, logs/a<attempt>.log
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import StorageError, os_error_may_pass

_URI = re.compile(r"^[a-z][a-z0-9+.-]+://")
_UNPUBLISHED = re.compile(r"\.new-[0-9a-f]{8}")
_REPLACED = re.compile(r"\.old-(.+)-[0-9a-f]{8}")
"""Names of a folder before it is published, and while it is being replaced."""


RECOVERED_DEPTH = 5
"""Levels of a job's folder that `recover` looks at: a trial writes trials/<number>/checkpoints/<name>."""


class StorageRoots:
    """The places in which the storage of jobs may be. A job's record in Redis names its storage, and whoever
    may submit jobs can write there; so the dispatcher writes and deletes in these places only."""

    def __init__(self, roots: Iterable[str] | None) -> None:
        """With None every place is allowed."""
        self._roots = None if roots is None else tuple(root.rstrip("/") for root in roots)

    def contain(self, job_dir: "JobDir") -> bool:
        """Return whether a job's folder is in one of them. Follows the links of a local path."""
        if self._roots is None:
            return True
        if job_dir.is_remote:
            return any(_is_below(job_dir.uri, root) for root in self._roots)
        places = [Path(root or "/") for root in self._roots if "://" not in root]
        try:
            folder = Path(job_dir.path_of("")).resolve()
            return any(folder.is_relative_to(place.resolve()) for place in places)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
            return False


def _is_below(uri: str, root: str) -> bool:
    # A query could name another server, and an escaped character could be a dot.
    rest = uri.removeprefix(f"{root}/")
    return rest != uri and not re.search(r"[?#%\\]", rest) and not {"", ".", ".."} & set(rest.split("/"))


class JobDir:
    """The artefacts of one job, on a local path or any file system that `pyarrow.fs` opens by URI."""

    def __init__(self, root: str, job_id: str, *, writer: str = "", is_shared: bool = False) -> None:
        """`writer` is the attempt that writes (`a3`), part of the names that attempts must not share.

        With `is_shared` several users write here: where the setgid bit of the storage says that it belongs to
        a group, its members may replace and remove each other's files, whatever the umask of their owner.
        """
        self.writer = writer
        self._is_shared = is_shared
        self.uri = f"{root.rstrip('/')}/{job_id}"
        self._is_remote = bool(_URI.match(root)) and not root.startswith("file://")
        self._local = Path(root.removeprefix("file://")) / job_id

    @property
    def is_remote(self) -> bool:
        """Whether it has an address of another file system, not a local path."""
        return self._is_remote

    def own(self, name: str) -> str:
        """Return the name under which this attempt writes: `model` becomes `model-a3`."""
        return f"{name}-{self.writer}" if self.writer else name

    def outputs(self) -> "JobDir":
        """Return the folder of what this attempt leaves: `outputs-a3`; outside the queue the job's own."""
        return JobDir(self.uri, self.own("outputs")) if self.writer else self

    def path_of(self, name: str) -> str:
        """Return the path or address of an artefact."""
        return f"{self.uri}/{name}" if self._is_remote else str(self._local / name)

    def check_writable(self) -> None:
        """Check that files can be written, with a small one. Raises: StorageError: they cannot."""
        name = f".probe-{uuid.uuid4().hex[:8]}"
        self.write_bytes(name, b"bertjobs")
        self.remove(name)

    def recover(self) -> None:
        """Clean up after a process that was killed: restore a folder that was being replaced, and remove what
        was not published. Only at the start of an attempt, when no other process writes here.

        Raises: StorageError: no right.
        """
        if self._is_remote:
            return  # there nothing is renamed, and unpublished files are in a local temporary folder
        with _storage_errors(str(self._local)):
            for folder in _folders_below(self._local, depth=RECOVERED_DEPTH):
                if found := _REPLACED.fullmatch(folder.name):
                    target = folder.with_name(found[1])
                    shutil.rmtree(folder) if target.exists() else folder.rename(target)
                elif _UNPUBLISHED.fullmatch(folder.name):
                    shutil.rmtree(folder)

    def exists(self, name: str) -> bool:
        """Return whether the file or folder exists. Raises: StorageError: it cannot be determined."""
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                return (self._local / name).exists()
            fs, base = self._filesystem()
            return bool(fs.get_file_info(f"{base}/{name}").type.value)

    def read_bytes(self, name: str, *, start: int = 0) -> bytes:
        """Read one file, from byte `start` on; a negative one counts from the end.

        Raises: StorageError: it is missing or cannot be read.
        """
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                with (self._local / name).open("rb") as f:
                    seek_within(f, start)
                    return f.read()
            fs, base = self._filesystem()
            with fs.open_input_file(f"{base}/{name}") as f:
                seek_within(f, start)
                return bytes(f.read())

    def open_inside(self, name: str) -> Any:
        """Open a file for reading whose name comes from outside; the caller closes it.

        On a local path no link is followed, neither of the file nor of a folder above it, and a name that
        leads out of the job's folder is refused. A remote file system has no links.

        Raises: StorageError: it is missing, cannot be read, or is not a file below the job's folder.
        """
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or "\0" in name:
            raise StorageError(f"{name} is not the name of a file in {self.uri}")
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                return _open_without_links(self._local, parts)
            fs, base = self._filesystem()
            return fs.open_input_file(f"{base}/{name}")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file atomically: a reader sees all of it or the former one.

        Raises: StorageError: no room, no permission.
        """
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                write_atomically(self._local / name, data)
                self._open_to_group(self._local / name)
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
        """Yield an empty local folder; publish it under `name` if the block succeeds, else remove it.

        A published folder of that name is replaced. Raises: StorageError: no room, no permission; also for
        errors of the disk in the block.
        """
        with _storage_errors(self.path_of(name)), self._scratch() as scratch:
            yield scratch
            if self._is_remote:
                self._upload(scratch, name)
            else:
                _share(scratch)
                self._open_to_group(scratch)
                _move_into_place(scratch, self._local / name)

    @contextmanager
    def open_dir(self, name: str) -> Iterator[Path]:
        """Yield a published folder as a local path; a remote one is downloaded and removed after the block.

        Raises: StorageError: it does not exist or cannot be read. Errors of the block are left as they are.
        """
        if not self._is_remote:
            if not self.exists(name):
                raise StorageError(
                    f"{self.path_of(name)} does not exist",
                    hint="Set BERTJOBS_STORAGE to where it is.",
                )
            yield self._local / name
            return
        with tempfile.TemporaryDirectory(prefix="bertjobs-") as scratch:
            self._download(name, scratch)
            yield Path(scratch)

    def list(self, name: str) -> list[str]:
        """Return the names directly under a folder, sorted; none if the folder does not exist.

        Folders that are not published are left out. Raises: StorageError: it cannot be read.
        """
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                folder = self._local / name
                names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
                return sorted(found for found in names if not found.startswith((".new-", ".old-")))
            fs, base = self._filesystem()
            from pyarrow.fs import FileSelector

            selector = FileSelector(f"{base}/{name}", allow_not_found=True)
            return sorted(info.base_name for info in fs.get_file_info(selector))

    def list_files(self, name: str) -> "Sequence[StoredFile]":
        """Return the files below a folder, at any depth; none if it does not exist. Raises: StorageError."""
        with _storage_errors(self.path_of(name)):
            if not self._is_remote:
                folder = self._local / name
                return [StoredFile.of(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
            fs, base = self._filesystem()
            from pyarrow.fs import FileSelector

            selector = FileSelector(f"{base}/{name}", allow_not_found=True, recursive=True)
            return [
                StoredFile(
                    name=info.path.removeprefix(f"{base}/{name}/"),
                    size_bytes=info.size,
                    modified_at_s=(info.mtime_ns or 0) / 1e9,
                )
                for info in fs.get_file_info(selector)
                if info.is_file
            ]

    def remove(self, name: str) -> None:
        """Remove a file or folder if it exists. Raises: StorageError: no permission to remove a file.

        Files of a folder that cannot be removed (a network file system keeps open ones) are left behind.
        """
        with _storage_errors(self.path_of(name)):
            if self._is_remote:
                fs, base = self._filesystem()
                found = fs.get_file_info(f"{base}/{name}")
                if found.is_file:
                    fs.delete_file(found.path)
                elif found.type.value:
                    fs.delete_dir(found.path)
                return
            target = self._local / name
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Make an empty folder on the disk of the result, so that publishing it is a rename."""
        if self._is_remote:
            with tempfile.TemporaryDirectory(prefix="bertjobs-") as scratch:
                yield Path(scratch)
            return
        scratch_path = self._local / f".new-{_unique()}"
        scratch_path.mkdir(parents=True)
        try:
            yield scratch_path
        finally:
            shutil.rmtree(scratch_path, ignore_errors=True)

    def _open_to_group(self, path: Path) -> None:
        """Give the group the rights to what was written, and to the folders that were made for it."""
        if not self._is_shared or not self._local.parent.stat().st_mode & stat.S_ISGID:
            return
        folders = [folder for folder in path.parents if folder.is_relative_to(self._local)]
        for found in [path, *path.rglob("*"), *folders]:
            status = found.stat()
            mode = stat.S_IMODE(status.st_mode) | (0o2070 if found.is_dir() else 0o060)
            if mode != stat.S_IMODE(status.st_mode) and status.st_uid == os.geteuid():
                found.chmod(mode)

    def _download(self, name: str, folder: str) -> None:
        with _storage_errors(self.path_of(name)):
            fs, base = self._filesystem()
            from pyarrow.fs import LocalFileSystem, copy_files

            copy_files(
                f"{base}/{name}", folder, source_filesystem=fs, destination_filesystem=LocalFileSystem()
            )

    def _upload(self, scratch: Path, name: str) -> None:
        fs, base = self._filesystem()
        from pyarrow.fs import LocalFileSystem, copy_files

        fs.create_dir(f"{base}/{name}", recursive=True)
        copy_files(
            str(scratch), f"{base}/{name}", source_filesystem=LocalFileSystem(), destination_filesystem=fs
        )

    def _filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem  # imported here: it takes 120 ms, which local paths do not need

        with _storage_errors(self.uri):
            fs, base = FileSystem.from_uri(self.uri)
        return fs, base


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file below a folder."""

    name: str
    """Its path below the folder."""
    size_bytes: int
    modified_at_s: float
    """Seconds since 1970, by the clock of the file system."""

    @classmethod
    def of(cls, path: Path, folder: Path) -> "StoredFile":
        """Describe a file of the local file system."""
        found = path.stat()
        return cls(name=str(path.relative_to(folder)), size_bytes=found.st_size, modified_at_s=found.st_mtime)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or the former one. Raises: OSError: no room, no
    permission."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside the target to write to; after the block, flush it to disk and rename it to the
    target.

    If the block raises, the target is unchanged. Raises: OSError: no room, no permission.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{_unique()}")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def seek_within(file: Any, start: int) -> tuple[int, int]:
    """Go to byte `start` of an open file, counted from its end where it is negative, and never outside of it.

    Returns the place, and the file's size.
    """
    size_bytes = int(file.seek(0, 2))
    place = max(0, size_bytes + start) if start < 0 else min(start, size_bytes)
    file.seek(place)
    return place, size_bytes


def _open_without_links(folder: Path, parts: Sequence[str]) -> Any:
    """Open a file below a folder, step by step: a link put there in between is not followed either."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder, flags | os.O_DIRECTORY)
    for place, part in enumerate(parts, start=1):
        try:
            # Without O_NONBLOCK the opening of a named pipe would wait for its writer.
            kind = os.O_DIRECTORY if place < len(parts) else os.O_NONBLOCK
            found = os.open(part, flags | kind, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = found
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file")
    return os.fdopen(descriptor, "rb")


def _folders_below(root: Path, *, depth: int) -> Iterator[Path]:
    """Yield the folders below another one, outer ones first; what the caller has removed is not entered."""
    for folder in sorted(path for path in root.glob("*") if path.is_dir() and not path.is_symlink()):
        yield folder
        if depth > 1 and folder.is_dir():
            yield from _folders_below(folder, depth=depth - 1)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk: a rename alone may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without fsync of folders
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _unique() -> str:
    return uuid.uuid4().hex[:8]


def _share(folder: Path) -> None:
    """Give the files the permissions of the folder: safetensors makes files that only their owner can read.

    The folder was made under the umask, so its own mode shows what that allows.
    """
    allowed = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(stat.S_IMODE(path.stat().st_mode) | allowed)


def _move_into_place(scratch: Path, target: Path) -> None:
    """Publish a folder under its name: first what is in it reaches the disk, then the name."""
    for path in [*scratch.rglob("*"), scratch]:
        _sync(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        scratch.rename(target)
        _sync(target.parent)
        return
    old = target.with_name(f".old-{target.name}-{_unique()}")
    target.rename(old)
    try:
        scratch.rename(target)  # if the process is killed before this, `recover` restores the old folder
    except OSError:
        old.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


_HINTS = {
    errno.ENOSPC: "The disk is full: free room there, or set BERTJOBS_STORAGE to another place.",
    errno.EDQUOT: "The quota is used up: free room there, or set BERTJOBS_STORAGE to another place.",
    errno.EROFS: "The file system is read-only: set BERTJOBS_STORAGE to a writable place.",
    errno.EACCES: "This user may not write there: change the permissions, or set BERTJOBS_STORAGE.",
    errno.EPERM: "This user may not write there: change the permissions, or set BERTJOBS_STORAGE.",
    errno.ENOTDIR: "A file is where a folder should be: remove it, or set BERTJOBS_STORAGE to a folder.",
    errno.EEXIST: "A file is where a folder should be: remove it, or set BERTJOBS_STORAGE to a folder.",
    errno.EFBIG: "The file is larger than this user may write: raise `ulimit -f`, or set BERTJOBS_STORAGE.",
}

_HINT = "Check the path and its permissions, or set BERTJOBS_STORAGE to another place."

_OS_ERROR = re.compile(r"\bos error (\d+)\b")
"""How a Rust library, such as safetensors, gives errno inside an error of its own."""


@contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as e:
        raise _storage_error(where, e.errno or 0, e.strerror or str(e)) from e
    except Exception as e:
        if found := _OS_ERROR.search(str(e)):
            number = int(found[1])
            raise _storage_error(where, number, os.strerror(number)) from e
        # pyarrow's own errors (unknown scheme, refused credentials) have no common base but their module.
        if type(e).__module__.startswith("pyarrow"):
            raise _storage_error(where, 0, str(e)) from e
        raise


def _storage_error(where: str, number: int, cause: str) -> StorageError:
    hint = _HINTS.get(number, _HINT)
    return StorageError(f"{where}: {cause.rstrip('.')}", hint=hint, may_pass=os_error_may_pass(number))
