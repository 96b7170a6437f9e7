"""Time the command line as whole processes: `--help`, and `list` over 10,000 stored jobs.

    python tests/benchmarks/bench_cli.py [--jobs 10000] [--runs 15]

Goals: `--help` under 0.25 s, `list` under 0.4 s (medians). Starts a Redis of its own and ends it.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # redis_process.py lies beside the tests that use it

from bertjobs.jobs.store.job_store import JobStore, connect
from redis_process import running_redis

GOALS_S = {"--help": 0.25, "list": 0.4, "list --all --json": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    with running_redis() as server:
        addresses = {"BERTJOBS_REDIS_URL": server.url, "BERTJOBS_RAY_ADDRESS": "http://127.0.0.1:1"}
        environ = {**os.environ, "BERTJOBS_HOME": str(server.folder), **addresses}
        store = connect(server.settings())
        began = time.perf_counter()
        fill(store, args.jobs)
        print(f"stored {args.jobs:,} jobs, {args.jobs / (time.perf_counter() - began):,.0f} a second")
        missed = 0
        for words, goal_s in GOALS_S.items():
            times_s, cpu_s = measure(words.split(), environ, num_runs=args.runs)
            median_s = statistics.median(times_s)
            missed += goal_s is not None and median_s > goal_s
            goal = f"goal {goal_s:.2f} s" if goal_s else "no goal"
            times = f"median {median_s:.3f} s of {args.runs}, least {min(times_s):.3f} s, CPU {cpu_s:.3f} s"
            print(f"bertjobs {words:<18} {times}, {goal}")
        return 1 if missed else 0


def fill(store: JobStore, num_jobs: int) -> None:
    """Submit jobs; a tenth of them ends as cancelled."""
    for n in range(num_jobs):
        job, _ = store.submit(
            "finetune", {"task": {"name": "snli"}}, storage="/nowhere", resources={"gpus": 8}, name=f"job {n}"
        )
        if n % 10 == 0:
            store.cancel(job.id)


def measure(words: list[str], environ: dict[str, str], *, num_runs: int) -> tuple[list[float], float]:
    """Run the installed command as a user does, after one run that fills the disk cache.

    Returns the seconds of each run, and the median of the processor's: what a busy machine does not stretch.
    """
    script = Path(sys.executable).with_name("bertjobs")
    times_s, cpu_s = [], []
    for _ in range(num_runs + 1):
        began, used = time.perf_counter(), processor_s()
        subprocess.run([script, *words], env=environ, check=True, capture_output=True)
        times_s.append(time.perf_counter() - began)
        cpu_s.append(processor_s() - used)
    return times_s[1:], statistics.median(cpu_s[1:])


def processor_s() -> float:
    """Return the processor seconds of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
