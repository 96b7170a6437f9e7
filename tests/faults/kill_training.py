"""A real fine-tuning under random kills: `python -m tests.faults.kill_training [KILLS] [SEED]`.

With two workers, on a stack of its own: the same job undisturbed, and with its workers, its driver, its
heartbeat, the dispatcher and Redis killed at random moments. The weights must be the same to the last bit,
and the losses of the steps those of the undisturbed run, each once. Takes some ten minutes on 2 cores.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

import numpy as np
from test_queue_end_to_end import losses_of, weights_of

from conftest import Cluster, has_ended

FINETUNE = ("submit", "finetune", "--preset", "demo", "--workers", "2", "--precision", "fp32")


def kills_of(cluster: Cluster, job: str) -> dict[str, Callable[[], None]]:
    """Return what can be killed."""
    return {
        "both workers": lambda: cluster.kill("ray::RayTrainWorker"),
        "driver": lambda: cluster.kill(f"bertjobs.runs {job}"),
        "heartbeat": lambda: cluster.kill(f"bertjobs.jobs.driver.heartbeat {job}"),
        "dispatcher": lambda: cluster.kill_members("dispatcher"),
        "Redis": lambda: cluster.kill_members("redis"),
    }


def run_killed(cluster: Cluster, given: tuple[str, ...], *, num_kills: int, seed: int) -> dict[str, Any]:
    """Run the job with so many kills. Each comes once the job trains again, some steps further."""
    rng, done = random.Random(seed), Counter[str]()
    job = cluster.run(*given, "--checkpoint-steps", "3", "--name", "killed").strip()
    step = 0
    while done.total() < num_kills:
        status = cluster.wait_for(job, partial(_may_be_killed, after=step))
        assert status["ended_at"] is None, f"it ended after {done.total()} kills: give it more epochs"
        kills = kills_of(cluster, job)
        name = rng.choice(list(kills))
        try:
            kills[name]()
        except (AssertionError, ProcessLookupError):  # it is being started again: another one then
            time.sleep(0.5)
            continue
        done[name] += 1
        step = status["progress"]["step"] + rng.randint(4, 6)
        print(f"killed the {name} at step {status['progress']['step']}", flush=True)
    ended = cluster.wait_for(job, has_ended)
    print(f"{ended['state']} after {ended['attempts']} attempts; killed: {dict(done)}", flush=True)
    return ended


def _may_be_killed(status: dict[str, Any], *, after: int) -> bool:
    is_training = status["state"] == "RUNNING" and status["progress"].get("step", 0) > after
    return is_training or has_ended(status)


def main(words: list[str]) -> int:
    """Run the command; 1 where the two runs differ."""
    num_kills = int(words[0]) if words else 10
    seed = int(words[1]) if len(words) > 1 else 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bj-") as folder:
        cluster = Cluster(Path(folder) / "home")
        try:
            sample = Path(folder) / "sample"
            cluster.run("data", "sample", str(sample))
            given = (*FINETUNE, "--data", str(sample / "snli_1.0"))
            undisturbed = cluster.json(*given, "--wait")
            print(f"undisturbed: {undisturbed['metrics']['num_steps']} steps", flush=True)
            killed = run_killed(cluster, given, num_kills=num_kills, seed=seed)
            is_same = (
                killed["state"] == "SUCCEEDED"
                and weights_of(killed) == weights_of(undisturbed)
                and np.array_equal(losses_of(killed), losses_of(undisturbed))
            )
        finally:
            cluster.run("cluster", "down")
    print(f"{'the same weights and losses' if is_same else 'DIFFERENT'}, {time.monotonic() - began:.0f} s")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
