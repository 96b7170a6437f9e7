"""GPU limits per user, and draining the queue. Users set both here; the dispatcher reads them with
`changes.lua` and enforces them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bertjobs.jobs.job import grant_of, iso, moment_of
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.records import pairs


@dataclass(frozen=True, kw_only=True)
class QuotaReport:
    """The limits, what each user holds, and whether the queue is drained."""

    max_gpus: Mapping[str, float]
    """User -> GPUs that the user's jobs may hold together; no entry, no limit."""
    held_gpus: Mapping[str, float]
    """User -> GPUs that the user's live attempts hold, for each user with a live attempt."""
    num_live: int
    """Attempts that run, or whose driver has not exited yet."""
    drained_by: str | None
    drained_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return it with stable keys, for `--json`."""
        users = sorted({*self.max_gpus, *self.held_gpus})
        none: dict[str, float | None] = dict.fromkeys(users)
        limits, held = {**none, **self.max_gpus}, {**none, **self.held_gpus}
        return {
            "drained_by": self.drained_by,
            "drained_at": iso(self.drained_at),
            "running": self.num_live,
            "users": [{"user": u, "max_gpus": limits[u], "held_gpus": held[u] or 0.0} for u in users],
        }


class QuotaStore:
    """The quotas in Redis. Every call raises RedisDown where it is down."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self) -> QuotaReport:
        """Read the limits, and what is held."""
        limits, live, (drained_by, drained_at) = self._connection.run("quotas")
        held: dict[str, float] = {}
        for user, grant in live:
            held[user] = held.get(user, 0.0) + grant_of(grant).gpus
        return QuotaReport(
            max_gpus={user: float(gpus) for user, gpus in pairs(limits).items()},
            held_gpus=held,
            num_live=len(live),
            drained_by=drained_by,
            drained_at=moment_of(drained_at),
        )

    def limit(self, user: str, *, gpus: int | None) -> None:
        """Limit the GPUs that a user's jobs hold together; None removes the limit. Running jobs are not
        stopped."""
        self._connection.run("limit", user=user, gpus=gpus)

    def drain(self, *, by: str) -> int:
        """Start nothing from now on; running jobs write a checkpoint and go back into the queue, uncharged.

        Returns the number of attempts that have been told. A second call has no further effect on them.
        """
        (num_told,) = self._connection.run("drain", is_on=True, by=by)
        return int(num_told)

    def undrain(self) -> None:
        """Open the queue again; attempts that have not read the drain command yet continue."""
        self._connection.run("drain", is_on=False)
