"""The stack's own Ray head: ports, sizes, token, command line and readiness. Does not import ray.

Everything listens on the loopback address and requires a token of this stack, so that several stacks and a
user's own Ray run side by side, and a laptop keeps its cluster when it changes networks.

The only module that relies on Ray's undocumented environment variables and its start hook, as they are in Ray
2.60. The tests that start a real Ray check each of them.
"""

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjobs.errors import QueueError
from bertjobs.stack.paths import StackPaths, unwritable_home
from bertjobs.stack.process import ProcessRecord

_FIRST_PORT, _LAST_PORT = 20000, 32000  # below every system's range for outgoing connections
_NUM_PORTS = 3  # head, dashboard, job agent
_STORE_RATIO, _STORE_MIN_BYTES, _STORE_MAX_BYTES = 0.3, 128 << 20, 2 << 30
_NUM_SESSIONS_KEPT = 2


def url_of(ports: tuple[int, ...]) -> str:
    """Return the address of the dashboard, which is also that of the Jobs API."""
    return f"http://127.0.0.1:{ports[1]}"


def environment(paths: StackPaths) -> dict[str, str]:
    """Return the environment in which Ray, the dispatcher and the drivers find this Ray and no other.

    Source: ray 2.60, `_private/authentication` and the messages of `_raylet`: RAY_AUTH_TOKEN takes precedence
    over RAY_AUTH_TOKEN_PATH, and that over ~/.ray/auth_token.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(paths.ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_START_HOOK": f"{__name__}.{without_client_server.__name__}",
        # On Linux this makes 127.0.0.1 the node's address; it is what macOS has by default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray's default of 15 lets any other program of this machine take the cores from its workers.
        "RAY_worker_niceness": "0",
        # A cancelled driver gets this long instead of 3 s to publish its checkpoint and its state.
        "RAY_JOB_STOP_WAIT_TIME_S": "20",
    }


def command(paths: StackPaths, *, ports: tuple[int, ...]) -> list[str]:
    """Return the command line of a head that stays in the foreground."""
    head, dashboard, agent = ports
    return [
        sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--port={head}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", "--disable-usage-stats",
        "--min-worker-port=0", "--max-worker-port=0",  # any free port
        f"--num-cpus={num_cpus()}", f"--object-store-memory={store_bytes(_shm_bytes())}",
        f"--temp-dir={paths.ray_dir}",
    ]  # fmt: skip


def without_client_server(ray_params: Any, _is_head: bool) -> None:
    """Start no server for remote Ray clients: a process of 90 MB, on a fixed port, that is not used here.

    `ray start` calls it through RAY_START_HOOK: `--ray-client-server-port` cannot turn the server off.
    """
    ray_params.ray_client_server_port = None


def prepare(paths: StackPaths) -> None:
    """Create the token and delete the logs of old sessions. Raises: StorageError: the home cannot be
    written."""
    temporary = paths.ray_token.with_suffix(".new")
    try:
        if not paths.ray_token.exists():
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32))
            temporary.replace(paths.ray_token)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise unwritable_home(paths.ray_token, e) from e
    for old in sorted(paths.ray_dir.glob("session_2*"))[:-_NUM_SESSIONS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def pick_ports(paths: StackPaths, *, last: ProcessRecord | None) -> tuple[int, ...]:
    """Choose free ports: those of last time if they are free, otherwise some that depend on the home's
    path."""
    if last is not None and len(last.ports) == _NUM_PORTS and all(map(is_free, last.ports)):
        return last.ports
    digest = hashlib.sha256(os.fsencode(paths.home)).digest()
    return free_ports(int.from_bytes(digest[:4], "big"), is_free=is_free)


def free_ports(seed: int, *, is_free: Callable[[int], bool]) -> tuple[int, ...]:
    """Return the first free ports from a start that depends on the seed, cyclically through the range."""
    width = _LAST_PORT - _FIRST_PORT
    found = []
    for offset in range(width):
        port = _FIRST_PORT + (seed + offset) % width
        if is_free(port):
            found.append(port)
            if len(found) == _NUM_PORTS:
                break
    return tuple(found)


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port of this machine."""
    with socket.socket() as s:
        s.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: closing connections do not count
        try:
            s.bind(("", port))
        except OSError:
            return False
    return True


def num_cpus(*, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the processors that this process may use: by its affinity and the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if quota not in ("max", "-1"):
            return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    return allowed


def store_bytes(shm_bytes: int) -> int:
    """Size the object store: 30 % of shared memory, between 128 MiB and 2 GiB.

    Where shared memory is smaller than that (64 MiB in a plain container) Ray itself uses a file.
    """
    return max(_STORE_MIN_BYTES, min(_STORE_MAX_BYTES, int(shm_bytes * _STORE_RATIO)))


def is_ready(url: str, *, token: str | None) -> bool:
    """Return whether Ray has a node that jobs can run on; the dashboard answers some seconds before that."""
    from bertjobs.jobs.ray.api import RayApi  # 40 ms that `submit` does not need

    try:
        return bool(RayApi(url, token=token).cluster().nodes)
    except QueueError:
        return False


def read_token(paths: StackPaths) -> str | None:
    """Return the token of this stack's Ray; None if there is none yet."""
    try:
        return paths.ray_token.read_text().strip()
    except FileNotFoundError:
        return None


def _shm_bytes() -> int:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return found.f_frsize * found.f_bavail
