"""Whether Redis keeps what it is told: version, persistence, eviction, encryption, rights."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from bertjobs.errors import BertjobsError
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.stack.doctor.check import Check, broken, ok, warning
from bertjobs.stack.redis_server import MIN_VERSION

FULL_RATIO = 0.9


def check_redis(connection: Connection) -> Iterator[Check]:
    """Look at a Redis that answers."""
    yield check_encryption(connection.where)
    try:
        with connection.errors():
            info: Any = connection.client.info()
    except BertjobsError as e:
        yield broken("redis rights", e.message, e.hint)
        return
    yield check_version(info)
    yield check_persistence(info)
    yield check_eviction(info)
    yield check_memory(info)
    yield _check_rights(connection, is_remote=not _is_local(connection.where))


def check_version(info: Mapping[str, Any]) -> Check:
    """Compare with the oldest version that the scripts work on."""
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) >= MIN_VERSION:
        return ok("redis version", version)
    oldest = ".".join(map(str, MIN_VERSION))
    return broken("redis version", version, f"Update Redis to {oldest} or later.")


def check_persistence(info: Mapping[str, Any]) -> Check:
    """See that what was accepted is still there after a crash."""
    name, status = "redis persistence", str(info["aof_last_write_status"])
    if not info["aof_enabled"]:
        remedy = "Set `appendonly yes` in its configuration; cluster/redis/redis.conf has it."
        return broken(name, "no append-only file: a crash loses the queue", remedy)
    if status != "ok":
        return broken(name, f"the last write to the append-only file: {status}", "Free room on its disk.")
    return ok(name, "append-only file, its last write ok")


def check_eviction(info: Mapping[str, Any]) -> Check:
    """See that a full Redis refuses writes, and drops nothing."""
    policy = str(info["maxmemory_policy"])
    if policy == "noeviction":
        return ok("redis eviction", policy)
    remedy = "Set `maxmemory-policy noeviction` in its configuration."
    return broken("redis eviction", f"{policy}: jobs are dropped when memory is full", remedy)


def check_memory(info: Mapping[str, Any]) -> Check:
    """See that there is room for more jobs."""
    used, most = int(info["used_memory"]), int(info["maxmemory"])
    found = f"{used / 2**20:.0f} MiB used" + (f" of {most / 2**20:.0f}" if most else "")
    if most and used > FULL_RATIO * most:
        return warning("redis memory", found, "Raise `maxmemory`, or drop old jobs.")
    return ok("redis memory", found)


def check_encryption(url: str) -> Check:
    """See that neither passwords nor jobs cross a network in the clear."""
    if url.startswith("rediss:"):
        return ok("redis encryption", f"TLS to {url}")
    if _is_local(url):
        return ok("redis encryption", f"not needed to {url}: it does not leave this machine")
    remedy = "Give Redis a certificate (cluster/redis/redis.conf) and use rediss:// in BERTJOBS_REDIS_URL."
    return warning("redis encryption", f"none to {url}: passwords cross the network in the clear", remedy)


def _check_rights(connection: Connection, *, is_remote: bool) -> Check:
    try:
        with connection.errors():
            user = str(connection.client.acl_whoami())
        JobStore(connection).list(limit=1)
    except BertjobsError as e:
        return broken("redis rights", e.message, e.hint)
    if user == "default" and is_remote:
        remedy = "Give Redis the access list cluster/redis/users.acl, and set BERTJOBS_REDIS_USER."
        return warning("redis rights", "we are the default user, who may do everything", remedy)
    return ok("redis rights", f"user {user} may do what its commands need")


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
