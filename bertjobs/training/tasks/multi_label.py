"""Several labels per text: for each label, whether it applies.

The metrics follow from counts per label, and from how many rows are right as a whole.

Source: scikit-learn, `f1_score(average="micro" | "macro")` and `accuracy_score` of label sets, which is what
`accuracy` means here: the share of rows whose set of labels is exactly right.
Shape suffixes: B: rows of a microbatch. C: labels. R: rows of a table.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.text.batching import Batch
from bertjobs.text.datasets.examples import label_sets
from bertjobs.text.datasets.task import LABEL_SEPARATOR
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import Ranks
from bertjobs.training.tasks.classification import SequenceClassifier
from bertjobs.training.tasks.task_type import Floats, RankedValue, ranked_labels


@dataclass(frozen=True, kw_only=True)
class LabelSetMetrics:
    """The result of an evaluation; all None where no example had labels."""

    num_examples: int
    loss: float | None
    """Binary cross-entropy in nats, mean over rows and labels."""
    f1_micro: float | None
    """F1 of all decisions together."""
    f1_macro: float | None
    """Mean of the labels' F1; of a label that never occurs and is never predicted it is 0."""
    accuracy: float | None
    """Share of rows whose set of labels is exactly right."""
    f1_per_label: tuple[float, ...] = ()
    """In the order of the task's labels."""

    def value_of(self, metric: str) -> float:
        """Return `f1_micro`, `f1_macro`, `accuracy`, or `loss` with its sign changed: higher is better."""
        value = getattr(self, metric)
        assert value is not None, "a development split has labels: read_split was asked to require them"
        return float(-value if metric == "loss" else value)

    def curves(self) -> dict[str, float | None]:
        """Return the metrics that are plotted over the steps."""
        return {name: getattr(self, name) for name in ("loss", "f1_micro", "f1_macro", "accuracy")}

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers and lists."""
        return asdict(self)


class MultiLabel(SequenceClassifier[LabelSetMetrics]):
    """Binary cross-entropy of each label; a label is predicted above the task's threshold."""

    problem_type = "multi_label_classification"

    def targets(self, table: EncodedTable, batch: Batch) -> dict[str, np.ndarray]:
        """Return `labels` (B, C), 0 or 1 each, and `is_labelled` (B): both float32."""
        bits_B = table.labels[batch.rows_B]
        labels_BC = (bits_B[:, None] >> np.arange(self.num_outputs)) & 1
        return {"labels": labels_BC.astype(np.float32), "is_labelled": (bits_B >= 0).astype(np.float32)}

    def loss_sum(self, output: Tensor, microbatch: Microbatch) -> Tensor:
        labels_BC = microbatch.targets["labels"]
        return F.binary_cross_entropy_with_logits(output, labels_BC, reduction="sum") / self.num_outputs

    def start_counts(self, table: EncodedTable, *, batch_size: int, device: torch.device) -> "_Counts":
        return _Counts(self.num_outputs, threshold=self.task.threshold, device=device)

    def outputs(self, output: Tensor, microbatch: Microbatch) -> tuple[Int64s, Tensor]:
        return microbatch.rows_B, output.sigmoid()

    def prediction_columns(self, table: pa.Table, outputs_RK: Floats) -> dict[str, Any]:
        """Return the true and the predicted labels as lists, and each label's probability."""
        sets = label_sets(table["label"].to_numpy(), self.task.labels)
        predicted = [
            [self.task.labels[i] for i in np.flatnonzero(row > self.task.threshold)] for row in outputs_RK
        ]
        return {
            "label": pa.array(sets, pa.list_(pa.string())),
            "prediction": pa.array(predicted, pa.list_(pa.string())),
            **{
                f"p_{label}": np.ascontiguousarray(outputs_RK[:, i])
                for i, label in enumerate(self.task.labels)
            },
        }

    def ranked(self, table: pa.Table, outputs_RK: Floats) -> list[list[RankedValue]]:
        return ranked_labels(self.task.labels, outputs_RK, threshold=self.task.threshold)

    def is_correct(self, table: EncodedTable, outputs_RK: Floats) -> npt.NDArray[np.bool_]:
        bits_R = ((outputs_RK > self.task.threshold) << np.arange(self.num_outputs)).sum(axis=1)
        return np.asarray(bits_R == table.labels)

    def submission_values(self, outputs_RK: Floats) -> list[str]:
        """Return the values of the predicted labels, as a cell of CSV has them."""
        return [
            LABEL_SEPARATOR.join(self.task.label_values[i] for i in np.flatnonzero(row > self.task.threshold))
            for row in outputs_RK
        ]

    def metrics_from_json(self, content: Mapping[str, Any]) -> LabelSetMetrics:
        return LabelSetMetrics(**{**content, "f1_per_label": tuple(content["f1_per_label"])})


class _Counts:
    """Count right and wrong decisions per label, and rows, and sum the loss, on the device."""

    def __init__(self, num_labels: int, *, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        self._hits_3C = torch.zeros(3, num_labels, dtype=torch.int64, device=device)
        """Right positives, predicted ones, true ones."""
        self._rows = torch.zeros(2, dtype=torch.int64, device=device)
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, output: Tensor, microbatch: Microbatch) -> None:
        labels_BC, is_labelled_B = microbatch.targets["labels"], microbatch.targets["is_labelled"].bool()
        is_true_BC = (labels_BC > 0.5) & is_labelled_B[:, None]
        is_predicted_BC = (output.sigmoid() > self._threshold) & is_labelled_B[:, None]
        parts = (is_true_BC & is_predicted_BC, is_predicted_BC, is_true_BC)
        self._hits_3C += torch.stack([part.sum(dim=0) for part in parts])
        is_right_B = (is_true_BC == is_predicted_BC).all(dim=1) & is_labelled_B
        self._rows += torch.stack((is_labelled_B.sum(), is_right_B.sum()))
        loss_BC = F.binary_cross_entropy_with_logits(output.double(), labels_BC.double(), reduction="none")
        self._loss_sum += (loss_BC.mean(dim=1) * is_labelled_B).sum()

    def metrics(self, ranks: Ranks) -> LabelSetMetrics:
        ranks.all_reduce(self._hits_3C, self._rows, self._loss_sum)
        num_examples, num_right = self._rows.tolist()
        if not num_examples:
            return LabelSetMetrics(num_examples=0, loss=None, f1_micro=None, f1_macro=None, accuracy=None)
        per_label = [_f1(*counts) for counts in self._hits_3C.t().tolist()]
        return LabelSetMetrics(
            num_examples=num_examples,
            loss=float(self._loss_sum) / num_examples,
            f1_micro=_f1(*self._hits_3C.sum(dim=1).tolist()),
            f1_macro=sum(per_label) / len(per_label),
            accuracy=num_right / num_examples,
            f1_per_label=tuple(per_label),
        )


def _f1(num_hits: int, num_predicted: int, num_true: int) -> float:
    return 2 * num_hits / (num_predicted + num_true) if num_predicted + num_true else 0.0
