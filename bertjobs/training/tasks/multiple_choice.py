"""Multiple choice: which of several endings continues a beginning, as in SWAG.

Each ending makes one sequence, and the head gives it one number; the softmax is over the endings of a row.

Source: Zellers et al. 2018 (SWAG); Devlin et al. 2019 (BERT), section 4.4.
Shape suffixes: B: sequences of a microbatch. R: its rows, or those of a table. E: endings.
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

from bertjobs.config.finetune import ModelSection
from bertjobs.modeling.build import build_with_head
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForMultipleChoice
from bertjobs.text.batching import Batch
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import Ranks
from bertjobs.training.tasks.classification import head_arguments
from bertjobs.training.tasks.task_type import Floats, RankedValue, TaskType, ranked_labels


@dataclass(frozen=True, kw_only=True)
class ChoiceMetrics:
    """The result of an evaluation; all None where no example had a label."""

    num_examples: int
    loss: float | None
    """Mean cross-entropy over the endings, in nats."""
    accuracy: float | None

    def value_of(self, metric: str) -> float:
        """Return `accuracy`, or `loss` with its sign changed: higher is better."""
        value = {"accuracy": self.accuracy, "loss": None if self.loss is None else -self.loss}[metric]
        assert value is not None, "a development split has labels: read_split was asked to require them"
        return value

    def curves(self) -> dict[str, float | None]:
        """Return the metrics that are plotted over the steps."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers."""
        return asdict(self)


class MultipleChoice(TaskType[ChoiceMetrics]):
    """Cross-entropy over the endings of each row."""

    @property
    def num_outputs(self) -> int:
        """One probability per ending."""
        return len(self.task.columns.endings)

    @property
    def class_names(self) -> None:
        """None: the head has one output, whatever the number of endings."""

    def build_model(
        self, source: LoadedModel | BertConfig, *, seed: int, model: ModelSection | None = None
    ) -> BertForMultipleChoice:
        return build_with_head(
            source, BertForMultipleChoice, head="classifier", seed=seed, **head_arguments(model)
        )

    def targets(self, table: EncodedTable, batch: Batch) -> dict[str, np.ndarray]:
        """Return where the sequences of each row are in the batch as `endings` (R, E), and `labels` (R)."""
        # Sequences are numbered row after row, so their order brings the endings of a row together.
        endings_RE = np.argsort(batch.sequences_B).reshape(-1, self.num_outputs)
        rows_R = batch.rows_B[endings_RE[:, 0]]
        return {"endings": endings_RE, "labels": table.labels[rows_R].astype(np.int64)}

    def loss_sum(self, output: Tensor, microbatch: Microbatch) -> Tensor:
        return F.cross_entropy(
            _by_row(output, microbatch),
            microbatch.targets["labels"],
            label_smoothing=self.task.label_smoothing,
            reduction="sum",
        )

    def start_counts(self, table: EncodedTable, *, batch_size: int, device: torch.device) -> "_Counts":
        return _Counts(device)

    def outputs(self, output: Tensor, microbatch: Microbatch) -> tuple[Int64s, Tensor]:
        # As `targets` puts them: in the order of the table, each with all its endings.
        rows_R = np.sort(microbatch.rows_B)[:: self.num_outputs]
        return rows_R, _by_row(output, microbatch).softmax(dim=1)

    def prediction_columns(self, table: pa.Table, outputs_RK: Floats) -> dict[str, Any]:
        """Return the number of the right ending (null where none is given), of the likeliest, and p_<n>."""
        truth = table["label"].to_numpy()
        return {
            "label": pa.array(truth, pa.int32(), mask=truth < 0),
            "prediction": pa.array(outputs_RK.argmax(axis=1), pa.int32()),
            **{f"p_{i}": np.ascontiguousarray(outputs_RK[:, i]) for i in range(outputs_RK.shape[1])},
        }

    def ranked(self, table: pa.Table, outputs_RK: Floats) -> list[list[RankedValue]]:
        return ranked_labels(range(outputs_RK.shape[1]), outputs_RK)

    def is_correct(self, table: EncodedTable, outputs_RK: Floats) -> npt.NDArray[np.bool_]:
        return np.asarray(outputs_RK.argmax(axis=1) == table.labels)

    def prediction_plots(self, predictions: pa.Table, *, title: str) -> dict[str, bytes]:
        from bertjobs.training.monitoring.prediction_plots import draw_choices  # matplotlib

        return draw_choices(predictions, title=title)

    def submission_values(self, outputs_RK: Floats) -> list[str]:
        return [str(i) for i in outputs_RK.argmax(axis=1)]

    def metrics_from_json(self, content: Mapping[str, Any]) -> ChoiceMetrics:
        return ChoiceMetrics(**content)


def _by_row(output_B1: Tensor, microbatch: Microbatch) -> Tensor:
    """Return the numbers of the endings of each row (R, E)."""
    return output_B1.squeeze(1)[microbatch.targets["endings"]]


class _Counts:
    """Count rows and correct answers, and sum the loss, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, output: Tensor, microbatch: Microbatch) -> None:
        logits_RE, labels_R = _by_row(output, microbatch), microbatch.targets["labels"]
        is_right_R = logits_RE.argmax(dim=1) == labels_R
        self._counts += torch.stack(((labels_R >= 0).sum(), is_right_R.sum()))
        self._loss_sum += F.cross_entropy(logits_RE.double(), labels_R, reduction="sum", ignore_index=-1)

    def metrics(self, ranks: Ranks) -> ChoiceMetrics:
        ranks.all_reduce(self._counts, self._loss_sum)
        num_examples, num_right = self._counts.tolist()
        if not num_examples:
            return ChoiceMetrics(num_examples=0, loss=None, accuracy=None)
        return ChoiceMetrics(
            num_examples=num_examples,
            loss=float(self._loss_sum) / num_examples,
            accuracy=num_right / num_examples,
        )
