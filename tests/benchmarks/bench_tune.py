"""What a search costs beside the training of its trials: N equal trials one after another, and one job.

    python tests/benchmarks/bench_tune.py [--trials 8] [--epochs 8] [--json FILE]

Both go through the queue of an embedded stack in a temporary folder and train the demo's tiny BERT on the
sample data. The job is run before and after the search; its training time is from its first step to its last
checkpoint, evaluations and checkpoints included, and nothing of its start. The search varies the seed alone
and stops no trial; its time is all from the moment it gets its resources to its end. Goal: at most 1.3 times
as long as its trials would train in jobs.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from bertjobs import stack
from bertjobs.settings import load_settings
from bertjobs.stack.paths import stack_paths

BERTJOBS = [sys.executable, "-m", "bertjobs"]
GOAL = 1.3


def main() -> None:
    """Measure, print the table, and end the stack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bertjobs-bench-") as folder:
        settings = load_settings({"BERTJOBS_HOME": f"{folder}/home"})
        try:
            figures = measure(Path(folder), num_trials=args.trials, epochs=args.epochs)
        finally:
            stack.down(settings, announce=note)
            shutil.rmtree(stack_paths(settings).runtime_dir or settings.home, ignore_errors=True)
    show(figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, *, num_trials: int, epochs: int) -> dict[str, Any]:
    """Run job, search, job; return their seconds."""
    environ = {**os.environ, "BERTJOBS_HOME": str(folder / "home")}
    answer_of(["data", "sample", str(folder / "sample")], environ)
    work = ["--preset", "demo", "--data", str(folder / "sample" / "snli_1.0"), "--epochs", str(epochs)]
    seeds = ["--space", f"train.seed=randint:0,{num_trials - 1}", "--algorithm", "grid", "--stopper", "none"]
    submit = ["--lr", "5e-4", "--batch-size", "16", "--wait", "--json"]
    before = training_s(answer_of(["submit", "finetune", *work, *submit], environ), environ)
    note(f"one job trains for {before:.1f} s")
    search = answer_of(["tune", *work, *seeds, "--trials", str(num_trials), *submit], environ)
    trials = json.loads(answer_of(["trials", search["id"], "--json"], environ, parse=False))["trials"]
    note(f"the search took {search_s(search):.1f} s")
    after = training_s(answer_of(["submit", "finetune", *work, *submit], environ), environ)
    note(f"one job trains for {after:.1f} s")
    return {
        "jobs_s": [before, after],
        "search_s": search_s(search),
        "trials_s": [trial["train_s"] for trial in trials],
        "num_trials": search["metrics"]["num_trials"],
    }


def training_s(job: dict[str, Any], environ: dict[str, str]) -> float:
    """Return the seconds from a job's first step to its last checkpoint."""
    events = answer_of(["status", job["id"], "--json"], environ)["events"]
    first = next(event["at"] for event in events if event["state"] == "RUNNING")
    checkpoints = Path(job["artifacts"]["dir"]) / "checkpoints"
    return max(path.stat().st_mtime for path in checkpoints.iterdir()) - seconds_of(first)


def search_s(job: dict[str, Any]) -> float:
    """Return the seconds from the resources to the end."""
    return seconds_of(job["ended_at"]) - seconds_of(job["started_at"])


def seconds_of(moment: str) -> float:
    """Read an ISO-8601 time."""
    return datetime.fromisoformat(moment).timestamp()


def answer_of(words: list[str], environ: dict[str, str], *, parse: bool = True) -> Any:
    """Run one command and read what it prints."""
    done = subprocess.run([*BERTJOBS, *words], env=environ, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bertjobs {' '.join(words)} failed:\n{done.stderr}\n{done.stdout}")
    return json.loads(done.stdout) if parse and "--json" in words else done.stdout


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    one_s, num_trials = statistics.mean(figures["jobs_s"]), figures["num_trials"]
    ratio = figures["search_s"] / (num_trials * one_s)
    between_s = figures["search_s"] - sum(figures["trials_s"])
    print(
        f"  {'training of one job, s':44}{one_s:8.1f}  ({', '.join(f'{s:.1f}' for s in figures['jobs_s'])})"
    )
    print(f"  {f'a search of {num_trials} such trials, all of it, s':44}{figures['search_s']:8.1f}")
    print(f"  {'of that not inside a trial, s':44}{between_s:8.1f}")
    print(f"  {'times as long as the trials in jobs':44}{ratio:8.2f}  (goal: at most {GOAL})")


def note(line: str) -> None:
    """Say something that is not part of the answer."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
