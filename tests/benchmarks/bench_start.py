"""Time from the command to the first training step: `bertjobs submit` beside a bare TorchTrainer script.

    python tests/benchmarks/bench_start.py [--rounds 3] [--json FILE]

Both run on the same Ray, that of an embedded stack in a temporary folder, one after the other in each round,
each measured from before its process starts to the end of its first optimizer step. The job fine-tunes a tiny
BERT on 64 rows of the sample data; its first round also encodes them and is shown apart. The events of the
fastest later job say where its time goes. Goal: at most 3 s more than the bare script.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bertjobs import stack
from bertjobs.settings import Settings, load_settings
from bertjobs.stack import ray_head
from bertjobs.stack.paths import stack_paths
from bertjobs.stack.process import read_record

BERTJOBS = [sys.executable, "-m", "bertjobs"]
JOB = ["--task", "snli", "--model", "tiny", "--limit-train", "64", "--limit-valid", "64", "--epochs", "1"]
GOAL_S = 3.0


def main() -> None:
    """Measure in rounds, print the table, and end the stack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the first")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bertjobs-bench-") as folder:
        settings = load_settings({"BERTJOBS_HOME": f"{folder}/home"})
        try:
            figures = measure(settings, Path(folder), num_rounds=args.rounds)
        finally:
            stack.down(settings, announce=note)
            shutil.rmtree(stack_paths(settings).runtime_dir or settings.home, ignore_errors=True)
    show(figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(settings: Settings, folder: Path, *, num_rounds: int) -> dict[str, Any]:
    """Bring the stack up, then alternate; return seconds per round and the fastest job's timeline."""
    environ = {**os.environ, "BERTJOBS_HOME": str(settings.home)}
    began = time.time()
    stack.up(settings, announce=note)
    up_s = time.time() - began
    subprocess.run(
        [*BERTJOBS, "data", "sample", str(folder / "sample")], env=environ, check=True, stdout=sys.stderr
    )
    queued, bare = [], []
    for number in range(num_rounds + 1):
        bare.append(start_bare(settings, folder / f"bare-{number}"))
        queued.append(start_queued(environ, folder / "sample"))
        note(f"round {number}: bare {bare[-1]:.1f} s, queue {queued[-1][0]:.1f} s")
    return {
        "machine": f"{platform.processor() or platform.machine()}, {ray_head.num_cpus()} processors",
        "stack_up_s": up_s,
        "bare_s": bare,
        "queue_s": [seconds for seconds, _ in queued],
        "timeline": min(queued[1:])[1],
    }


def start_bare(settings: Settings, folder: Path) -> float:
    """Run the bare script; return the seconds to the end of its first step."""
    folder.mkdir()
    paths = stack_paths(settings)
    ray = read_record(paths.record_file("ray"))
    assert ray is not None
    environ = {**os.environ, **ray_head.environment(paths), "RAY_ADDRESS": f"127.0.0.1:{ray.ports[0]}"}
    script = Path(__file__).with_name("bare_torchtrainer.py")
    began = time.time()
    subprocess.run(
        [sys.executable, str(script), str(folder / "time")], env=environ, check=True, capture_output=True
    )
    return float((folder / "time").read_text()) - began


def start_queued(environ: dict[str, str], sample: Path) -> tuple[float, list[tuple[str, float]]]:
    """Run one job; return the seconds to its first step, and those to each event before it."""
    began = time.time()
    job = answer_of(["submit", "finetune", *JOB, "--data", str(sample), "--wait", "--json"], environ)
    timeline = [
        (" ".join(filter(None, [event["state"], event["message"]])), seconds_since(began, event["at"]))
        for event in answer_of(["status", job["id"], "--json"], environ)["events"]
    ]
    first_step = next(number for number, (state, _) in enumerate(timeline) if state.startswith("RUNNING"))
    return timeline[first_step][1], timeline[: first_step + 1]


def answer_of(words: list[str], environ: dict[str, str]) -> Any:
    """Run one command and read what it prints."""
    done = subprocess.run([*BERTJOBS, *words], env=environ, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bertjobs {' '.join(words)} failed:\n{done.stderr}\n{done.stdout}")
    return json.loads(done.stdout)


def seconds_since(began: float, moment: str) -> float:
    """Return the seconds from a wall-clock time to an ISO-8601 one; Redis runs on the same clock."""
    return datetime.fromisoformat(moment).timestamp() - began


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    bare, queue = figures["bare_s"], figures["queue_s"]
    more = statistics.median(queue[1:]) - statistics.median(bare[1:])
    print(f"machine: {figures['machine']}; stack up in {figures['stack_up_s']:.1f} s")
    print("seconds from the command to the end of the first step:")
    print(f"  {'':28}{'first':>8}{'median':>8}{'fastest':>8}")
    for name, values in (("bare TorchTrainer script", bare), ("bertjobs submit finetune", queue)):
        print(f"  {name:28}{values[0]:8.1f}{statistics.median(values[1:]):8.1f}{min(values[1:]):8.1f}")
    print(
        f"  the queue takes {more:+.1f} s (medians of {len(bare) - 1} rounds; goal: at most +{GOAL_S:.0f} s)"
    )
    print("where the fastest job's time went:")
    for words, seconds in figures["timeline"]:
        print(f"  {seconds:6.1f} s  {words}")


def note(line: str) -> None:
    """Say something that is not part of the answer."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
