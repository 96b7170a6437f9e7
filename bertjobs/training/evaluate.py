"""Evaluate a model of a task on a split: rows sorted by length, no gradients, no logits kept.

A collective operation: each rank takes every n-th row, and the counts are summed over the ranks.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertjobs.config.sections import Precision, TextSection
from bertjobs.modeling.cpu import accelerate
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.batches import BatchLoader, Microbatch
from bertjobs.training.device_feed import from_device, on_device
from bertjobs.training.distributed import current_ranks
from bertjobs.training.monitoring import activity
from bertjobs.training.precision import autocast, inference_dtype
from bertjobs.training.tasks.task_type import Counts, M, TaskModel, TaskType

OnPredictions = Callable[[Int64s, npt.NDArray[np.float32]], None]
"""Called on the rank that has them with rows of the table and what `TaskType.outputs` returns for them,
longest first."""


def evaluate(
    model: TaskModel,
    table: EncodedTable,
    *,
    task: TaskType[M],
    text: TextSection,
    tokenizer: Tokenizer,
    batch_size: int,
    precision: Precision = "auto",
    microbatch_tokens: int = 16384,
    on_predictions: OnPredictions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> M:
    """Return the metrics over all rows that have a label; rows without one are only predicted.

    batch_size: rows per batch over all ranks, and per entry of metrics per batch (`mcc_per_batch`), which
        are over batches of consecutive rows whatever the order of computing.
    on_progress: called with rows done and rows in all, of this rank.
    """
    ranks, device = current_ranks(), next(model.parameters()).device
    loader = BatchLoader(
        table,
        text=text,
        tokenizer=tokenizer,
        max_tokens=microbatch_tokens,
        ranks=ranks,
        vocab_size=model.config.vocab_size,
        targets=task.targets,
    )
    counts = task.start_counts(table, batch_size=batch_size, device=device)
    own = np.argsort(-loader.lengths, kind="stable")[ranks.rank :: ranks.world_size]
    own_batch = max(1, batch_size // ranks.world_size)
    was_training = model.training
    accelerate(model).eval()
    with torch.inference_mode(), autocast(device, inference_dtype(precision, device)):
        parts = on_device(_microbatches(loader, own, own_batch=own_batch), device)
        counted = _count(model, parts, counts=counts, on_progress=on_progress, num_rows=len(own))
        if on_predictions:
            outputs = (task.outputs(output, microbatch) for microbatch, output in counted)
            for rows, outputs_RK in from_device(outputs):
                on_predictions(rows, outputs_RK)
        else:
            for _ in counted:
                pass
    model.train(was_training)
    return counts.metrics(ranks)


def _count(
    model: TaskModel,
    parts: Iterable["_Part"],
    *,
    counts: Counts[M],
    on_progress: Callable[[int, int], None] | None,
    num_rows: int,
) -> Iterator[tuple[Microbatch, Tensor]]:
    """Yield each microbatch with what the model returned for it, once that is counted."""
    for part in parts:
        output = model(part.microbatch.inputs).float()
        counts.add(output, part.microbatch)
        activity.note()
        if on_progress and part.num_done is not None:
            on_progress(part.num_done, num_rows)
        yield part.microbatch, output


@dataclass(frozen=True)
class _Part:
    """A microbatch, with its rows as the target `rows` (B)."""

    microbatch: Microbatch
    num_done: int | None
    """Rows predicted after it, where it is the last of a batch."""


def _microbatches(loader: BatchLoader, rows: Int64s, *, own_batch: int) -> Iterator[_Part]:
    for start in range(0, len(rows), own_batch):
        microbatches = list(loader.microbatches(rows[start : start + own_batch]))
        num_done = min(start + own_batch, len(rows))
        for microbatch in microbatches:
            # On the device before they are needed: counts per row make the host wait for nothing.
            targets = {**microbatch.targets, "rows": torch.from_numpy(microbatch.rows_B)}
            is_last = microbatch is microbatches[-1]
            yield _Part(replace(microbatch, targets=targets), num_done if is_last else None)
