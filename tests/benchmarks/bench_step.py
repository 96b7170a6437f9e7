"""Time a training step of MiniLM (6 layers, 384 hidden, 12 heads): ours beside transformers' eager model.

    python tests/benchmarks/bench_step.py [--steps 20] [--threads 2] [--precision fp32|bf16]

Both take random weights, the same batches of 32 pairs with SNLI-like lengths, dropout 0.1, and fused AdamW
over all parameters. transformers gets dynamic padding (to the longest row of a batch). They alternate in one
run; a ratio is of medians. The third line steps with the training room's optimizer instead of torch's.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from bertjobs.config.sections import OptimSection
from bertjobs.modeling import (
    BertConfig,
    BertForSequenceClassification,
    ModelInputs,
    RowGroup,
    build_classifier,
    offsets_of,
)
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys, set_dropout, write_gradients
from bertjobs.modeling.cpu.flat_adamw import build_optimizer
from bertjobs.text.batching import GROUP_OVERHEAD, group_lengths
from bertjobs.training.distributed import current_ranks

CONFIG = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
BATCH_SIZE, NUM_CLASSES, NUM_WORDPIECES = 32, 3, 9000  # the SNLI sample of 8,580 pairs uses 8,9xx wordpieces


class Batch:
    """The same pairs, near-packed for us and padded to the longest for transformers."""

    def __init__(self, rng: np.random.Generator, *, step: int) -> None:
        premise = rng.gamma(5.5, 2.8, BATCH_SIZE).astype(int).clip(3, 80)
        hypothesis = rng.gamma(6.5, 1.3, BATCH_SIZE).astype(int).clip(2, 40)
        lengths = np.sort(premise + hypothesis + 3)
        self.num_tokens = int(lengths.sum())
        self.ids_BT = torch.zeros(BATCH_SIZE, int(lengths[-1]), dtype=torch.int64)
        self.mask_BT = torch.arange(int(lengths[-1])) < torch.from_numpy(lengths)[:, None]
        self.ids_BT[self.mask_BT] = torch.from_numpy(
            rng.integers(1000, 1000 + NUM_WORDPIECES, self.num_tokens)
        )
        self.labels_B = torch.from_numpy(rng.integers(0, NUM_CLASSES, BATCH_SIZE))
        self.inputs = self._near_packed(lengths, step=step)

    def _near_packed(self, lengths: np.ndarray, *, step: int) -> ModelInputs:
        groups = group_lengths(lengths, overhead=GROUP_OVERHEAD)
        self.num_padded = sum(g.num_rows * g.length for g in groups)
        ids_N = self.ids_BT[self.mask_BT]
        lengths_B = torch.from_numpy(lengths)
        return ModelInputs(
            ids_N=ids_N,
            segments_N=torch.zeros_like(ids_N),
            positions_N=torch.cat([torch.arange(length) for length in lengths]),
            groups=tuple(RowGroup(g.num_rows, g.length) for g in groups),
            lengths_B=lengths_B,
            max_len=int(lengths.max()),
            offsets=offsets_of(lengths_B),
            starts_B=torch.from_numpy(np.cumsum(lengths) - lengths),
            row_keys_B=row_keys(torch.arange(BATCH_SIZE), seed=0, step=step),
        )


def transformers_step(precision: str) -> Callable[[Batch], float]:
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=3
        ),
    )
    model.set_attn_implementation("eager")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def step(batch: Batch) -> float:
        with autocast(precision):
            logits_BC = model(batch.ids_BT, attention_mask=batch.mask_BT.long()).logits
            loss = F.cross_entropy(logits_BC, batch.labels_B)
        return torch_update(loss, model, optimizer)

    return step


def our_step(precision: str) -> Callable[[Batch], float]:
    model = our_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def step(batch: Batch) -> float:
        with autocast(precision):
            loss = F.cross_entropy(model(batch.inputs), batch.labels_B)
        return torch_update(loss, model, optimizer)

    return step


def torch_update(loss: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def our_step_with_our_optimizer(precision: str) -> Callable[[Batch], float]:
    model = our_model()
    optimizer = build_optimizer(
        model,
        num_layers=CONFIG.num_hidden_layers,
        word_table=model.bert.embeddings.word_embeddings,
        token_ids_U=torch.cat([torch.tensor([0, 101, 102]), torch.arange(1000, 1000 + NUM_WORDPIECES)]),
        optim=OptimSection(),
    )
    write_gradients(model)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        with autocast(precision):
            loss = F.cross_entropy(model(batch.inputs), batch.labels_B)
        loss.backward()
        norm = optimizer.sum_gradients(current_ranks(), token_ids_T=batch.inputs.ids_N.unique())
        optimizer.step(lr=5e-5, grad_norm=norm)
        return loss.item()

    return step


def our_model() -> BertForSequenceClassification:
    model = accelerate(build_classifier(CONFIG, num_labels=NUM_CLASSES, seed=0)).train()
    set_dropout(model, DropoutPool(CONFIG, seed=0))
    return model


def autocast(precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rng = np.random.default_rng(0)
    batches = [Batch(rng, step=i) for i in range(args.steps + 2)]
    steps = {
        "transformers, eager, dynamic padding": transformers_step(args.precision),
        "bertjobs, torch's fused AdamW": our_step(args.precision),
        "bertjobs, the training room's optimizer": our_step_with_our_optimizer(args.precision),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i, batch in enumerate(batches):
        for name, step in steps.items():
            begin = time.perf_counter()
            step(batch)
            if i >= 2:  # the first ones warm the allocator up
                seconds[name].append(time.perf_counter() - begin)
    report(seconds, batches[2:], args)


def report(seconds: dict[str, list[float]], batches: list[Batch], args: argparse.Namespace) -> None:
    true = sum(b.num_tokens for b in batches) / len(batches)
    packed = sum(b.num_padded for b in batches) / len(batches)
    padded = sum(b.ids_BT.numel() for b in batches) / len(batches)
    print(f"{args.precision}, {args.threads} threads, {args.steps} steps of {BATCH_SIZE} pairs, alternating")
    print(f"tokens a batch: {true:.0f} true, {packed:.0f} near-packed, {padded:.0f} padded to the longest")
    slowest = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"{name:40s} {median * 1e3:7.1f} ms {BATCH_SIZE / median:6.0f} pairs/s  x {slowest / median:.2f}"
        )


if __name__ == "__main__":
    main()
