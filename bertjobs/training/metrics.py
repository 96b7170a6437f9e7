"""Compute a classifier's metrics from counts: a confusion matrix per batch, and the sum of the losses.

Counts can be added up in any order and over any number of ranks; no logits are kept. Numpy only.
A confusion matrix has true labels in rows and predictions in columns, as in scikit-learn.

Source: GLUE (Wang et al. 2019), table 1: MCC for CoLA, accuracy for NLI, accuracy and F1 for MRPC and QQP.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LabelScores:
    """One line of the per-class table."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Examples that truly have this label."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The result of an evaluation; all None or empty where no example had a label."""

    num_examples: int
    """Examples with a label; those without one are predicted but not counted."""
    loss: float | None
    """Mean cross-entropy in nats."""
    accuracy: float | None
    mcc: float | None
    f1: float | None
    """Of the positive class (the second label) where there are two labels, else the mean over the classes."""
    mcc_per_batch: tuple[float, ...]
    """One MCC per batch of consecutive rows; how CoLA's recipe reports."""
    per_class: tuple[LabelScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]

    def value_of(self, metric: str) -> float:
        """Return `accuracy`, `mcc`, `f1`, or `loss` with its sign changed: higher is better."""
        loss = None if self.loss is None else -self.loss
        value = {"accuracy": self.accuracy, "mcc": self.mcc, "f1": self.f1, "loss": loss}[metric]
        assert value is not None, "a development split has labels: read_split was asked to require them"
        return value

    def curves(self) -> dict[str, float | None]:
        """Return the metrics that are plotted over the steps."""
        return {"loss": self.loss, "accuracy": self.accuracy, "mcc": self.mcc, "f1": self.f1}

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers, texts and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Metrics":
        """Read what `to_json` returned, also after JSON has turned its tuples into lists."""
        return cls(
            **{
                **content,
                "mcc_per_batch": tuple(content["mcc_per_batch"]),
                "per_class": tuple(LabelScores(**line) for line in content["per_class"]),
                "confusion": tuple(tuple(row) for row in content["confusion"]),
                "labels": tuple(content["labels"]),
            }
        )


def metrics_of(
    confusion_per_batch: IntArray, *, loss_sum: float, labels: Sequence[str], per_batch: bool = True
) -> Metrics:
    """Turn counts (batches, true, predicted) and the summed loss into metrics."""
    confusion = confusion_per_batch.sum(axis=0)
    num_examples = int(confusion.sum())
    if num_examples == 0:
        return Metrics(
            num_examples=0, loss=None, accuracy=None, mcc=None, f1=None,
            mcc_per_batch=(), per_class=(), confusion=(), labels=tuple(labels),
        )  # fmt: skip
    per_class = scores_per_class(confusion, labels=labels)
    f1 = per_class[1].f1 if len(labels) == 2 else math.fsum(s.f1 for s in per_class) / len(per_class)
    filled = confusion_per_batch[confusion_per_batch.sum(axis=(1, 2)) > 0]
    return Metrics(
        num_examples=num_examples,
        loss=loss_sum / num_examples,
        accuracy=int(np.trace(confusion)) / num_examples,
        mcc=matthews(confusion),
        f1=f1,
        mcc_per_batch=tuple(matthews(batch) for batch in filled) if per_batch else (),
        per_class=per_class,
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        labels=tuple(labels),
    )


def matthews(confusion: IntArray) -> float:
    """Return the Matthews correlation coefficient (MCC) for any number of classes; 0 where it is undefined.

    It is undefined when all true labels, or all predictions, are the same. Python's integers do not overflow:
    the product under the root passes 2^63 at about 50,000 examples.

    Source: Matthews 1975 for two classes; Gorodkin 2004, eq. 8, for more, in the form of counts.
    """
    n = int(confusion.sum())
    true = [int(k) for k in confusion.sum(axis=1)]
    predicted = [int(k) for k in confusion.sum(axis=0)]
    covariance = int(np.trace(confusion)) * n - _dot(true, predicted)
    spread = (n * n - _dot(true, true)) * (n * n - _dot(predicted, predicted))
    return covariance / math.sqrt(spread) if spread else 0.0


def scores_per_class(confusion: IntArray, *, labels: Sequence[str]) -> tuple[LabelScores, ...]:
    """Return precision, recall, F1 and support of each label; a score with nothing to divide by is 0."""
    hits = np.diagonal(confusion).tolist()
    true, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    return tuple(
        LabelScores(
            label=label,
            precision=_ratio(hits[k], predicted[k]),
            recall=_ratio(hits[k], true[k]),
            f1=_ratio(2 * hits[k], true[k] + predicted[k]),
            support=true[k],
        )
        for k, label in enumerate(labels)
    )


def _dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
