"""Hugging Face's Trainer on masked language modelling: what pretraining here is measured against.

    python tests/benchmarks/hf_pretrain_baseline.py --data DIR --vocab FILE --size mini

As its `run_mlm.py` does it: the texts of the corpus one after another, cut into full windows of max_len, so
that nothing is padded; `DataCollatorForLanguageModeling`; fused AdamW; bf16 where the processor has it. The
model is of the same size, from random weights. Prints one JSON line.
"""

import argparse
import json
import os
import time
from itertools import chain
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bertjobs.config.presets import read_size
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


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    set_seed(0)
    tokenizer = BertTokenizerFast(vocab=str(given.vocab))
    assert len(tokenizer) > 1000, "an unknown argument would be ignored, and leave the special tokens only"
    watch = Stopwatch(given.warmup_steps)
    Trainer(
        model=model_of(given, vocab_size=len(tokenizer)),
        args=TrainingArguments(
            output_dir=given.output,
            per_device_train_batch_size=given.batch_size,
            max_steps=given.steps + given.warmup_steps,
            learning_rate=1e-4,
            weight_decay=0.01,
            bf16=has_bf16(torch.device("cpu")),
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        train_dataset=windows(given, tokenizer),
        callbacks=[watch],
    ).train()
    num_tokens = watch.steps * given.batch_size * given.max_len  # every window is full
    print(json.dumps({"variant": given.variant, "tokens_per_s": num_tokens / watch.seconds}))


def model_of(given: argparse.Namespace, *, vocab_size: int) -> BertForMaskedLM | BertForPreTraining:
    config = BertConfig(**{**read_size(given.size), "vocab_size": vocab_size})
    return BertForMaskedLM(config) if given.variant == "masked_lm" else BertForPreTraining(config)


def windows(given: argparse.Namespace, tokenizer: BertTokenizerFast) -> Dataset:
    """Return full windows; for `BertForPreTraining` with a label that costs what a real one does."""
    text = (given.data / "wiki.train.tokens").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()][: given.max_lines]
    encoded = tokenizer(lines, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids, budget = list(chain.from_iterable(encoded)), given.max_len - 2
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [[cls_id, *ids[i : i + budget], sep_id] for i in range(0, len(ids) - budget, budget)]
    columns = {"input_ids": rows, "attention_mask": [[1] * given.max_len] * len(rows)}
    if given.variant == "pre_training":
        columns["next_sentence_label"] = [i % 2 for i in range(len(rows))]
    return Dataset.from_dict(columns)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=("masked_lm", "pre_training"), default="masked_lm")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--max-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-lines", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup-steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="/tmp/hf-pretrain-baseline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
