"""What the dispatcher remembers of Redis between passes, so that a pass reads only what has changed."""

from collections.abc import Mapping

from bertjobs.jobs.backlog import Backlog
from bertjobs.jobs.dispatch_store import DispatchStore
from bertjobs.jobs.job import State
from bertjobs.jobs.ledger import Ledger
from bertjobs.jobs.verdicts import OPEN, Rules


class Mirror:
    """The queue and the live attempts as of the last `refresh`."""

    def __init__(self, store: DispatchStore) -> None:
        self._store = store
        self.forget()

    def forget(self) -> None:
        """Read everything anew at the next `refresh`: another one may have led, or a pass broke off."""
        self._version = -1
        self.backlog, self.ledger = Backlog(), Ledger()
        self.now_ms = 0
        self.counts: Mapping[State, int] = {}
        self.rules: Rules = OPEN

    def refresh(self) -> None:
        """Read what has changed. Raises: NotLeader, RedisDown."""
        if self._version < 0:
            self._begin()
        while True:
            changes = self._store.changes(since=self._version)
            self.backlog.take(changes.queued, now_ms=changes.now_ms)
            self.ledger.take(changes.live, now_ms=changes.now_ms)
            self.ledger.overdue = changes.overdue
            self._version, self.now_ms = changes.version, changes.now_ms
            self.counts, self.rules = changes.counts, changes.rules
            if changes.is_complete:
                return

    def _begin(self) -> None:
        # What changes while this is read has a later version, and is read once more.
        self._version = self._store.changes(since=-1).version
        self.backlog.begin(self._store.queue(), reasons=self._store.reasons())
        now_ms, live = self._store.live()
        self.ledger.take({attempt.job_id: attempt for attempt in live}, now_ms=now_ms)
