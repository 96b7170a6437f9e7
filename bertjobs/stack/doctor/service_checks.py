"""Checks of the services from this machine.

Redis: version, persistence, eviction, memory, encryption and permissions. The dispatcher: whether one leads,
and whether the clocks agree. Ray: whether it answers, its version, its nodes, and whether it requires a
token.
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
from bertjobs.stack.doctor.check import Check, broken, ok, warning
from bertjobs.stack.redis_server import MIN_VERSION

FULL_RATIO = 0.9
"""Of `maxmemory`, above which the check warns."""
MAX_CLOCK_DIFFERENCE_S = 5.0
"""Leases use Redis' clock only; certificates, tokens and people compare with ours."""
RAY_SERIES = "2.60"
"""The version in pyproject.toml, for places where Ray is not installed; a test compares them."""


def check_redis(connection: Connection) -> Iterator[Check]:
    """Check a Redis that answers."""
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
    """Check that the scripts work on this version."""
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) >= MIN_VERSION:
        return ok("redis version", version)
    oldest = ".".join(map(str, MIN_VERSION))
    return broken("redis version", version, f"Update Redis to {oldest} or later.")


def check_persistence(info: Mapping[str, Any]) -> Check:
    """Check that accepted jobs are still there after a crash."""
    name, status = "redis persistence", str(info["aof_last_write_status"])
    if not info["aof_enabled"]:
        remedy = "Set `appendonly yes` in its configuration, as in `cluster/redis/redis.conf`."
        return broken(name, "no append-only file: a crash loses the queue", remedy)
    if status != "ok":
        return broken(name, f"the last write to the append-only file: {status}", "Free space on its disk.")
    return ok(name, "append-only file; the last write succeeded")


def check_eviction(info: Mapping[str, Any]) -> Check:
    """Check that a full Redis refuses writes instead of deleting jobs."""
    policy = str(info["maxmemory_policy"])
    if policy == "noeviction":
        return ok("redis eviction", policy)
    remedy = "Set `maxmemory-policy noeviction` in its configuration."
    return broken("redis eviction", f"{policy}: jobs are deleted when memory is full", remedy)


def check_memory(info: Mapping[str, Any]) -> Check:
    """Check that there is memory for more jobs."""
    used, most = int(info["used_memory"]), int(info["maxmemory"])
    found = f"{used / 2**20:.0f} MiB used" + (f" of {most / 2**20:.0f}" if most else "")
    if most and used > FULL_RATIO * most:
        return warning(
            "redis memory", found, "Raise `maxmemory`, or delete old jobs with `bertjobs cluster clean`."
        )
    return ok("redis memory", found)


def check_encryption(url: str) -> Check:
    """Check that neither passwords nor jobs are sent over a network unencrypted."""
    if url.startswith("rediss:"):
        return ok("redis encryption", f"TLS to {url}")
    if _is_local(url):
        return ok("redis encryption", f"not needed for {url}: the connection is local")
    remedy = (
        "Give Redis a certificate (`cluster/redis/redis.conf`) and set BERTJOBS_REDIS_URL to rediss://..."
    )
    return warning(
        "redis encryption", f"none to {url}: passwords are sent over the network unencrypted", remedy
    )


def _check_rights(connection: Connection, *, is_remote: bool) -> Check:
    try:
        with connection.errors():
            user = str(connection.client.acl_whoami())
        JobStore(connection).list(limit=1)
    except BertjobsError as e:
        return broken("redis rights", e.message, e.hint)
    if user == "default" and is_remote:
        remedy = "Give Redis the access list `cluster/redis/users.acl`, and set BERTJOBS_REDIS_USER."
        return warning("redis rights", "connected as the default user, who may do everything", remedy)
    return ok("redis rights", f"user {user} may run what the commands need")


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def check_queue(connection: Connection, *, clock: Callable[[], float] = time.time) -> Iterator[Check]:
    """Check the leader, and the clock."""
    with connection.errors():
        leader: Any = connection.client.get("bj:leader")
        left_ms: Any = connection.client.pttl("bj:leader")
        seconds, micros = connection.client.time()
    yield check_leader(leader, left_s=left_ms / 1000)
    yield check_clock("this machine", clock() - (int(seconds) + int(micros) / 1e6))


def check_leader(leader: str | None, *, left_s: float) -> Check:
    """Check that a dispatcher leads and has renewed its leadership."""
    if leader is None:
        remedy = "Start `bertjobs dispatcher`, better two of them, so that one stands by."
        return broken("dispatcher", "none leads: no job is started or supervised", remedy)
    host, pid, *_ = leader.split(":")
    return ok("dispatcher", f"{host} (pid {pid}) leads, renewed {LEADER_LEASE_S - left_s:.1f} s ago")


def check_clock(whose: str, ahead_s: float) -> Check:
    """Compare a clock with that of Redis."""
    found = f"{whose} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} Redis"
    if abs(ahead_s) > MAX_CLOCK_DIFFERENCE_S:
        return warning("clock", found, "Run a time service (chrony or systemd-timesyncd) on both machines.")
    return ok("clock", found)


def check_ray(ray: RayApi, *, has_token: bool) -> Iterator[Check]:
    """Check Ray; a Ray that does not answer is the only result."""
    try:
        version, cluster = ray.version(), ray.cluster()
    except BertjobsError as e:
        yield broken("ray", e.message, e.hint or "See the log of the Ray head.")
        return
    yield check_ray_version(version)
    yield check_nodes(cluster)
    yield check_token(is_open=not ray.requires_token(), has_token=has_token)


def check_ray_version(version: str) -> Check:
    """Check that Ray has our version: Ray processes exchange pickled objects, so versions must not differ."""
    if re.match(re.escape(RAY_SERIES) + r"(\.|$)", version):
        return ok("ray version", version)
    return broken(
        "ray version", f"{version}, ours is {RAY_SERIES}", f"Install ray {RAY_SERIES} on its nodes."
    )


def check_nodes(cluster: Cluster) -> Check:
    """Check that there are nodes."""
    if not cluster.nodes:
        return broken(
            "ray nodes", "none", "Start nodes with `ray start --address=HEAD:6379`, or see `cluster/`."
        )
    found = f"{count_of(len(cluster.nodes), 'node')}, {count_of(cluster.cpus, 'CPU')}, "
    return ok("ray nodes", found + count_of(cluster.gpus, "GPU"))


def check_token(*, is_open: bool, has_token: bool) -> Check:
    """Check that access to the dashboard, which can run code, requires a token."""
    if is_open:
        remedy = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node, and restart Ray."
        return warning(
            "ray token", "none is required: everyone who reaches the dashboard can run code", remedy
        )
    assert has_token, "without a token the version could not be read"
    return ok("ray token", "required, and ours is accepted")
