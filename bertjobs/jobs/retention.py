"""What becomes of ended jobs in time. Nothing here touches a job that has not ended, or whose driver may
live.

A job whose time is over (`--keep`, `BERTJOBS_KEEP_S`, or `cluster clean --older-than`)

- is *thinned*: its logs, its TensorBoard files, and checkpoints that are neither the last published nor the
  best are removed from its folder. Configuration, model, metrics, predictions, plots and those two
  checkpoints stay, for good: nothing here removes a result.
- and is *forgotten*: Redis drops the job with its attempts, events and series, so that no command knows it
  any more. One that another stored job follows, or whose model it uses, stays known until that is forgotten.

Thinned first: killed in between, the next cleaning finds the job again.

The dispatcher's cleaning up, in a thread of its own: a slow file system may take longer to remove a folder
than a pass may last.
"""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import BertjobsError, StorageError
from bertjobs.jobs.dispatcher.driver_log import LOG_FOLDER
from bertjobs.jobs.store.connection import Connection, WrongState
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.storage import JobDir
from bertjobs.training.run_state import checkpoint_name

logger = logging.getLogger(__name__)

PAGE = 100
"""Jobs that the dispatcher cleans up at a time."""
ALL = 2**31
_CHECKPOINTS, _DROPPED = "checkpoints", (LOG_FOLDER, "tensorboard")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job whose time is over."""

    job_id: str
    job_dir: JobDir
    kept_checkpoints: frozenset[str]
    """The last one published and the best; empty where it is not known which is the best, and all stay."""
    is_thinned: bool
    is_followed: bool
    """Another job that is stored follows it or uses its model."""


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was, or would be, done with one job."""

    job_id: str
    folder: str
    removed: tuple[str, ...]
    """What was taken out of its folder."""
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
    """Cleans up in one Redis, and in the storage of its jobs."""

    def __init__(self, connection: Connection, *, term: int | None = None) -> None:
        self._connection = connection
        self._term = term
        """The dispatcher's term, to be refused once another one leads; None for a person."""

    def clean(self, *, older_than_s: float | None = None, is_dry_run: bool = False) -> Iterator[Cleaned]:
        """Thin and forget jobs that ended so long ago, or by default those whose own time is over.

        One whose folder cannot be reached is left for next time. Raises: NotLeader, RedisDown.
        """
        for ended in self._ended(older_than_s):
            try:
                removed = () if ended.is_thinned else tuple(_dispensable(ended))
                if not is_dry_run:
                    for name in removed:
                        ended.job_dir.remove(name)
            except StorageError as e:
                logger.warning("%s is not cleaned up: %s", ended.job_id, e)
                continue
            is_forgotten = not ended.is_followed if is_dry_run else self._forget(ended.job_id)
            if removed or is_forgotten:
                yield Cleaned(
                    job_id=ended.job_id,
                    folder=ended.job_dir.uri,
                    removed=removed,
                    is_forgotten=is_forgotten,
                )

    def _ended(self, older_than_s: float | None) -> list[Ended]:
        older_than_ms = None if older_than_s is None else int(older_than_s * 1000)
        limit = PAGE if self._term is not None else ALL
        (document,) = self._connection.run("ended", older_than_ms=older_than_ms, limit=limit)
        return [_ended_of(row) for row in json.loads(document)]

    def _forget(self, job_id: str) -> bool:
        try:
            (outcome,) = self._connection.run("forget", id=job_id, term=self._term)
        except WrongState:
            logger.info("%s stays: it was retried meanwhile", job_id)
            return False
        return bool(outcome == "forgotten")


def _ended_of(row: list[Any]) -> Ended:
    job_id, storage, checkpoint, metrics, thinned_at, num_followers = row
    results = json.loads(metrics) if metrics else {}
    kept = (
        {checkpoint, checkpoint_name(results["best_step"])} if checkpoint and "best_step" in results else ()
    )
    return Ended(
        job_id=job_id,
        job_dir=JobDir(storage, job_id),
        kept_checkpoints=frozenset(kept),
        is_thinned=bool(thinned_at),
        is_followed=num_followers > 0,
    )


def _dispensable(ended: Ended) -> Iterator[str]:
    """Name what a folder can do without, as far as it is there."""
    for name in _DROPPED:
        if ended.job_dir.exists(name):
            yield name
    if ended.kept_checkpoints:
        for name in ended.job_dir.list(_CHECKPOINTS):
            if name not in ended.kept_checkpoints:
                yield f"{_CHECKPOINTS}/{name}"


CLEAN_INTERVAL_S = 300.0


class Janitor:
    """Cleans up every few minutes while we lead, from `start` to `close`."""

    def __init__(self, store: DispatchStore) -> None:
        self._store = store
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Clean up no more; what is under way ends with the process, and is safe to be cut off."""
        self._is_closed.set()

    def clean(self) -> None:
        """Clean up once. Raises: NotLeader, RedisDown."""
        if not self._store.term:
            return
        for job in Retention(self._store.connection, term=self._store.term).clean():
            logger.info(
                "%s: %s; removed from %s: %s",
                job.job_id,
                "forgotten" if job.is_forgotten else "thinned",
                job.folder,
                ", ".join(job.removed) or "nothing",
            )

    def _run(self) -> None:
        while not self._is_closed.wait(CLEAN_INTERVAL_S):
            try:
                self.clean()
            except BertjobsError as e:
                logger.warning("not cleaned up: %s", e)
            except Exception:  # it is for no one's sake but the disk's: the dispatcher must go on
                logger.exception("cleaning up failed")
