"""Jobs in Redis, as users and programs see them. Every change is one Lua script (`lua/`).

Redis layout (prefix `bj:`; times are Redis' own clock, in ms since 1970; all payloads are JSON):

    bj:seq                    counter; the order of submission
    bj:ids                    sorted set, all scores 0: ids in lexical order, to find one by its prefix
    bj:all                    sorted set of all jobs by seq
    bj:state:<STATE>          sorted set of the jobs in a state by seq
    bj:queue                  sorted set of QUEUED jobs; score = seq - priority * 10^12, smallest first
    bj:delay                  sorted set of RETRYING jobs by the time at which they go back into the queue
    bj:leases                 sorted set of active jobs by the time at which their lease expires
    bj:live                   set of "<id> <n>": attempts whose Ray Job is not known to be gone
    bj:logs                   set of "<id> <n>": attempts whose driver is gone and whose log is not copied yet
    bj:version, bj:changed    counter of changes, and sorted set of the changed jobs by its value at that
    time:
                              what the dispatcher has not read yet, and the last 10,000 for the page's server
    bj:mark                   left by the dispatcher when it last read changes or claimed a job: shows whether
                              Redis has lost anything since
    bj:reasons                hash group -> [word, sentence]: why the QUEUED jobs of the group wait
    bj:limits                 hash user -> GPUs that the user's jobs may hold together
    bj:drain                  hash by, at: while it exists nothing starts
    bj:expiry                 sorted set of ended jobs by the time from which they may be forgotten
    bj:series                 sorted set of jobs with ended attempts whose metrics are here, by when to try to
                              move them to storage
    bj:idempotency            hash [user, key] -> job id
    bj:leader, bj:term        the leading dispatcher (expires), and a counter of leaders: the fencing token
    bj:tokens                 hash token id -> user, role and hash of a secret (`token_store.py`)
    bj:drivers                how the last leader starts drivers: JSON, for `doctor`
    bj:wake                   list of at most one entry; pushed when the dispatcher should look
    bj:job:<id>               hash: the job
    bj:job:<id>:a<n>          hash: its n-th attempt, with the token, the grant and the driver's command
    bj:job:<id>:followers     set of the jobs that follow it (`after`) or use its model (`uses`)
    bj:job:<id>:events        stream (about 1,000 kept): state, reason, message, attempt
    bj:job:<id>:metrics       stream (about 20,000 kept): values = one JSON object; in storage after the end

Works from Redis 6.2 on one server; not on Redis Cluster, because scripts use keys that are not declared. The
driver's part is `lease_store.py` (below `driver/session.py`), the dispatcher's is `dispatch_store.py`.
"""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bertjobs.errors import QueueError
from bertjobs.jobs.job import Event, Job, JobSummary, State, new_job_id
from bertjobs.jobs.store.connection import Connection, IdTaken, KeyTaken, WrongState, open_connection
from bertjobs.jobs.store.records import (
    SUMMARY_COLUMNS,
    DriverLaunch,
    driver_launch_of,
    event_of,
    job_of,
    summaries_of,
)
from bertjobs.jobs.store.series import stored_entries, stream_entries
from bertjobs.settings import Settings
from bertjobs.storage import JobDir

MAX_PRIORITY = 1000
SLICE_SIZE = 1000
"""Jobs that one call looks at: some ten milliseconds during which Redis answers nobody else."""


class JobStore:
    """The queue as users see it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def submit(
        self,
        kind: str,
        config: Mapping[str, Any],
        *,
        storage: str,
        resources: Mapping[str, Any],
        name: str = "",
        user: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        max_retries: int = 0,
        time_limit_s: float | None = None,
        stall_timeout_s: float | None = None,
        after: Sequence[str] = (),
        uses: Sequence[str] = (),
        hold: bool = False,
        keep_s: float | None = None,
        preset: str | None = None,
    ) -> tuple[Job, bool]:
        """Store a job and queue it. Returns the job and whether it is new: a key that the user has given
        before returns its first job.

        `uses` are jobs whose artefacts it reads; they are kept as long as it is. Without `keep_s` it is kept
        until someone cleans up.

        Raises: QueueError: Redis is down, or `after` or `uses` names an unknown job. KeyTaken: the job of
            this key has another configuration.
        """
        assert abs(priority) <= MAX_PRIORITY, f"priority {priority} is checked by the caller"
        fields = {
            "kind": kind,
            "config": json.dumps(config),
            "resources": json.dumps(resources),
            "storage": storage,
            "name": name,
            "user": user,
            "priority": priority,
            "max_retries": max_retries,
        }
        if time_limit_s is not None:
            fields["time_limit_s"] = time_limit_s
        if stall_timeout_s is not None:
            fields["stall_timeout_s"] = stall_timeout_s
        if keep_s is not None:
            fields["keep_ms"] = int(keep_s * 1000)
        if preset is not None:
            fields["preset"] = preset
        nonce = uuid.uuid4().hex
        dependencies = [self.find(dependency) for dependency in after]
        while True:
            try:
                created, document = self.connection.run(
                    "submit",
                    id=new_job_id(),
                    nonce=nonce,
                    fields=fields,
                    idempotency_key=idempotency_key,
                    after=dependencies,
                    uses=list(uses),
                    hold=hold,
                )
                job = job_of(document)
                if not created and (job.kind != kind or job.config != json.loads(json.dumps(config))):
                    raise KeyTaken(idempotency_key, job.id)
                return job, bool(created)
            except IdTaken:
                continue  # two jobs of the same second drew the same three letters

    def find(self, prefix: str) -> str:
        """Return the full id that begins with `prefix`.

        Raises: JobUnknown: there is none; QueueError: there are several.
        """
        (found,) = self.connection.run("find", prefix=prefix)
        return str(found)

    def get(self, job: str) -> Job:
        """Read one job by its id or an unambiguous prefix of it. Raises: QueueError."""
        (document,) = self.connection.run("get", prefix=job)
        return job_of(document)

    def list(
        self, *, states: Collection[State] | None = None, limit: int | None = 100, user: str | None = None
    ) -> list[JobSummary]:
        """Read the newest jobs, newest first; `limit=None` reads all.

        Redis is asked in slices, so that a long list holds nobody up; a job that is submitted meanwhile may
        be missing.
        """
        rows: Any = []  # `list` is this method here
        cursor: str | None = None
        while cursor != "":
            document, cursor = self.connection.run(
                "list",
                states=None if states is None else [str(state) for state in states],
                limit=-1 if limit is None else limit - len(rows),
                slice=SLICE_SIZE,
                before=cursor,
                user=user,
                columns=SUMMARY_COLUMNS,
            )
            rows += json.loads(document)
        return list(summaries_of(rows))

    def cancel(self, job: str, *, by: str = "") -> Job:
        """End a waiting job at once; ask the driver of an active one to stop (CANCELLING, then CANCELLED).

        A second call changes nothing. Raises: QueueError: the job has already ended otherwise.
        """
        job_id = self.find(job)
        message = f"Cancelled by {by}." if by else "Cancelled."
        (state,) = self.connection.run(
            "cancel", id=job_id, target="CANCELLED", reason="Cancelled", message=message
        )
        if state not in ("CANCELLED", "CANCELLING"):
            raise QueueError(f"{job_id} has already ended as {state}; there is nothing to cancel")
        return self.get(job_id)

    def retry(self, job: str) -> Job:
        """Queue an ended job again, to resume from its last checkpoint; queue a RETRYING one without delay.

        Raises: QueueError: it has succeeded, or has not ended.
        """
        remedy = (
            "Only a job that failed, was cancelled or timed out can be retried; otherwise submit it again."
        )
        return self._change("reopen", job, remedy, nonce=uuid.uuid4().hex)

    def hold(self, job: str, *, by: str = "") -> Job:
        """Take a waiting job out of the queue. Raises: QueueError: it no longer waits."""
        message = f"Held by {by}; `bertjobs release` puts it back." if by else "Held."
        return self._change(
            "hold", job, "Only a waiting job can be held; `bertjobs cancel` ends it.", message=message
        )

    def release(self, job: str) -> Job:
        """Put a held job back into its old place in the queue. Raises: QueueError: it is not held."""
        return self._change("release", job, "Only a held job can be released.")

    def prioritize(self, job: str, priority: int, *, by: str = "") -> Job:
        """Change the priority of a waiting job. Raises: QueueError: it no longer waits."""
        assert abs(priority) <= MAX_PRIORITY, f"priority {priority} is checked by the caller"
        message = f"Priority {priority}, set by {by}." if by else f"Priority {priority}."
        remedy = "Only the priority of a waiting job can be changed."
        return self._change("prioritize", job, remedy, priority=priority, message=message)

    def _change(self, script: str, job: str, remedy: str, **arg: Any) -> Job:
        job_id = self.find(job)
        try:
            self.connection.run(script, id=job_id, **arg)
        except WrongState as e:
            raise QueueError(f"{job_id} is {e.state}", hint=remedy) from e
        return self.get(job_id)

    def events(self, job: str) -> Sequence[Event]:
        """Read a job's timeline, oldest first."""
        with self.connection.errors():
            entries: Any = self.connection.client.xrange(f"bj:job:{self.find(job)}:events")
        return [event_of(entry_id, fields) for entry_id, fields in entries]

    def metrics(self, job: str) -> Sequence[dict[str, Any]]:
        """Read the series behind the curves, oldest first: what `log_metrics` was given. After the job's end
        it is in storage. Raises: StorageError: there it cannot be read."""
        job_id = self.find(job)
        live = dict(stream_entries(self.connection, job_id))
        with self.connection.errors():
            stored_at, storage = self.connection.client.hmget(f"bj:job:{job_id}", ["series_at", "storage"])
        stored = stored_entries(JobDir(str(storage), job_id)) if stored_at else []
        return list((dict(stored) | live).values())

    def dispatcher(self) -> str | None:
        """Return the leading dispatcher (host, pid and start), or None while none runs."""
        with self.connection.errors():
            leader: Any = self.connection.client.get("bj:leader")
        return None if leader is None else str(leader)

    def drivers(self) -> DriverLaunch | None:
        """Return how the last dispatcher that led starts drivers; None where none has said so.

        Raises: RecordInvalid.
        """
        with self.connection.errors():
            found: Any = self.connection.client.get("bj:drivers")
        return None if found is None else driver_launch_of(found)

    def count(self) -> dict[State, int]:
        """Count the jobs in each state."""
        with self.connection.errors(), self.connection.client.pipeline(transaction=False) as pipe:
            for state in State:
                pipe.zcard(f"bj:state:{state}")
            return dict(zip(State, pipe.execute(), strict=True))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def connect(settings: Settings, *, timeout_s: float | None = None) -> JobStore:
    """Open the configured Redis; `timeout_s` as in `open_connection`.

    Raises: ConfigError: no address, or a wrong one. QueueError: Redis is down, or refuses the password or the
    commands.
    """
    return JobStore(open_connection(settings, timeout_s=timeout_s))
