"""Hugging Face's Trainer on the same weights, rows and recipe: what bertjobs is measured against.

    python tests/benchmarks/hf_baseline.py --variant tuned --task snli --data DIR --model DIR --epochs 3

`padded` is run_glue's default (padded to 128, fp32). `tuned` is what a careful user of it would do: dynamic
padding, batches grouped by length, fused AdamW, bf16 where the processor has it. Prints one JSON line; with
`--takes-turns`, which `bench_train.py` gives, the lines of `turns.py`.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from turns import Turns

from bertjobs.text.datasets.read_split import holdout, read_split
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.training.metrics import metrics_of
from bertjobs.training.precision import has_bf16


class Stopwatch(TrainerCallback):
    """Times the optimizer steps after `warmup`."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started, self.seconds, self.steps = warmup, 0.0, 0.0, 0

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.warmup:
            self.started = time.perf_counter()
        elif state.global_step > self.warmup:
            self.seconds, self.steps = time.perf_counter() - self.started, state.global_step - self.warmup


class TurnCallback(TrainerCallback):
    """Takes turns with other processes, and stops after the last one."""

    def __init__(self, warmup: int) -> None:
        self.turns = Turns(warmup=warmup)

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = not self.turns.after_step()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    set_seed(given.seed)
    train, valid, labels = rows(given)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    pad = "max_length" if given.variant == "padded" else False

    def encode(batch):
        texts = [batch["text_a"]] + ([batch["text_b"]] if "text_b" in batch else [])
        return tokenizer(*texts, truncation=True, max_length=given.max_len, padding=pad)

    train, valid = (
        ds.map(encode, batched=True, remove_columns=[c for c in ds.column_names if c != "label"])
        for ds in (train, valid)
    )
    model = AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=len(labels))
    watch = Stopwatch(given.warmup_steps)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=given.output,
            per_device_train_batch_size=given.batch_size,
            per_device_eval_batch_size=64,
            num_train_epochs=given.epochs,
            max_steps=given.max_steps,
            learning_rate=given.lr,
            weight_decay=0.01,
            warmup_steps=given.warmup,  # below 1: a share of all steps
            lr_scheduler_type="linear",
            train_sampling_strategy="random" if given.variant == "padded" else "group_by_length",
            bf16=given.variant == "tuned" and has_bf16(torch.device("cpu")),
            seed=given.seed,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        callbacks=[TurnCallback(given.warmup_steps) if given.takes_turns else watch],
    )
    trainer.train()
    if given.takes_turns:
        return
    answer = {"variant": given.variant, "examples_per_s": watch.steps * given.batch_size / watch.seconds}
    if given.evaluate:
        output = trainer.predict(valid)  # in an order of its own where rows are grouped by length
        predicted = np.argmax(output.predictions, axis=1)
        confusion = np.zeros((1, len(labels), len(labels)), dtype=np.int64)
        np.add.at(confusion[0], (output.label_ids, predicted), 1)
        found = metrics_of(confusion, loss_sum=0.0, labels=labels)
        answer |= {"accuracy": found.accuracy, "mcc": found.mcc, "f1": found.f1}
    print(json.dumps(answer))


def rows(given) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    """Read the same rows that bertjobs trains and validates on."""
    task = resolve_task(given.task)
    read = {"on_bad_row": "error", "cache": Path(), "require_labels": True}
    train = read_split(task, given.data, split="train", **read).table
    if given.hold_out:  # CoLA's recipe trains without a tenth, and is judged on another file
        train = train.take(holdout(train.num_rows, ratio=0.1, seed=2018)[0])
    valid = read_split(task, given.data, split=given.valid_split, **read).table
    drop = [c for c in ("index",) if c in train.column_names]
    return Dataset(train.drop(drop)), Dataset(valid.drop(drop)), task.labels


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=("tuned", "padded"), default="tuned")
    parser.add_argument("--task", default="snli")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--valid-split", default="dev")
    parser.add_argument("--hold-out", action="store_true")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-len", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--warmup", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup-steps", type=int, default=2)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--takes-turns", action="store_true")
    parser.add_argument("--output", default="/tmp/hf-baseline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
