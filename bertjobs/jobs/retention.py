"""Cleanup of ended jobs. A job that has not ended, or whose driver may still run, is never touched.

A job whose retention time is over (`--keep`, `BERTJOBS_KEEP_S`, or `cluster clean --older-than`)

- is *pruned*: its logs, its TensorBoard files, and all checkpoints but the last published and the best are
  removed from its folder. Configuration, model, metrics, predictions, plots and those two checkpoints stay:
  no result is removed.
- and is *forgotten*: Redis deletes the job with its attempts, events and metrics, so that no command knows it
  any more. While another stored job follows it or uses its model, it is only pruned.

A folder outside the places where the storage of jobs may be (`BERTJOBS_STORAGE_ROOTS`) is left as it is, and
the job is forgotten all the same.

It is pruned first: if the process is killed in between, the next cleanup finds the job again.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import BertjobsError, StorageError
from bertjobs.jobs.dispatcher.driver_log import LOG_FOLDER
from bertjobs.jobs.job import is_job_id
from bertjobs.jobs.move_series import move_ended_series
from bertjobs.jobs.store.connection import Connection, WrongState
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.records import Skip, readable
from bertjobs.jobs.uploads import clean_uploads, keys_in
from bertjobs.storage import JobDir, StorageRoots
from bertjobs.training.checkpoints.checkpoint_names import step_of

logger = logging.getLogger(__name__)

PAGE = 100
"""Jobs that the dispatcher cleans up at a time."""
UNLIMITED = 2**31
CLEAN_INTERVAL_S = 300.0
INPUTS_INTERVAL_S = 3600.0
"""An object store is asked for every file that was sent, so less often."""
_CHECKPOINTS, _REMOVED_FOLDERS = "checkpoints", (LOG_FOLDER, "tensorboard")


@dataclass(frozen=True, kw_only=True)
class EndedJob:
    """A job whose retention time is over."""

    job_id: str
    job_dir: JobDir
    checkpoint: str | None
    """The last published one. Where it or the best step is not known, all checkpoints are kept."""
    best_step: int | None
    """The step of the best checkpoint."""
    is_pruned: bool
    is_followed: bool
    """Another stored job follows it or uses its model."""


@dataclass(frozen=True, kw_only=True)
class CleanedJob:
    """What was done, or would be done, with one job."""

    job_id: str
    folder: str
    removed: tuple[str, ...]
    """Paths in its folder."""
    is_forgotten: bool

    def to_json(self) -> dict[str, Any]:
        """Return it with stable keys, for `--json`."""
        return {
            "id": self.job_id,
            "dir": self.folder,
            "removed": list(self.removed),
            "forgotten": self.is_forgotten,
        }


class Retention:
    """Cleans up in Redis and in the storage of its jobs."""

    def __init__(
        self,
        connection: Connection,
        *,
        roots: StorageRoots,
        term: int | None = None,
        max_ended: int | None = None,
        skip: Skip | None = None,
    ) -> None:
        self._connection = connection
        self._roots = roots
        self._skip = skip or _skip
        self._max_ended = max_ended
        """Ended jobs that are kept, whatever their own time; None: no limit."""
        self._term = term
        """The dispatcher's term, refused once another one leads; None where a user cleans up."""

    def clean(self, *, older_than_s: float | None = None, is_dry_run: bool = False) -> Iterator[CleanedJob]:
        """Prune and forget jobs that ended `older_than_s` ago, or by default those whose own time is over.

        A job whose folder cannot be reached is left for the next time. Raises: NotLeader, RedisDown.
        """
        for ended in self._ended(older_than_s):
            try:
                removed = () if ended.is_pruned else self._removable(ended)
                if not is_dry_run:
                    for name in removed:
                        ended.job_dir.remove(name)
            except StorageError as e:
                logger.warning("%s is not cleaned up: %s", ended.job_id, e)
                continue
            is_forgotten = not ended.is_followed if is_dry_run else self._forget(ended.job_id)
            if removed or is_forgotten:
                yield CleanedJob(
                    job_id=ended.job_id,
                    folder=ended.job_dir.uri,
                    removed=removed,
                    is_forgotten=is_forgotten,
                )

    def _ended(self, older_than_s: float | None) -> list[EndedJob]:
        older_than_ms = None if older_than_s is None else int(older_than_s * 1000)
        limit = PAGE if self._term is not None else UNLIMITED
        (document,) = self._connection.run(
            "list_ended", older_than_ms=older_than_ms, limit=limit, max_ended=self._max_ended
        )
        return list(readable(json.loads(document), _ended_of, skip=self._skip))

    def _removable(self, ended: EndedJob) -> tuple[str, ...]:
        """Return the paths in its folder that can be removed."""
        if not self._roots.contain(ended.job_dir):
            logger.warning(
                "%s: nothing is removed from %s: it is not in a place where the storage of jobs may be; "
                "BERTJOBS_STORAGE_ROOTS names such places",
                ended.job_id,
                ended.job_dir.uri,
            )
            return ()
        return tuple(_removable(ended))

    def _forget(self, job_id: str) -> bool:
        try:
            (outcome,) = self._connection.run("forget", id=job_id, term=self._term)
        except WrongState:
            logger.info("%s is kept: it was retried meanwhile", job_id)
            return False
        return bool(outcome == "forgotten")


def _skip(job_id: object, cause: Exception) -> None:
    logger.warning("the record of job %.40r in Redis is not valid, and is skipped: %.200s", job_id, cause)


def _ended_of(row: Sequence[Any]) -> EndedJob:
    job_id, storage, checkpoint, metrics, thinned_at, num_followers = row
    if not (is_job_id(job_id) and isinstance(storage, str)):
        raise ValueError("not the id of a job, or no storage")
    best_step = _best_step(metrics)
    return EndedJob(
        job_id=job_id,
        job_dir=JobDir(storage, job_id),
        checkpoint=checkpoint,
        best_step=best_step,
        is_pruned=bool(thinned_at),
        is_followed=num_followers > 0,
    )


def _best_step(metrics: Any) -> int | None:
    """Return the step of the best checkpoint; None where the metrics do not say it."""
    try:
        return int(json.loads(metrics)["best_step"]) if metrics else None
    except (ValueError, LookupError, TypeError):
        return None


def _removable(ended: EndedJob) -> Iterator[str]:
    """Yield the paths in its folder that can be removed."""
    for name in _REMOVED_FOLDERS:
        if ended.job_dir.exists(name):
            yield name
    if ended.checkpoint and ended.best_step is not None:
        for name in ended.job_dir.list(_CHECKPOINTS):
            if name != ended.checkpoint and step_of(name) != ended.best_step:
                yield f"{_CHECKPOINTS}/{name}"


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """What is kept of the input files that were sent into a storage."""

    storage: str
    keep_s: float | None
    """Since a job was last submitted with them; None: for good."""
    max_bytes: float | None
    """All together; None: no limit."""


class CleanupThread:
    """Cleans up every few minutes while we lead, from `start` to `close`.

    A thread of its own: on a slow file system removing a folder may take longer than a pass of the
    dispatcher.
    """

    def __init__(
        self,
        store: DispatchStore,
        *,
        roots: StorageRoots,
        inputs: "InputLimits | None" = None,
        max_ended: int | None = None,
    ) -> None:
        self._store = store
        self._roots = roots
        self._inputs = inputs
        self._max_ended = max_ended
        self._inputs_cleaned_at = float("-inf")
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cleanup", daemon=True)

    def start(self) -> None:
        """Start cleaning up."""
        self._thread.start()

    def close(self) -> None:
        """Stop. A cleanup under way ends with the process, which is safe at any point."""
        self._is_closed.set()

    def clean(self) -> None:
        """Clean up once. Raises: NotLeader, RedisDown."""
        if not self._store.term:
            return
        for job in Retention(
            self._store.connection,
            roots=self._roots,
            term=self._store.term,
            max_ended=self._max_ended,
            skip=self._store.skip,
        ).clean():
            logger.info(
                "%s: %s; removed from %s: %s",
                job.job_id,
                "forgotten" if job.is_forgotten else "pruned",
                job.folder,
                ", ".join(job.removed) or "nothing",
            )
        num_moved = move_ended_series(self._store.connection, term=self._store.term, roots=self._roots)
        if num_moved:
            logger.info("the metrics of %d ended jobs were moved to storage", num_moved)
        if self._inputs is not None and time.monotonic() - self._inputs_cleaned_at >= INPUTS_INTERVAL_S:
            self._inputs_cleaned_at = time.monotonic()
            self._clean_inputs(self._inputs)

    def _clean_inputs(self, limits: "InputLimits") -> None:
        gone = clean_uploads(
            limits.storage, used=self._used_inputs, keep_s=limits.keep_s, max_bytes=limits.max_bytes
        )
        if gone:
            logger.info("%d uploads removed from %s/inputs: %s", len(gone), limits.storage, ", ".join(gone))

    def _used_inputs(self) -> set[str]:
        return {key for config in self._store.unfinished_configs() for key in keys_in(config)}

    def _run(self) -> None:
        while not self._is_closed.wait(CLEAN_INTERVAL_S):
            try:
                self.clean()
            except BertjobsError as e:
                logger.warning("cleanup failed: %s", e)
            except Exception:  # a border: the thread must survive, and the dispatcher does not depend on it
                logger.exception("cleanup failed")
