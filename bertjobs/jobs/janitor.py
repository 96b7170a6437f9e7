"""The dispatcher's cleaning up, in a thread of its own: a slow file system may take longer to remove a folder
than a pass may last."""

import logging
import threading

from bertjobs.errors import BertjobsError
from bertjobs.jobs.dispatch_store import DispatchStore
from bertjobs.jobs.retention import Retention

logger = logging.getLogger(__name__)

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
