"""What the training side knows of a type of task: its head, loss, metrics and predictions.

`types.py` lists the types; batching, loop, checkpoints, search and evaluation ask the object that it returns
and never look at a task's type or name. The rows and their encoding are in `text.datasets.examples`.

Shape suffixes: B: sequences of a microbatch. R: its rows. K: numbers kept per row.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from bertjobs.config.finetune import ModelSection
from bertjobs.config.sections import TextSection
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForSequenceClassification
from bertjobs.modeling.span_head import BertForQuestionAnswering
from bertjobs.text.batching import Batch
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.training.batches import Microbatch, label_targets
from bertjobs.training.distributed import Ranks

Floats = npt.NDArray[np.float32]
TaskModel = BertForSequenceClassification | BertForQuestionAnswering
"""An encoder as `bert`, a head, and `forward(inputs)`; the models of all types."""


class TaskMetrics(Protocol):
    """The metrics of one evaluation."""

    @property
    def num_examples(self) -> int:
        """Examples with a label; those without one are predicted but not counted."""

    @property
    def loss(self) -> float | None: ...

    def value_of(self, metric: str) -> float:
        """Return a metric, or `loss` with its sign changed: higher is better."""

    def curves(self) -> dict[str, float | None]:
        """Return the numbers that are drawn over the steps."""

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers, texts and lists."""


@dataclass(frozen=True, kw_only=True)
class RankedValue:
    """One of the values that a row may have, and how probable it is."""

    value: str | int | float
    """A label, the number of an ending, a score, or the text of an answer (empty: there is none)."""
    probability: float | None
    """None of a score."""
    start: int | None = None
    """Of an answer: offset of its first character in the context; None where there is no answer."""
    end: int | None = None
    is_predicted: bool = False
    """Whether it is what is predicted; of label sets several are, or none."""


M = TypeVar("M", bound=TaskMetrics, covariant=True)


class Counts(Protocol[M]):
    """Adds up an evaluation on the device, so that the host does not wait for it."""

    def add(self, output: Tensor, microbatch: Microbatch) -> None:
        """Count what the model returned for a microbatch, as fp32. Its targets include `rows` (B)."""

    def metrics(self, ranks: Ranks) -> M:
        """Sum over the ranks, and return the metrics. Collective."""


class TaskType(ABC, Generic[M]):
    """One task, seen through its type."""

    problem_type: str | None = None
    """Of sequence classification, as `transformers` names it in config.json."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """How many numbers are kept of each row's prediction: K."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the head's outputs for config.json; None where they have none."""
        return self.task.labels

    @abstractmethod
    def build_model(
        self, source: LoadedModel | BertConfig, *, seed: int, model: ModelSection | None = None
    ) -> TaskModel:
        """Build the model. `model`: the rates of dropout of a new head; None keeps the trained head.

        Raises: ModelError: weights are missing or do not fit, or there is no such head to keep.
        """

    def prepare(self, table: EncodedTable, *, text: TextSection) -> EncodedTable:
        """Return the table that batches are made of, from the encoded rows of a split.

        Raises: DataError: a row does not fit `text`.
        """
        return table

    def evaluated_task(self, trained: Task | None) -> Task:
        """Return the task to evaluate; `trained`: that of the model, None where it is not known."""
        return self.task

    def task_of_model(self, metrics: Any) -> Task:
        """Return the task to store with a model; metrics: those of its weights on the development split."""
        return self.task

    def targets(self, table: EncodedTable, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return what `loss_sum` and the counts need of a batch; it is brought to the device with it."""
        return label_targets(table, batch)

    @abstractmethod
    def loss_sum(self, output: Tensor, microbatch: Microbatch) -> Tensor:
        """Return the sum of the losses of the microbatch's rows, from what the model returned as fp32."""

    def loss_weight(self, table: EncodedTable, rows: Int64s) -> float:
        """Return what the sum of the losses of a global batch is divided by."""
        return len(rows)

    @abstractmethod
    def start_counts(self, table: EncodedTable, *, batch_size: int, device: torch.device) -> Counts[M]:
        """Begin to count an evaluation of the table. batch_size: rows per entry of metrics per batch."""

    @abstractmethod
    def outputs(self, output: Tensor, microbatch: Microbatch) -> tuple[Int64s, Tensor]:
        """Return rows of the table (R) and what is kept of their predictions (R, K), still on the device."""

    @abstractmethod
    def prediction_columns(self, table: pa.Table, outputs_RK: Floats) -> dict[str, Any]:
        """Return the columns of `predictions.parquet` for a split's rows, besides their texts."""

    @abstractmethod
    def ranked(self, table: pa.Table, outputs_RK: Floats) -> list[list[RankedValue]]:
        """Return the values of each row of `table`: the predicted one, then the others, best first."""

    def prediction_files(self, table: pa.Table, outputs_RK: Floats) -> dict[str, bytes]:
        """Return further files of predictions by name, as the task's official scripts want them."""
        return {}

    def submission_values(self, outputs_RK: Floats) -> list[str]:
        """Return each row's prediction as the server of a benchmark wants it."""
        raise NotImplementedError(f"{self.task.type} has no submission file")

    def is_correct(self, table: EncodedTable, outputs_RK: Floats) -> npt.NDArray[np.bool_] | None:
        """Return whether each row's prediction is right; None where that is not a matter of yes or no."""
        return None

    @abstractmethod
    def metrics_from_json(self, content: Mapping[str, Any]) -> M:
        """Read what `to_json` returned, also after JSON has turned its tuples into lists."""

    def plots(self, metrics: Any, *, title: str) -> dict[str, bytes]:
        """Draw an evaluation: PNG images by the name of their file."""
        return {}

    def prediction_plots(self, predictions: pa.Table, *, title: str) -> dict[str, bytes]:
        """Draw the table of predictions: PNG images by the name of their file."""
        return {}


def ranked_labels(
    labels: Sequence[str | int], probabilities_RC: Floats, *, threshold: float | None = None
) -> list[list[RankedValue]]:
    """Return labels with their probabilities, the most probable first; NaN where a row has no such label.

    threshold: above which labels are predicted; None: the most probable one is.
    """
    order_RC = np.argsort(-probabilities_RC, axis=1, kind="stable")
    return [
        [
            RankedValue(
                value=labels[i],
                probability=float(row[i]),
                is_predicted=not place if threshold is None else bool(row[i] > threshold),
            )
            for place, i in enumerate(order.tolist())
            if not np.isnan(row[i])
        ]
        for row, order in zip(probabilities_RC, order_RC, strict=True)
    ]
