"""The connection to Redis: addresses, timeouts, Lua scripts by name, and Redis' errors as ours.

Knows nothing of jobs. redis-py is imported on the first connection: its 150 ms are more than the rest of a
command that only prints help.
"""

import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from bertjobs.errors import BertjobsError, ConfigError, LeaseLost, QueueError
from bertjobs.jobs.store.tls import tls_mismatch
from bertjobs.settings import Settings

if TYPE_CHECKING:
    from redis import Redis
    from redis.commands.core import Script
    from redis.exceptions import RedisError

CONNECT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 5.0
"""A script takes milliseconds. A blocking read must wait for less than this, or its reply is lost."""

# The errors of Redis 6.2 and 7 where the access list forbids a command or a key, outside and inside a script.
_FORBIDDEN = re.compile(
    r"(?:this user|User \S+|The user executing the script) (?:has no permissions|can't)[^.:]*"
)

# Redis answers and cannot do the work now: the same call succeeds once someone has mended it. In an error of
# a script the word may stand inside (Redis 6.2: `ERR Error running script (...): @user_script:5: -OOM ...`).
_REFUSAL = re.compile(r"(?:^|: -)(OOM|READONLY|NOREPLICAS|MISCONF|LOADING|MASTERDOWN|BUSY) ")
_REMEDIES = {
    "OOM": ("has no memory left for writes", "Raise its `maxmemory`."),
    "READONLY": ("is a read-only replica", "Set BERTJOBS_REDIS_URL to the primary."),
    "NOREPLICAS": (
        "refuses writes: it has fewer replicas than its `min-replicas-to-write`",
        "Start its replicas, or lower `min-replicas-to-write`.",
    ),
    "MISCONF": ("cannot save to its disk and refuses writes", "Free space on its disk; see its log."),
    "LOADING": ("is loading its data from disk", "Wait until it has; see its log."),
    "MASTERDOWN": (
        "is a replica that has lost its primary",
        "Start the primary, and set BERTJOBS_REDIS_URL to it.",
    ),
    "BUSY": ("is busy with another script", "Wait; see its log."),
}

T = TypeVar("T")
_SCRIPTS = Path(__file__).parent / "lua"


class RedisDown(QueueError):
    """Redis cannot be reached, or refuses to write, now; the same call may succeed later."""


class RolledBack(RedisDown):
    """Redis has lost its last seconds: it crashed, or a replica took over. As after an outage, nothing that
    was read before counts, and no heartbeat may have arrived."""


class AccessRefused(QueueError):
    """Redis does not know our user or its password, or does not let it do this. Waiting does not help."""


class NotLeader(QueueError):
    """Another dispatcher has taken over; this one must not write."""


class JobUnknown(QueueError):
    """There is no such job."""


class IdTaken(QueueError):
    """Another job has this id already."""


class KeyTaken(QueueError):
    """The user's job with this idempotency key has another configuration."""

    def __init__(self, key: str | None, job_id: str) -> None:
        super().__init__(
            f"--idempotency-key {key} was given before, to {job_id}, with another configuration",
            hint="Give another key, or the same configuration.",
        )


class RecordInvalid(QueueError):
    """Redis holds something under a job's id that no version of ours has written."""

    def __init__(self, job_id: object) -> None:
        super().__init__(f"The record of job {str(job_id)[:40]!r} in Redis is not valid")


class WrongState(QueueError):
    """The job's state does not allow the change."""

    def __init__(self, state: str) -> None:
        super().__init__(f"The job is {state}")
        self.state = state


class Connection:
    """One Redis and the scripts in `lua/`."""

    def __init__(self, client: "Redis", *, where: str) -> None:
        self.client = client
        self.where = where
        self._scripts: dict[str, Script] = {}

    def run(self, script: str, /, **arg: Any) -> list[Any]:
        """Run `lua/<script>.lua` with one JSON object; arguments that are None are left out.

        Returns what follows 'OK' in the reply.

        Raises: QueueError: Redis is down or refuses us, or the script returned an error. LeaseLost: the token
        is
            outdated.
        """
        # redis-py calls it by its hash, and sends the text only where Redis does not have it.
        if script not in self._scripts:
            self._scripts[script] = self.client.register_script(source_of(script))
        # In Lua a JSON null is not nil, and `if arg.x` would be true for it.
        given = json.dumps({name: value for name, value in arg.items() if value is not None})
        with self.errors():
            reply: list[Any] = self._scripts[script](args=[given])
        if reply[0] == "OK":
            return reply[1:]
        raise _script_error(reply[0], str(reply[1]))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the exceptions of redis-py into our errors."""
        import redis.exceptions as failures

        try:
            yield
        # Before ConnectionError, of which redis-py makes it a kind: waiting would not help here.
        except failures.AuthenticationError as e:
            raise self._unknown_user(str(e)) from e
        except failures.InvalidResponse as e:
            raise RedisDown(
                f"The server at {self.where} is not a Redis", hint="Correct BERTJOBS_REDIS_URL."
            ) from e
        except failures.RedisError as e:
            if word := _refusal(e):
                what, remedy = _REMEDIES[word]
                raise RedisDown(f"Redis at {self.where} {what}", hint=remedy) from e
            # After the words: redis-py makes LOADING a ConnectionError as well, and its remedy is another.
            if isinstance(e, failures.ConnectionError | failures.TimeoutError):
                raise RedisDown(
                    f"Redis at {self.where} cannot be reached: {_last_line(e)}",
                    hint="Start it, or correct BERTJOBS_REDIS_URL; where neither that nor "
                    "BERTJOBS_RAY_ADDRESS is set, `bertjobs cluster up` starts a local one.",
                ) from e
            # Inside a script a refusal has no class of its own, only its text.
            if found := _FORBIDDEN.search(str(e)):
                raise self._forbidden(found[0]) from e
            raise

    def _unknown_user(self, error: str) -> AccessRefused:
        # What Redis answers to the first command of a client without a password.
        has_no_password = "HELLO must be called" in error
        cause = (
            "it asks for a password, and none is set"
            if has_no_password
            else f"{self._user()} has another password, or does not exist"
        )
        return AccessRefused(
            f"Redis at {self.where} refuses us: {cause}",
            hint="Set BERTJOBS_REDIS_USER to a user of its access list, and BERTJOBS_REDIS_PASSWORD_FILE to "
            "a file with this user's password.",
        )

    def _forbidden(self, error: str) -> AccessRefused:
        return AccessRefused(
            f"Redis at {self.where} does not let {self._user()} do this: {error}",
            hint="Set BERTJOBS_REDIS_USER to a user with that right (cli, dispatcher and driver are in "
            "cluster/redis/users.acl), or have it granted.",
        )

    def _user(self) -> str:
        name = self.client.get_connection_kwargs()["username"]
        return f"user {name}" if name else "the default user"

    def close(self) -> None:
        """Close the sockets."""
        self.client.close()


def open_connection(settings: Settings, *, timeout_s: float | None = None) -> Connection:
    """Connect to the configured Redis and ping it.

    timeout_s: for who would rather have no answer than wait: limits the connection and each reply, without a
        second try.

    Raises: ConfigError: the address is missing, invalid or contains a password. QueueError: Redis is down,
        refuses us, or only one of the two sides uses TLS.
    """
    url = _checked_url(settings)
    import_redis_alone()
    import redis
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    client = redis.Redis.from_url(
        url,
        username=settings.redis_user,
        password=settings.redis_password,
        decode_responses=True,
        socket_timeout=timeout_s or REPLY_TIMEOUT_S,
        socket_connect_timeout=timeout_s or CONNECT_TIMEOUT_S,
        # One retry, as Redis may have closed an idle connection. A script may so run twice: those that must
        # not have effect twice recognise the call by a nonce or a line number.
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 0 if timeout_s else 1),
        health_check_interval=30,
        **_tls_options(settings),
    )
    connection = Connection(client, where=url)
    try:
        with connection.errors():
            client.ping()
    except RedisDown as e:
        # With TLS on one side only, Redis looks as if it were down.
        raise tls_mismatch(url, cause=e.__cause__) or e from e.__cause__
    return connection


def retry_while_down(call: Callable[[], T], *, for_s: float) -> T:
    """Repeat a call while Redis is down, for what a restart of Redis must not lose.

    Raises: RedisDown: Redis stayed down for `for_s`. Any other exception of the call is raised at once.
    """
    # Not the wall clock, which may be set while we wait.
    give_up_at = time.monotonic() + for_s
    while True:
        try:
            return call()
        except RedisDown:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(0.5)


@cache
def source_of(script: str) -> str:
    """Return a script with `common.lua` in front of it."""
    return (_SCRIPTS / "common.lua").read_text() + (_SCRIPTS / f"{script}.lua").read_text()


def _refusal(error: "RedisError") -> str | None:
    """Return the word with which Redis refuses to work for now, None where the error is another."""
    # redis-py cuts the word off the errors that have a class of their own, and keeps it as their status.
    status = str(getattr(error, "status_code", None) or "")
    found = _REFUSAL.search(f"{status} {error}" if status else str(error))
    return found[1] if found else None


def import_redis_alone() -> None:
    """Import redis-py without OpenTelemetry, which it imports where it is installed, as it is with Ray.

    That would take half of the import's time, in every command and heartbeat, for metrics that nobody reads.
    """
    # Loaded already: there is no time to save, and a loaded module must not be hidden.
    if "redis" in sys.modules or "opentelemetry" in sys.modules:
        return
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # None marks a module as missing
    try:
        importlib.import_module("redis")
    finally:
        # Whoever needs it later must find it.
        del sys.modules["opentelemetry"]


def _script_error(word: str, detail: str) -> BertjobsError:
    # Scripts answer with a word. The errors that they stand for are raised here and nowhere else.
    if word == "LEASE_LOST":
        return LeaseLost(f"{detail}: this attempt no longer owns the job; it publishes nothing")
    if word == "NOT_LEADER":
        return NotLeader("Another dispatcher has taken over")
    if word == "ROLLED_BACK":
        return RolledBack("Redis has lost its last seconds; everything is read again")
    if word == "UNKNOWN":
        return JobUnknown(f"There is no job {detail}", hint="`bertjobs list --all` shows the jobs.")
    if word == "AMBIGUOUS":
        return QueueError(f"Several jobs begin with {detail}", hint="Give more characters of the id.")
    if word == "INVALID":
        return RecordInvalid(detail)
    if word == "TAKEN":
        return IdTaken(f"{detail} is taken")
    assert word in ("STATE", "ALIVE"), f"a script replied {word}"
    return WrongState(detail if word == "STATE" else "still running its last attempt")


def _checked_url(settings: Settings) -> str:
    url = settings.redis_url
    if url is None:
        raise ConfigError(
            "There is no Redis address", hint="Set BERTJOBS_REDIS_URL, or run `bertjobs cluster up`."
        )
    parts = urlsplit(url)
    if parts.password or parts.username:
        raise ConfigError(
            f"BERTJOBS_REDIS_URL contains a {'password' if parts.password else 'user name'}; addresses are "
            "shown in logs and passed to drivers",
            hint="Remove it and set BERTJOBS_REDIS_USER and BERTJOBS_REDIS_PASSWORD_FILE.",
        )
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(
            f"BERTJOBS_REDIS_URL={url} is not the address of a Redis",
            hint="Use redis://host:6379/0, rediss://host:6380/0 or unix:///path/to/socket.",
        )
    return url


def _tls_options(settings: Settings) -> dict[str, Any]:
    ca_file, url = settings.redis_ca_file, str(settings.redis_url)
    if ca_file is None:
        return {}
    if not url.startswith("rediss://"):
        raise ConfigError(
            f"BERTJOBS_REDIS_CA_FILE is set, and BERTJOBS_REDIS_URL={url} does not use TLS",
            hint="Give the address as rediss://host:6380/0, or unset BERTJOBS_REDIS_CA_FILE.",
        )
    if not ca_file.is_file():
        raise ConfigError(
            f"BERTJOBS_REDIS_CA_FILE={ca_file}: there is no such file",
            hint="Set it to the certificate (PEM) of the authority that signed Redis' certificate.",
        )
    return {"ssl_ca_certs": str(ca_file)}


def _last_line(e: Exception) -> str:
    return (str(e) or type(e).__name__).splitlines()[-1].rstrip(".")
