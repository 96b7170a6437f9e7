"""Regression: a score for a text or a pair, as in STS-B.

The scores of all rows are kept, one number each: ranks (Spearman) cannot be counted as they come.

Source: Cer et al. 2017 (STS Benchmark); GLUE (Wang et al. 2019), table 1, for the metrics.
Shape suffixes: B: rows of a microbatch. R: rows of a table.
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
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import Ranks
from bertjobs.training.tasks.classification import SequenceClassifier
from bertjobs.training.tasks.task_type import Floats, RankedValue


@dataclass(frozen=True, kw_only=True)
class RegressionMetrics:
    """The result of an evaluation; all None where no example had a score."""

    num_examples: int
    loss: float | None
    """Mean squared error."""
    pearson: float | None
    """Correlation of scores and predictions; 0 where one of them does not vary."""
    spearman: float | None
    """Correlation of their ranks; likewise."""

    def value_of(self, metric: str) -> float:
        """Return `pearson`, `spearman`, or `loss` with its sign changed: higher is better."""
        loss = None if self.loss is None else -self.loss
        value = {"pearson": self.pearson, "spearman": self.spearman, "loss": loss}[metric]
        assert value is not None, "a development split has scores: read_split was asked to require them"
        return value

    def curves(self) -> dict[str, float | None]:
        """Return the metrics that are plotted over the steps."""
        return {"loss": self.loss, "pearson": self.pearson, "spearman": self.spearman}

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers."""
        return asdict(self)


class Regression(SequenceClassifier[RegressionMetrics]):
    """Mean squared error of one number per row."""

    problem_type = "regression"

    @property
    def num_outputs(self) -> int:
        """The predicted score."""
        return 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """One output, under the name that `transformers` gives it."""
        return ("LABEL_0",)

    def targets(self, table: EncodedTable, batch: Batch) -> dict[str, np.ndarray]:
        """Return the score of each row as `scores` (B), NaN where it has none: float32."""
        return {"scores": table.labels[batch.rows_B].astype(np.float32)}

    def loss_sum(self, output: Tensor, microbatch: Microbatch) -> Tensor:
        return F.mse_loss(output.squeeze(1), microbatch.targets["scores"], reduction="sum")

    def start_counts(self, table: EncodedTable, *, batch_size: int, device: torch.device) -> "_Scores":
        return _Scores(table, device=device)

    def outputs(self, output: Tensor, microbatch: Microbatch) -> tuple[Int64s, Tensor]:
        return microbatch.rows_B, output

    def prediction_columns(self, table: pa.Table, outputs_RK: Floats) -> dict[str, Any]:
        """Return the true score (null where a row has none) and the predicted one."""
        truth = table["label"].to_numpy()
        return {
            "label": pa.array(truth, pa.float32(), mask=np.isnan(truth)),
            "prediction": np.ascontiguousarray(outputs_RK[:, 0]),
        }

    def ranked(self, table: pa.Table, outputs_RK: Floats) -> list[list[RankedValue]]:
        scores = outputs_RK[:, 0].tolist()
        return [[RankedValue(value=s, probability=None, is_predicted=True)] for s in scores]

    def submission_values(self, outputs_RK: Floats) -> list[str]:
        """Return the scores within the task's range, to three digits."""
        low, high = self.task.score_range or (-np.inf, np.inf)
        return [f"{score:.3f}" for score in outputs_RK[:, 0].clip(low, high)]

    def prediction_plots(self, predictions: pa.Table, *, title: str) -> dict[str, bytes]:
        from bertjobs.training.monitoring.prediction_plots import draw_regression  # matplotlib

        return draw_regression(predictions, title=title)

    def metrics_from_json(self, content: Mapping[str, Any]) -> RegressionMetrics:
        return RegressionMetrics(**content)


class _Scores:
    """The predicted score of each row, on the device; zero where another rank predicts."""

    def __init__(self, table: EncodedTable, *, device: torch.device) -> None:
        self._truth = table.labels
        self._predicted_R = torch.zeros(table.num_rows, dtype=torch.float32, device=device)

    def add(self, output: Tensor, microbatch: Microbatch) -> None:
        self._predicted_R.index_copy_(0, microbatch.targets["rows"], output.squeeze(1))

    def metrics(self, ranks: Ranks) -> RegressionMetrics:
        ranks.all_reduce(self._predicted_R)
        return regression_metrics(self._truth, self._predicted_R.cpu().numpy())


def regression_metrics(truth_R: npt.NDArray[Any], predicted_R: npt.NDArray[Any]) -> RegressionMetrics:
    """Return the metrics over the rows that have a score: `truth_R` is not NaN."""
    has_score_R = ~np.isnan(truth_R)
    truth, predicted = truth_R[has_score_R].astype(np.float64), predicted_R[has_score_R].astype(np.float64)
    if not len(truth):
        return RegressionMetrics(num_examples=0, loss=None, pearson=None, spearman=None)
    return RegressionMetrics(
        num_examples=len(truth),
        loss=float(np.mean((truth - predicted) ** 2)),
        pearson=pearson(truth, predicted),
        spearman=spearman(truth, predicted),
    )


def pearson(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Return Pearson's correlation; 0 where one side does not vary, or there are fewer than two values.

    Source: the formula, and its order of operations, of SciPy 1.17, `stats.pearsonr`.
    """
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x_centred, y_centred = x - x.mean(), y - y.mean()
    # Scaled by the largest value, so that squares neither overflow nor vanish.
    x_scale, y_scale = np.abs(x_centred).max(), np.abs(y_centred).max()
    x_norm = x_scale * np.linalg.norm(x_centred / x_scale, axis=0)
    y_norm = y_scale * np.linalg.norm(y_centred / y_scale, axis=0)
    return float(np.clip(np.vecdot(x_centred / x_norm, y_centred / y_norm), -1.0, 1.0))


def spearman(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, equal values sharing the mean of their ranks; 0 as in `pearson`.

    Source: SciPy 1.17, `stats.spearmanr`: `numpy.corrcoef` of the ranks.
    """
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    ranks = np.column_stack((mean_ranks(x), mean_ranks(y)))
    return float(np.asarray(np.corrcoef(ranks, rowvar=False))[1, 0])


def mean_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the ranks from 1; equal values get the mean of the ranks that they take together."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[group]
