"""The stack's own Ray head: ports, sizes, token, command and readiness. Imports no ray.

Everything listens on the loopback address and asks for a token of this stack, so that several stacks and a
user's own Ray live side by side, and a laptop that changes networks keeps its cluster.
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
from typing import Any, Literal

from bertjobs.errors import QueueError
from bertjobs.stack.home import Layout, home_error
from bertjobs.stack.process import Record

_FIRST_PORT, _LAST_PORT = 20000, 32000  # below every system's range for outgoing connections
_NUM_PORTS = 3  # head, dashboard, job agent
_STORE_RATIO, _STORE_MIN_BYTES, _STORE_MAX_BYTES = 0.3, 128 << 20, 2 << 30
_NUM_SESSIONS_KEPT = 2


def url_of(ports: tuple[int, ...]) -> str:
    """Return the address of the dashboard, which is also that of the Jobs API."""
    return f"http://127.0.0.1:{ports[1]}"


def environment(layout: Layout) -> dict[str, str]:
    """Return what Ray, the dispatcher and the drivers need to find and enter this Ray and no other.

    Source: ray 2.60, `_private/authentication` and the messages of `_raylet`: RAY_AUTH_TOKEN goes before
    RAY_AUTH_TOKEN_PATH, which goes before ~/.ray/auth_token.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(layout.ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_START_HOOK": f"{__name__}.{without_client_server.__name__}",
        # On Linux this makes 127.0.0.1 the node's address; it is what macOS has by default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray's own 15 lets any other program of this machine take the workers' cores from them.
        "RAY_worker_niceness": "0",
        # A cancelled driver gets this long, not 3 s, to publish its checkpoint and its state.
        "RAY_JOB_STOP_WAIT_TIME_S": "20",
    }


def command(layout: Layout, *, ports: tuple[int, ...]) -> list[str]:
    """Return the command line of a head that stays in the foreground."""
    head, dashboard, agent = ports
    return [
        sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--port={head}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", "--disable-usage-stats",
        "--min-worker-port=0", "--max-worker-port=0",  # whatever the system has free
        f"--num-cpus={num_cpus()}", f"--object-store-memory={store_bytes(_shm_bytes())}",
        f"--temp-dir={layout.ray_dir}",
    ]  # fmt: skip


def without_client_server(ray_params: Any, _is_head: bool) -> None:
    """Start no server for remote Ray clients: a process of 90 MB, on a fixed port, that nothing here uses.

    Called by `ray start` through RAY_START_HOOK: `--ray-client-server-port` itself cannot say "none".
    """
    ray_params.ray_client_server_port = None


def prepare(layout: Layout) -> None:
    """Make the token and drop the logs of old sessions. Raises: StorageError: the home cannot be written."""
    temporary = layout.ray_token.with_suffix(".new")
    try:
        if not layout.ray_token.exists():
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32))
            temporary.replace(layout.ray_token)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise home_error(layout.ray_token, e) from e
    for old in sorted(layout.ray_dir.glob("session_2*"))[:-_NUM_SESSIONS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def pick_ports(layout: Layout, *, last: Record | None) -> tuple[int, ...]:
    """Choose free ports: those of last time if they still are, else from a place of the home's own on."""
    if last is not None and len(last.ports) == _NUM_PORTS and all(map(is_free, last.ports)):
        return last.ports
    digest = hashlib.sha256(os.fsencode(layout.home)).digest()
    return free_ports(int.from_bytes(digest[:4], "big"), is_free=is_free)


def free_ports(seed: int, *, is_free: Callable[[int], bool]) -> tuple[int, ...]:
    """Return the first free ports from a place that the seed names, round the range."""
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
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what lingers does not count
        try:
            s.bind(("", port))
        except OSError:
            return False
    return True


def num_cpus(*, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the processors this process may use: its affinity, and the quota of its container."""
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

    Where shared memory is smaller than that (64 MiB in a plain container) Ray itself goes to a file.
    """
    return max(_STORE_MIN_BYTES, min(_STORE_MAX_BYTES, int(shm_bytes * _STORE_RATIO)))


def probe(url: str, *, token: str | None, timeout_s: float = 2.0) -> Literal["up", "refused", "unreachable"]:
    """Ask the Jobs API of a dashboard for its version; `refused` is a Ray that wants another token."""
    import urllib.error  # 40 ms, and `submit` does not ask
    import urllib.request

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is not for loopback
    try:
        with opener.open(urllib.request.Request(f"{url}/api/version", headers=headers), timeout=timeout_s):
            return "up"
    except urllib.error.HTTPError as e:
        e.close()
        return "refused" if e.code in (401, 403) else "unreachable"
    except (OSError, ValueError):
        return "unreachable"


def is_ready(url: str, *, token: str | None) -> bool:
    """Return whether there is a node for jobs to run on; the dashboard answers some seconds before that."""
    from bertjobs.jobs.ray.api import RayApi  # 40 ms, and `submit` does not ask

    try:
        return bool(RayApi(url, token=token).cluster().nodes)
    except QueueError:
        return False


def read_token(layout: Layout) -> str | None:
    """Return the token of this stack's Ray; None if there is none yet."""
    try:
        return layout.ray_token.read_text().strip()
    except FileNotFoundError:
        return None


def _shm_bytes() -> int:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return found.f_frsize * found.f_bavail
