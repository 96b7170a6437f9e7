"""How long `bertjobs list` holds up Redis at scale: `python tests/benchmarks/bench_list.py [--jobs 100000]`.

A Redis of its own with many queued jobs, of which one user has every twentieth. Measures the lists as a
program makes them, and the longest call by Redis' own slow log: as long nobody else is answered.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # redis_process.py lies beside the tests that use it

from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import JobStore, connect
from redis_process import running_redis

RESOURCES = {"gpus": 1, "workers": None, "cpus_per_worker": None}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure lists.")
    parser.add_argument("--jobs", type=int, default=100_000)
    options = parser.parse_args()
    with running_redis() as server:
        store = connect(server.settings())
        for n in range(options.jobs):
            store.submit("finetune", {}, storage="/x", resources=RESOURCES, user=f"user{n % 20}")
        print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
        print(f"{options.jobs} jobs of 20 users")
        measure(store, "the newest 100", lambda: store.list())
        measure(store, "the newest 100 of one user", lambda: store.list(user="user3"))
        measure(store, "100 of a user without any", lambda: store.list(user="nobody"))
        measure(store, "100 queued of one user", lambda: store.list(states=[State.QUEUED], user="user3"))
        measure(store, "all of one user", lambda: store.list(user="user3", limit=None))
        measure(store, "all", lambda: store.list(limit=None))


def measure(store: JobStore, what: str, call: Callable[[], object]) -> None:
    """Print the time of a list, and of the longest call in it."""
    client = store.connection.client
    client.config_set("slowlog-log-slower-than", 0)
    client.slowlog_reset()
    began = time.perf_counter()
    found = call()
    took_ms = 1e3 * (time.perf_counter() - began)
    longest_ms = max(entry["duration"] for entry in client.slowlog_get(128)) / 1e3
    size = len(found) if isinstance(found, list) else 0
    print(
        json.dumps(
            {"list": what, "rows": size, "ms": round(took_ms), "longest_call_ms": round(longest_ms, 1)}
        )
    )


if __name__ == "__main__":
    main()
