"""Classification: one of several labels for a text or a pair.

Source: Devlin et al. 2019 (BERT), section 4.1: a linear layer on the pooled first token.

Shape suffixes: B: rows of a microbatch. C: labels. R: rows of a table.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.config.finetune import ModelSection
from bertjobs.modeling.build import build_classifier
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import Ranks
from bertjobs.training.metrics import Metrics, metrics_of
from bertjobs.training.tasks.task_type import Floats, M, RankedValue, TaskType, ranked_labels

CONFUSION = "confusion.png"


def head_arguments(model: ModelSection | None) -> dict[str, Any]:
    """Return the arguments of `build_with_head` for a new head, or (None) for the one that was trained."""
    if model is None:
        return {"keep_head": True}
    return {
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "classifier_dropout": model.classifier_dropout,
    }


class SequenceClassifier(TaskType[M]):
    """A type whose head is a linear layer on the pooled first token, with an output per label."""

    @property
    def num_outputs(self) -> int:
        """One probability per label."""
        return len(self.task.labels)

    def build_model(
        self, source: LoadedModel | BertConfig, *, seed: int, model: ModelSection | None = None
    ) -> BertForSequenceClassification:
        return build_classifier(source, num_labels=self.num_outputs, seed=seed, **head_arguments(model))


class Classification(SequenceClassifier[Metrics]):
    """Cross-entropy over the labels; the confusion matrix decides everything else."""

    problem_type = "single_label_classification"

    def loss_sum(self, output: Tensor, microbatch: Microbatch) -> Tensor:
        weights = self.task.class_weights
        return F.cross_entropy(
            output,
            microbatch.targets["labels"],
            weight=None if weights is None else output.new_tensor(weights),
            label_smoothing=self.task.label_smoothing,
            reduction="sum",
        )

    def loss_weight(self, table: EncodedTable, rows: Int64s) -> float:
        """Return the number of rows, or the sum of their labels' weights, as PyTorch's weighted mean."""
        if self.task.class_weights is None:
            return len(rows)
        return float(np.asarray(self.task.class_weights)[table.labels[rows]].sum())

    def start_counts(self, table: EncodedTable, *, batch_size: int, device: torch.device) -> "_Counts":
        return _Counts(table.num_rows, batch_size=batch_size, labels=self.task.labels, device=device)

    def outputs(self, output: Tensor, microbatch: Microbatch) -> tuple[Int64s, Tensor]:
        return microbatch.rows_B, output.softmax(dim=1)

    def prediction_columns(self, table: pa.Table, outputs_RK: Floats) -> dict[str, Any]:
        """Return the true label (null: a row has none), the predicted one, and each label's probability."""
        labels = np.asarray(self.task.labels, dtype=object)
        truth = table["label"].to_numpy()
        return {
            "label": pa.array([labels[y] if y >= 0 else None for y in truth], pa.string()),
            "prediction": pa.array(labels[outputs_RK.argmax(axis=1)], pa.string()),
            **{f"p_{label}": outputs_RK[:, i] for i, label in enumerate(self.task.labels)},
        }

    def ranked(self, table: pa.Table, outputs_RK: Floats) -> list[list[RankedValue]]:
        return ranked_labels(self.task.labels, outputs_RK)

    def is_correct(self, table: EncodedTable, outputs_RK: Floats) -> npt.NDArray[np.bool_]:
        return np.asarray(outputs_RK.argmax(axis=1) == table.labels)

    def submission_values(self, outputs_RK: Floats) -> list[str]:
        return [self.task.label_values[i] for i in outputs_RK.argmax(axis=1)]

    def metrics_from_json(self, content: Mapping[str, Any]) -> Metrics:
        return Metrics.from_json(content)

    def plots(self, metrics: Metrics, *, title: str) -> dict[str, bytes]:
        from bertjobs.training.monitoring.plots import (
            draw_confusion,  # matplotlib: paid at the end, not at the start
        )

        return {CONFUSION: draw_confusion(metrics, title=title)} if metrics.num_examples else {}

    def prediction_plots(self, predictions: pa.Table, *, title: str) -> dict[str, bytes]:
        from bertjobs.training.monitoring.prediction_plots import draw_classification  # matplotlib, as above

        return draw_classification(predictions, self.task.labels, title=title)


class _Counts:
    """Count confusion matrices per batch and sum the loss, on the device, so that the host does not wait."""

    def __init__(
        self, num_rows: int, *, batch_size: int, labels: tuple[str, ...], device: torch.device
    ) -> None:
        self._labels, self._batch_size, self._num_labels = labels, batch_size, len(labels)
        self._shape = (-(-num_rows // batch_size), self._num_labels, self._num_labels)
        self._counts = torch.zeros(int(np.prod(self._shape)), dtype=torch.int64, device=device)
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, output: Tensor, microbatch: Microbatch) -> None:
        labels_B = microbatch.targets["labels"]
        is_labelled_B = (labels_B >= 0).to(torch.int64)
        batch_B = microbatch.targets["rows"] // self._batch_size
        cell_B = (batch_B * self._num_labels + labels_B.clamp(min=0)) * self._num_labels
        self._counts.index_add_(0, cell_B + output.argmax(dim=1), is_labelled_B)
        self._loss_sum += F.cross_entropy(output.double(), labels_B, reduction="sum", ignore_index=-1)

    def metrics(self, ranks: Ranks) -> Metrics:
        ranks.all_reduce(self._counts, self._loss_sum)
        confusion_per_batch = self._counts.view(self._shape).cpu().numpy()
        return metrics_of(confusion_per_batch, loss_sum=float(self._loss_sum), labels=self._labels)
