"""Pictures of a run as PNG bytes: curves over the steps, and the confusion matrix. Needs no display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bertjobs.storage import JobDir
from bertjobs.training.metrics import Metrics
from bertjobs.training.monitoring.metrics_file import MetricsLine

_LOSS, _DEV, _LR, _QUIET = "#1f5fa8", "#c8541b", "#4a7a3a", "#7a7a7a"
_NAMES = {
    "accuracy": "accuracy",
    "mcc": "MCC",
    "f1": "F1",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "exact": "exact match",
}
_MARKERS = {
    "accuracy": "o",
    "mcc": "s",
    "f1": "^",
    "pearson": "o",
    "spearman": "s",
    "exact": "o",
    "f1_micro": "^",
    "f1_macro": "v",
}
_PARTS = {"mlm_loss": "masked tokens", "nsp_loss": "pairs"}
_DPI = 120


def save_plots(
    job_dir: JobDir, lines: Sequence[MetricsLine], images: Mapping[str, bytes], *, metric: str
) -> tuple[str, ...]:
    """Write `plots/curves.png` and the task's own images; return their names. Raises: StorageError."""
    pictures = {"plots/curves.png": draw_curves(lines, metric=metric)}
    pictures |= {f"plots/{name}": png for name, png in images.items()}
    for name, png in pictures.items():
        job_dir.write_bytes(name, png)
    return tuple(pictures)


def draw_curves(
    lines: Sequence[MetricsLine],
    *,
    metric: str,
    title: str = "Fine-tuning: loss, development scores, learning rate",
) -> bytes:
    """Draw loss, development scores and learning rate over the steps, one above the other.

    lines: as in `metrics.jsonl`; metric: which score decides, drawn boldly with its best value marked.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    figure = Figure(figsize=(8, 8.5), layout="constrained")
    loss_axes, score_axes, lr_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2.4, 1.2))
    figure.suptitle(title, fontsize=14)
    _draw_loss(loss_axes, steps, epochs)
    _draw_scores(score_axes, epochs, metric=metric)
    _draw_rate(lr_axes, steps)
    for axes in (loss_axes, score_axes, lr_axes):
        style_axes(axes)
    return to_png(figure)


def save_pretraining_plots(job_dir: JobDir, lines: Sequence[MetricsLine]) -> tuple[str, ...]:
    """Write `plots/curves.png`; return this name. Raises: StorageError."""
    job_dir.write_bytes("plots/curves.png", draw_pretraining_curves(lines))
    return ("plots/curves.png",)


def draw_pretraining_curves(
    lines: Sequence[MetricsLine], *, title: str = "Pretraining: losses, validation accuracy, learning rate"
) -> bytes:
    """Draw the parts of the loss, validation accuracies and learning rate over the steps.

    lines: as in `metrics.jsonl`. Without pairs there is no curve of theirs.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    parts = [name for name in _PARTS if any(name in line for line in (*steps, *epochs))]
    figure = Figure(figsize=(8, 5.5 + 3 * len(parts)), layout="constrained")
    axes = figure.subplots(len(parts) + 2, 1, sharex=True, height_ratios=(*[3] * len(parts), 2, 1.2))
    figure.suptitle(title, fontsize=14)
    for name, part_axes in zip(parts, axes, strict=False):
        _draw_loss(part_axes, steps, epochs, name=name, ylabel=f"{_PARTS[name]}, nats")
    for name, color in (("mlm_accuracy", _LOSS), ("nsp_accuracy", _DEV)):
        seen = [line for line in epochs if name in line]
        label = f"{_PARTS[name.replace('accuracy', 'loss')]}, validation"
        axes[-2].plot(_column(seen, "step"), _column(seen, name), color=color, marker="o", label=label)
    axes[-2].set(ylabel="accuracy", ylim=(0, 1))
    axes[-2].legend(frameon=False)
    _draw_rate(axes[-1], steps)
    for each in axes:
        style_axes(each)
    return to_png(figure)


def draw_confusion(metrics: Metrics, *, title: str) -> bytes:
    """Draw the confusion matrix: counts, and shares of each true label."""
    counts = np.array(metrics.confusion).reshape(len(metrics.confusion), -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3.4 + 0.95 * len(counts)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.1%}"
        color = "white" if share > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=11)
    ticks = range(len(counts))
    axes.set_xticks(ticks, metrics.labels, rotation=20 if max(map(len, metrics.labels)) > 8 else 0)
    axes.set_yticks(ticks, metrics.labels)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{title}\n{_summary(metrics)}", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true label")
    return to_png(figure)


def _draw_loss(
    axes: Axes,
    steps: Sequence[MetricsLine],
    epochs: Sequence[MetricsLine],
    *,
    name: str = "loss",
    ylabel: str = "cross-entropy (nats)",
) -> None:
    x, loss = _column(steps, "step"), _column(steps, name)
    axes.plot(x, loss, color=_LOSS, alpha=0.25, linewidth=0.9, label="training, each batch")
    axes.plot(x, smooth(loss), color=_LOSS, linewidth=2, label="training, smoothed")
    axes.plot(
        _column(epochs, "step"), _column(epochs, name),
        color=_DEV, marker="o", linewidth=1.6, label="development",
    )  # fmt: skip
    if name == "mlm_loss" and epochs:
        axes.axhline(
            epochs[-1]["frequency_loss"], color=_QUIET, linestyle="--", label="word frequencies alone"
        )
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _draw_rate(axes: Axes, steps: Sequence[MetricsLine]) -> None:
    axes.plot(_column(steps, "step"), _column(steps, "lr"), color=_LR, linewidth=1.6)
    axes.set(ylabel="learning rate", xlabel="optimizer step")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_scores(axes: Axes, epochs: Sequence[MetricsLine], *, metric: str) -> None:
    x = _column(epochs, "step")
    found = [name for name in _MARKERS if name == metric or any(name in line for line in epochs)]
    for name in found:
        marker = _MARKERS[name]
        decides = name == metric
        axes.plot(
            x, _column(epochs, name), marker=marker, markersize=6 if decides else 4,
            color=_DEV if decides else _QUIET, linewidth=2 if decides else 1,
            linestyle="-" if decides else ("--" if name == "f1" else ":"),
            label=f"{_NAMES[name]} (decides)" if decides else _NAMES[name],
        )  # fmt: skip
    if epochs:
        best = max(epochs, key=lambda line: line[metric])
        axes.annotate(
            f"best {best[metric]:.3f}", (best["step"], best[metric]), xytext=(-8, 8),
            textcoords="offset points", ha="right", color=_DEV,
        )  # fmt: skip
    axes.set_ylabel("development score")
    axes.margins(y=0.25)
    axes.legend(frameon=False, loc="lower right", ncols=3)


def smooth(values: np.ndarray) -> np.ndarray:
    """Average exponentially over a fiftieth of the run, at least 5 steps; the start is not pulled to zero."""
    decay = 1 - 1 / max(5, len(values) // 50)
    average, weight, smoothed = 0.0, 0.0, np.empty_like(values)
    for i, value in enumerate(values):
        average = decay * average + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed[i] = average / weight
    return smoothed


def _column(lines: Sequence[MetricsLine], name: str) -> np.ndarray:
    return np.array([line[name] for line in lines], dtype=np.float64)


def _summary(metrics: Metrics) -> str:
    return f"{metrics.num_examples:,} examples, accuracy {metrics.accuracy:.3f}, MCC {metrics.mcc:.3f}"


def style_axes(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def to_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
