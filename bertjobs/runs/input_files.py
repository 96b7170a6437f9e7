"""Bring files that only the submitting machine has to the nodes of a shared cluster.

`submit` sends them into the storage, under a name made of their content, so that the same file is sent once;
the driver fetches them from an object store, and checks them against the list that was written last. Files in
the storage, or in a folder that the nodes share, stay where they are. Imports no ray.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjobs.config import JobConfig, with_values
from bertjobs.config.load import Config
from bertjobs.errors import ConfigError
from bertjobs.jobs.uploads import INPUTS, MANIFEST, check_upload, is_whole, manifest_of, note_use, uploads_of
from bertjobs.runs import cache_limit
from bertjobs.settings import Settings
from bertjobs.storage import JobDir
from bertjobs.text.corpus.files import PUBLISHED_CORPORA, find_files
from bertjobs.text.datasets.splits import downloads_dir
from bertjobs.text.datasets.tasks import archive_of

FLAG_OF_PATH = {
    "task.name": "--task",
    "data.path": "--data",
    "data.corpus": "--corpus",
    "data.valid": "--valid",
    "data.valid_split": "--valid-split",
    "data.split": "--split",
    "model.source": "--model",
    "model.vocab": "--vocab",
}
"""Where a configuration names files; their paths are absolute here."""
READ_BY_ALL_NODES = ("pretrain", "encode", "predict")
"""Kinds whose data each node opens itself, its own part; for the others the driver reads the data."""

Announce = Callable[[str], None]


def send_inputs(kind: str, config: Config, *, settings: Settings, announce: Announce) -> Config:
    """Send the files that the nodes cannot see; return the config with all paths as the nodes see them.

    Raises: ConfigError: too much to send, or no storage that the nodes could see. StorageError: no space
        left, no permission.
    """
    if settings.is_one_machine:
        return config
    _check_storage(settings)
    unseen = {
        path: local
        for path, local in _local_files(kind, config, cache=settings.cache).items()
        if not any(local.is_relative_to(folder) for folder in settings.shared_folders)
    }
    _check_unseen(kind, unseen, settings)
    sent = {path: _send(local, settings.storage, announce) for path, local in unseen.items()}
    return with_values(config, sent)


def fetch_inputs(config: Config, *, storage: str, cache: Path) -> Config:
    """Return the config with local copies of the files that were sent into an object store.

    Copies are checked by size and checksum; what was sent into a folder that the nodes share, by size.

    Raises: StorageError: one of them cannot be read, or is not whole.
    """
    folder = uploads_of(storage)
    prefix, fetched = folder.path_of("").rstrip("/") + "/", {}
    for path in FLAG_OF_PATH:
        value = _value(config, path)
        if value is None or not value.startswith(prefix):
            continue
        key, name = value.removeprefix(prefix).split("/")
        if folder.is_remote:
            fetched[path] = str(_fetch(folder, key, name, cache=cache / INPUTS) / name)
        elif folder.exists(
            f"{key}/{MANIFEST}"
        ):  # earlier versions wrote none, and moved a whole folder there
            check_upload(Path(folder.path_of(key)), where=folder.path_of(key), reads_content=False)
    return with_values(config, fetched)


def content_key(path: Path) -> str:
    """Name a file or folder by what is in it."""
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path.parent)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:32]


def _local_files(kind: str, config: JobConfig, *, cache: Path) -> dict[str, Path]:
    """Return the files that the config names, and the downloads that it implies."""
    values = {path: _value(config, path) for path in FLAG_OF_PATH}
    found = {path: Path(value) for path, value in values.items() if value and value.startswith("/")}
    if values["data.path"] is None:
        if archive := archive_of(values["task.name"]):
            found["data.path"] = downloads_dir(cache) / archive
        if values["data.corpus"] in PUBLISHED_CORPORA:
            train, *_ = find_files(values["data.corpus"], None, split="train", cache=cache)
            found["data.path"] = train.path.parent
    return found


def _value(config: JobConfig, path: str) -> str | None:
    section, field = path.split(".")
    found: Any = getattr(getattr(config, section, None), field, None)
    return found if isinstance(found, str) else None


def _check_storage(settings: Settings) -> None:
    if settings.storage == str(settings.home / "jobs"):
        raise ConfigError(
            f"Jobs would be stored in {settings.storage}, which the nodes of a shared cluster cannot see",
            hint="Set BERTJOBS_STORAGE to a folder that all nodes mount, or to an object store.",
        )


def _check_unseen(kind: str, unseen: dict[str, Path], settings: Settings) -> None:
    remedy = "Copy it to a folder that the nodes see too, and name that folder in BERTJOBS_SHARED_FOLDERS"
    total_bytes = 0
    for path, local in unseen.items():
        what = f"{FLAG_OF_PATH[path]} {local}: the nodes of the cluster cannot see it"
        if not local.exists():  # a pattern of names
            raise ConfigError(f"{what}, and patterns are not sent", hint=f"{remedy}, or give a folder.")
        if kind in READ_BY_ALL_NODES and path.startswith("data.") and "://" in settings.storage:
            raise ConfigError(f"{what}, and they read it from a folder", hint=f"{remedy}.")
        total_bytes += sum(file.stat().st_size for file in _files(local))
        if total_bytes > settings.max_upload_mb * 1e6:
            size = f"{total_bytes / 1e6:.0f} MB are more than the limit of {settings.max_upload_mb:g} MB"
            raise ConfigError(f"{what}, and {size}", hint=f"{remedy}, or raise BERTJOBS_MAX_UPLOAD_MB.")


def _send(local: Path, storage: str, announce: Announce) -> str:
    key, folder = content_key(local), uploads_of(storage)
    if not is_whole(folder, key):
        announce(f"Sending {local} to {folder.path_of(key)}")
        with folder.new_dir(key) as scratch:
            _copy(local, scratch)
            manifest = manifest_of(scratch)
        # Last: an upload whose `submit` was killed before is not taken for whole.
        folder.write_json(f"{key}/{MANIFEST}", manifest)
    else:
        note_use(folder, key)
    return folder.path_of(f"{key}/{local.name}")


def _copy(source: Path, folder: Path) -> None:
    """Copy a file or folder into another folder."""
    for file in _files(source):
        target = folder / file.relative_to(source.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _files(path: Path) -> list[Path]:
    """Return the file, or the files in the folder, sorted; without hidden ones (.git)."""
    if path.is_file():
        return [path]
    found = [p for p in path.rglob("*") if p.is_file()]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))


def _fetch(folder: JobDir, key: str, name: str, *, cache: Path) -> Path:
    """Return a local copy of one input; several drivers on a node may fetch it at the same time."""
    target = cache / key
    if target.exists():
        cache_limit.note_use(target)
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with folder.open_dir(key) as source, tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as scratch:
        copied = Path(scratch) / key
        shutil.copytree(source, copied)
        # Where an earlier version sent it there is no list, but the key is a checksum of all of it.
        if (copied / MANIFEST).exists() or content_key(copied / name) != key:
            check_upload(copied, where=folder.path_of(key), reads_content=True)
        if not target.exists():
            copied.rename(target)
    return target
