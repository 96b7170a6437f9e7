"""Evaluate a classifier on a split: rows sorted by length, no gradients, streaming counts, no logits kept.

A collective operation: each rank takes every n-th row, and the counts are summed over the ranks.

Shape suffixes: B: rows of a microbatch. C: labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.config.sections import Precision, TextSection
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.batches import BatchLoader, Microbatch
from bertjobs.training.device_feed import on_device
from bertjobs.training.distributed import Ranks, current_ranks
from bertjobs.training.metrics import Metrics, metrics_of
from bertjobs.training.precision import autocast, inference_dtype

OnPredictions = Callable[[Int64s, npt.NDArray[np.float32]], None]
"""Called on the rank that has them with rows of the table and probabilities (rows, C), longest first."""


def evaluate(
    model: BertForSequenceClassification,
    table: EncodedTable,
    *,
    labels: Sequence[str],
    text: TextSection,
    tokenizer: Tokenizer,
    batch_size: int,
    precision: Precision = "auto",
    microbatch_tokens: int = 16384,
    on_predictions: OnPredictions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Metrics:
    """Return the metrics over all rows that have a label; rows without one are only predicted.

    batch_size: rows per batch over all ranks, and per entry of `mcc_per_batch`, which is over batches of
        consecutive rows whatever the order of computing.
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
    )
    counts = _Counts(table.num_rows, batch_size=batch_size, num_labels=len(labels), device=device)
    own = np.argsort(-loader.lengths, kind="stable")[ranks.rank :: ranks.world_size]
    own_batch = max(1, batch_size // ranks.world_size)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), autocast(device, inference_dtype(precision, device)):
        num_done = 0
        made = _scored_microbatches(loader, own, own_batch=own_batch, batch_size=batch_size)
        for scored in on_device(made, device):
            microbatch = scored.microbatch
            logits_BC = model(microbatch.inputs).float()
            counts.add(logits_BC, labels_B=microbatch.labels_B, batch_B=scored.batch_B)
            if on_predictions:
                on_predictions(microbatch.rows_B, logits_BC.softmax(dim=1).cpu().numpy())
            num_done += len(microbatch.rows_B)
            if on_progress and scored.is_last_of_batch:
                on_progress(num_done, len(own))
    model.train(was_training)
    return counts.metrics(ranks, labels=labels)


@dataclass(frozen=True)
class _Scored:
    """A microbatch, and the batch of `mcc_per_batch` that each of its rows counts in."""

    microbatch: Microbatch
    batch_B: Tensor
    is_last_of_batch: bool


def _scored_microbatches(
    loader: BatchLoader, rows: Int64s, *, own_batch: int, batch_size: int
) -> Iterator[_Scored]:
    for start in range(0, len(rows), own_batch):
        microbatches = list(loader.microbatches(rows[start : start + own_batch]))
        for microbatch in microbatches:
            batch_B = torch.from_numpy(microbatch.rows_B // batch_size)
            yield _Scored(microbatch, batch_B, is_last_of_batch=microbatch is microbatches[-1])


class _Counts:
    """Count confusion matrices per batch and sum the loss, on the device, so that the host does not wait."""

    def __init__(self, num_rows: int, *, batch_size: int, num_labels: int, device: torch.device) -> None:
        self._shape = (-(-num_rows // batch_size), num_labels, num_labels)
        self._num_labels = num_labels
        self._counts = torch.zeros(int(np.prod(self._shape)), dtype=torch.int64, device=device)
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, logits_BC: Tensor, *, labels_B: Tensor, batch_B: Tensor) -> None:
        is_labelled_B = (labels_B >= 0).to(torch.int64)
        cell_B = (batch_B * self._num_labels + labels_B.clamp(min=0)) * self._num_labels
        self._counts.index_add_(0, cell_B + logits_BC.argmax(dim=1), is_labelled_B)
        self._loss_sum += F.cross_entropy(
            logits_BC.double(), labels_B, reduction="sum", ignore_index=-1
        )  # fmt: skip

    def metrics(self, ranks: Ranks, *, labels: Sequence[str]) -> Metrics:
        ranks.all_reduce(self._counts, self._loss_sum)
        confusion_per_batch = self._counts.view(self._shape).cpu().numpy()
        return metrics_of(confusion_per_batch, loss_sum=float(self._loss_sum), labels=labels)
