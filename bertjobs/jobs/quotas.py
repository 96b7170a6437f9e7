"""How a queue is shared: limits per user, and draining it. People ask; the dispatcher reads the same in
`changes.lua` and keeps to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bertjobs.jobs.job import grant_of, iso, moment_of
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.records import pairs


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What has been said of the queue, and who holds what."""

    max_gpus: Mapping[str, float]
    """User -> GPUs that the user's jobs may hold together; no entry, no limit."""
    held_gpus: Mapping[str, float]
    """User -> GPUs that the user's live attempts hold; everyone who has one."""
    num_live: int
    """Attempts that run, or have not left yet."""
    drained_by: str | None
    drained_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return it with stable keys, for `--json`."""
        users = sorted({*self.max_gpus, *self.held_gpus})
        nobody: dict[str, float | None] = dict.fromkeys(users)
        limits, held = {**nobody, **self.max_gpus}, {**nobody, **self.held_gpus}
        return {
            "drained_by": self.drained_by,
            "drained_at": iso(self.drained_at),
            "running": self.num_live,
            "users": [{"user": u, "max_gpus": limits[u], "held_gpus": held[u] or 0.0} for u in users],
        }


class SharingStore:
    """The rules of sharing in Redis. Every call raises RedisDown where it is down."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self) -> Sharing:
        """Read the rules, and what is held."""
        limits, live, (drained_by, drained_at) = self._connection.run("sharing")
        held: dict[str, float] = {}
        for user, grant in live:
            held[user] = held.get(user, 0.0) + grant_of(grant).gpus
        return Sharing(
            max_gpus={user: float(gpus) for user, gpus in pairs(limits).items()},
            held_gpus=held,
            num_live=len(live),
            drained_by=drained_by,
            drained_at=moment_of(drained_at),
        )

    def limit(self, user: str, *, gpus: int | None) -> None:
        """Let a user's jobs hold so many GPUs together; None for as many as there are. What runs goes on."""
        self._connection.run("limit", user=user, gpus=gpus)

    def drain(self, *, by: str) -> int:
        """Start nothing from now on; let what runs write a checkpoint and go back into the queue, uncharged.

        Returns how many attempts were told. A second call changes nothing for those that know.
        """
        (told,) = self._connection.run("drain", is_on=True, by=by)
        return int(told)

    def undrain(self) -> None:
        """Open the queue again; attempts that have not heard of the draining yet go on."""
        self._connection.run("drain", is_on=False)
