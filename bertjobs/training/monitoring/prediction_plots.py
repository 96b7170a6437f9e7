"""Pictures of `predictions.parquet`: confusion matrix, calibration, accuracy by length, scatter of scores.

They need the table only, not the model. Rows without a label are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.figure import Figure

from bertjobs.training.metrics import metrics_of
from bertjobs.training.monitoring.plots import draw_confusion, style_axes, to_png

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NUM_BINS = 10
"""Bins of the calibration curve and of the lengths."""
_POINT, _LINE, _QUIET = "#1f5fa8", "#c8541b", "#7a7a7a"
_MAX_SCATTER = 20_000


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often predictions of some confidence are right, by bin; bins without predictions are left out."""

    confidence: Floats
    """Mean probability of the predicted label."""
    accuracy: Floats
    counts: npt.NDArray[np.int64]
    error: float
    """Expected calibration error: the mean distance of the two, weighted by the counts."""


def calibrate(confidence_R: Floats, is_correct_R: Bools, *, num_bins: int = NUM_BINS) -> Calibration:
    """Sort predictions into bins of equal width by their confidence.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    # (m - 1) / M < p <= m / M, as in the paper.
    bin_R = np.clip(np.ceil(confidence_R * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    counts = np.bincount(bin_R, minlength=num_bins)
    used = counts > 0
    confidence = np.bincount(bin_R, confidence_R, num_bins)[used] / counts[used]
    accuracy = np.bincount(bin_R, is_correct_R, num_bins)[used] / counts[used]
    error = float(np.average(np.abs(accuracy - confidence), weights=counts[used])) if used.any() else 0.0
    return Calibration(confidence=confidence, accuracy=accuracy, counts=counts[used], error=error)


def draw_classification(table: pa.Table, labels: Sequence[str], *, title: str) -> dict[str, bytes]:
    """Draw confusion matrix, calibration and accuracy by length; nothing where no row has a label."""
    table = table.filter(table["label"].is_valid())
    if not table.num_rows:
        return {}
    names = [str(label) for label in labels]
    place = {name: number for number, name in enumerate(names)}
    truth = np.array([place[str(value)] for value in table["label"].to_pylist()])
    predicted = np.array([place[str(value)] for value in table["prediction"].to_pylist()])
    probabilities = np.column_stack([table[f"p_{name}"].to_numpy().astype(np.float64) for name in names])
    confusion = np.zeros((1, len(names), len(names)), dtype=np.int64)
    np.add.at(confusion[0], (truth, predicted), 1)
    of_truth = probabilities[np.arange(len(truth)), truth]
    metrics = metrics_of(
        confusion, loss_sum=float(-np.log(np.maximum(of_truth, 1e-12)).sum()), labels=tuple(names)
    )
    is_correct = truth == predicted
    return {
        "confusion.png": draw_confusion(metrics, title=title),
        "calibration.png": _draw_calibration(calibrate(probabilities.max(axis=1), is_correct), title=title),
        "accuracy-by-length.png": _draw_by_length(count_words(table), is_correct, title=title),
    }


def draw_choices(table: pa.Table, *, title: str) -> dict[str, bytes]:
    """Draw calibration and accuracy by length of a multiple choice: its numbers of endings mean nothing."""
    endings = [name.removeprefix("p_") for name in table.column_names if name.startswith("p_")]
    pictures = draw_classification(table, endings, title=title)
    pictures.pop("confusion.png", None)
    return pictures


def draw_regression(table: pa.Table, *, title: str) -> dict[str, bytes]:
    """Draw predicted over true scores; nothing where no row has a score."""
    table = table.filter(table["label"].is_valid())
    if not table.num_rows:
        return {}
    truth, predicted = (table[name].to_numpy().astype(np.float64) for name in ("label", "prediction"))
    if len(truth) > _MAX_SCATTER:
        shown = np.random.default_rng(0).choice(len(truth), _MAX_SCATTER, replace=False)
        truth, predicted = truth[shown], predicted[shown]
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())
    axes.plot([low, high], [low, high], color=_QUIET, linestyle="--", linewidth=1, label="exact")
    axes.scatter(
        truth, predicted, s=12, alpha=min(1.0, max(0.08, 300 / len(truth))), color=_POINT, linewidths=0
    )
    axes.set(xlabel="true score", ylabel="predicted score")
    error = float(np.sqrt(np.mean((truth - predicted) ** 2)))
    figure.suptitle(f"{title}\n{table.num_rows:,} examples, root mean squared error {error:.3f}", fontsize=11)
    axes.legend(frameon=False, loc="upper left")
    style_axes(axes)
    return {"scatter.png": to_png(figure)}


def count_words(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the words of each row, over all its texts."""
    known = {"index", "label", "prediction"}
    texts = [
        table[name].to_pylist()
        for name in table.column_names
        if name not in known and pa.types.is_string(table.schema.field(name).type)
    ]
    return np.array([sum(len((text or "").split()) for text in row) for row in zip(*texts, strict=True)])


def _draw_calibration(found: Calibration, *, title: str) -> bytes:
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=_QUIET, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.plot(found.confidence, found.accuracy, color=_LINE, marker="o", linewidth=2, label="model")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    axes.legend(frameon=False, loc="upper left")
    counts.bar(found.confidence, found.counts, width=0.06, color=_POINT)
    counts.set(ylabel="predictions", xlabel="probability of the predicted label")
    figure.suptitle(f"{title}\nexpected calibration error {found.error:.3f}", fontsize=11)
    for each in (axes, counts):
        style_axes(each)
    return to_png(figure)


def _draw_by_length(num_words_R: npt.NDArray[np.int64], is_correct_R: Bools, *, title: str) -> bytes:
    # Bins of about equally many rows: the last of equal width would hold a handful.
    edges = np.unique(np.quantile(num_words_R, np.linspace(0, 1, NUM_BINS + 1)).astype(np.int64))
    bin_R = np.clip(np.searchsorted(edges, num_words_R, side="right") - 1, 0, max(0, len(edges) - 2))
    num_bins = max(1, len(edges) - 1)
    counts = np.maximum(np.bincount(bin_R, minlength=num_bins), 1)
    accuracy = np.bincount(bin_R, is_correct_R, num_bins) / counts
    error = np.sqrt(accuracy * (1 - accuracy) / counts)
    lasts = [*(edges[1:-1] - 1), edges[-1]]
    labels = [str(low) if low == last else f"{low}-{last}" for low, last in zip(edges, lasts, strict=False)]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(num_bins)
    axes.errorbar(places, accuracy, yerr=error, color=_LINE, marker="o", capsize=3, linewidth=2)
    for place, count in enumerate(counts):
        axes.text(place, 0.02, f"{count:,}", ha="center", fontsize=8, color=_QUIET)
    axes.axhline(float(is_correct_R.mean()), color=_QUIET, linestyle="--", linewidth=1)
    axes.set_xticks(places, labels, rotation=30)
    axes.set(xlabel="words of the example", ylabel="accuracy", ylim=(0, 1.1))
    axes.set_title(f"{title}\naccuracy by length: standard error, number of examples", fontsize=11)
    style_axes(axes)
    return to_png(figure)
