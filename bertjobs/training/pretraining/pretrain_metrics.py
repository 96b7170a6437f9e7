"""Evaluate a pretrained model on a validation corpus, from sums over its batches.

The masks are fixed: those of epoch 0 with a seed of their own, the same in every evaluation and every run.

Shape suffixes: V: vocabulary. P: masked positions of a microbatch. B: its rows.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bertjobs.config.sections import Precision
from bertjobs.modeling.cpu import accelerate
from bertjobs.modeling.heads import BertForPreTraining
from bertjobs.training.device_feed import on_device
from bertjobs.training.distributed import Ranks
from bertjobs.training.monitoring import activity
from bertjobs.training.precision import autocast, inference_dtype
from bertjobs.training.pretraining.pretrain_batches import PretrainBatchLoader

VALID_SEED = 2018
"""Seed of order, pairs and masks of the validation corpus."""
_MAX_NATS = 700.0
"""exp(709) is the largest power of e that a float holds."""


@dataclass(frozen=True, kw_only=True)
class PretrainMetrics:
    """The result of an evaluation. The NSP metrics are None where the objective has no pairs."""

    num_examples: int
    num_masked: int
    """Predicted positions of these examples."""
    loss: float
    """The sum of the two below, in nats."""
    mlm_loss: float
    """Mean cross-entropy of the predicted positions."""
    mlm_accuracy: float
    perplexity: float
    """exp(mlm_loss)."""
    frequency_loss: float
    """What `mlm_loss` would be if each wordpiece were predicted with its frequency in the training corpus:
    what a model without context can reach."""
    nsp_loss: float | None
    """Mean cross-entropy of the pairs: next or random, or in order or swapped."""
    nsp_accuracy: float | None

    def value_of(self, metric: str) -> float:
        """Return the value of `mlm_accuracy` or `nsp_accuracy`; higher is better."""
        value = {"mlm_accuracy": self.mlm_accuracy, "nsp_accuracy": self.nsp_accuracy}[metric]
        assert value is not None, "an objective without pairs has no nsp_accuracy"
        return value

    def curves(self) -> dict[str, float | None]:
        """Return the metrics that are plotted over the steps."""
        names = (
            "loss", "mlm_loss", "mlm_accuracy", "perplexity", "frequency_loss", "nsp_loss", "nsp_accuracy",
        )  # fmt: skip
        values: dict[str, float | None] = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "PretrainMetrics":
        return cls(**content)


def evaluate_pretraining(
    model: BertForPreTraining,
    loader: PretrainBatchLoader,
    *,
    log_frequencies_V: Tensor,
    num_examples: int,
    batch_size: int,
    has_pairs: bool,
    ranks: Ranks,
    precision: Precision,
) -> PretrainMetrics:
    """Return the metrics over at most `num_examples` of the loader's first epoch; a collective operation.

    batch_size: examples per batch over all ranks.
    """
    num_examples = min(num_examples, loader.corpus.num_examples)
    device = next(model.parameters()).device
    losses = torch.zeros(3, dtype=torch.float64, device=device)
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    was_training = model.training
    accelerate(model).eval()
    with torch.inference_mode(), autocast(device, inference_dtype(precision, device)):
        made = (
            loader.step_batch(step, batch_size=batch_size, max_examples=num_examples - done)
            for step, done in enumerate(range(0, num_examples, batch_size))
        )
        for batch in on_device(made, device):
            activity.note()
            for microbatch in batch.microbatches:
                scores = model.scores(
                    microbatch.inputs,
                    masked_P=microbatch.masked_P,
                    targets_P=microbatch.targets_P,
                    labels_B=microbatch.labels_B,
                )
                surprise = -log_frequencies_V[microbatch.targets_P].sum(dtype=torch.float64)
                losses += torch.stack((scores.mlm_loss_sum, scores.nsp_loss_sum, surprise))
                counts[0] += len(microbatch.masked_P)
                counts[1:] += torch.stack((scores.num_masked_correct, scores.num_pairs_correct))
    model.train(was_training)
    ranks.all_reduce(losses, counts)
    return _metrics_of(losses.tolist(), counts.tolist(), num_examples=num_examples, has_pairs=has_pairs)


def _metrics_of(
    losses: list[float], counts: list[int], *, num_examples: int, has_pairs: bool
) -> PretrainMetrics:
    num_masked, num_masked_correct, num_pairs_correct = counts
    mlm_loss, nsp_loss = losses[0] / num_masked, losses[1] / num_examples
    return PretrainMetrics(
        num_examples=num_examples,
        num_masked=num_masked,
        loss=mlm_loss + nsp_loss if has_pairs else mlm_loss,
        mlm_loss=mlm_loss,
        mlm_accuracy=num_masked_correct / num_masked,
        perplexity=math.exp(min(mlm_loss, _MAX_NATS)),
        frequency_loss=losses[2] / num_masked,
        nsp_loss=nsp_loss if has_pairs else None,
        nsp_accuracy=num_pairs_correct / num_examples if has_pairs else None,
    )
