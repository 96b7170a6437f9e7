"""Whether Redis keeps what it is told: version, persistence, eviction, encryption, rights.

Whether somebody dispatches, and whether our clock and Redis' agree.

Whether Ray answers, is the version that our code was made for, has nodes, and asks for a token.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from bertjobs.errors import BertjobsError
from bertjobs.jobs.dispatcher.loop import LEADER_LEASE_S
from bertjobs.jobs.ray.api import RayApi
from bertjobs.jobs.scheduling.sizing import count_of
from bertjobs.jobs.scheduling.types import Cluster
from bertjobs.jobs.store.connection import Connection
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.stack import ray_head
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
    yield check_redis_version(info)
    yield check_persistence(info)
    yield check_eviction(info)
    yield check_memory(info)
    yield _check_rights(connection, is_remote=not _is_local(connection.where))


def check_redis_version(info: Mapping[str, Any]) -> Check:
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


CLOCKS_APART_S = 5.0
"""Leases are counted by Redis' clock alone; certificates, tokens and people compare with ours."""


def check_queue(connection: Connection, *, clock: Callable[[], float] = time.time) -> Iterator[Check]:
    """Look at the leader's mark, and at the time."""
    with connection.errors():
        leader: Any = connection.client.get("bj:leader")
        left_ms: Any = connection.client.pttl("bj:leader")
        seconds, micros = connection.client.time()  # type: ignore[misc]
    yield check_leader(leader, left_s=left_ms / 1000)
    yield check_clock("this machine", clock() - (int(seconds) + int(micros) / 1e6))


def check_leader(leader: str | None, *, left_s: float) -> Check:
    """See that somebody leads, and has said so lately."""
    if leader is None:
        remedy = "Start `bertjobs dispatcher`; two of them, so that one stands by."
        return broken("dispatcher", "none leads: no job is started, none is watched", remedy)
    host, pid, *_ = leader.split(":")
    return ok("dispatcher", f"{host} (pid {pid}) leads, heard {LEADER_LEASE_S - left_s:.1f} s ago")


def check_clock(whose: str, ahead_s: float) -> Check:
    """Compare a clock with Redis'."""
    found = f"{whose} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} Redis"
    if abs(ahead_s) > CLOCKS_APART_S:
        return warning("clock", found, "Run a time service (chrony, systemd-timesyncd) on both.")
    return ok("clock", found)


RAY_SERIES = "2.60"
"""The one that pyproject.toml admits, for places where Ray is not installed; a test compares them."""


def check_ray(address: str, ray: RayApi, *, token: str | None) -> Iterator[Check]:
    """Look at a Ray; stops at the first thing without which the rest cannot be asked."""
    try:
        version, cluster = ray.version(), ray.cluster()
    except BertjobsError as e:
        yield broken("ray", e.message, e.hint or "See the log of its head.")
        return
    yield check_ray_version(version)
    yield check_nodes(cluster)
    yield check_token(is_open=ray_head.probe(address, token=None) == "up", has_token=token is not None)


def check_ray_version(version: str) -> Check:
    """Compare with ours: what travels between Ray processes is pickled, so they have to be the same."""
    if re.match(re.escape(RAY_SERIES) + r"(\.|$)", version):
        return ok("ray version", version)
    return broken(
        "ray version", f"{version}, ours is {RAY_SERIES}", f"Install ray {RAY_SERIES} on its nodes."
    )


def check_nodes(cluster: Cluster) -> Check:
    """Say what there is to train on."""
    if not cluster.nodes:
        return broken("ray nodes", "none", "Start nodes: `ray start --address=HEAD:6379`, or see cluster/.")
    found = f"{count_of(len(cluster.nodes), 'node')}, {count_of(cluster.cpus, 'CPU')}, "
    return ok("ray nodes", found + count_of(cluster.gpus, "GPU"))


def check_token(*, is_open: bool, has_token: bool) -> Check:
    """See that not everyone who reaches the dashboard can run code there."""
    if is_open:
        remedy = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node, and start Ray again."
        return warning("ray token", "it asks for none: who reaches its dashboard runs code on it", remedy)
    assert has_token, "who has no token was refused before"
    return ok("ray token", "it asks for one, and takes ours")
