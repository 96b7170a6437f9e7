"""One picture of several jobs: their losses and scores over one another, or their means over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bertjobs.training.monitoring.metrics_file import MetricsLine
from bertjobs.training.monitoring.plots import smooth, style_axes, to_png

SEED = "train.seed"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What is drawn in one colour: one job, or several that are averaged."""

    label: str
    runs: Sequence[Sequence[MetricsLine]]
    """The lines of each job, as in `metrics.jsonl`."""


def label_jobs(values: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[str]:
    """Return what differs between jobs, one text for each.

    values: all parameters by path, one value per job. names: for jobs that differ in nothing else.
    """
    differing = {
        path: found for path, found in values.items() if any(value != found[0] for value in found[1:])
    }
    last_parts = [path.rpartition(".")[2] for path in differing]
    shown = {
        path: part if last_parts.count(part) == 1 else path
        for path, part in zip(differing, last_parts, strict=True)
    }
    labels = [
        ", ".join(f"{shown[path]}={_text(found[i])}" for path, found in differing.items())
        for i in range(len(names))
    ]
    return [
        f"{label}, {name}" if label and labels.count(label) > 1 else label or name
        for label, name in zip(labels, names, strict=True)
    ]


def draw_comparison(curves: Sequence[Curve], *, metric: str | None, title: str) -> bytes:
    """Draw the training loss, and below it the score, of all curves.

    A curve of several runs is their mean, in a band from the lowest to the highest.
    """
    has_score = metric is not None and any(_scores(run, metric)[0].size for c in curves for run in c.runs)
    figure = Figure(figsize=(8.5, 7 if has_score else 4.6), layout="constrained")
    axes = figure.subplots(2 if has_score else 1, 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=13)
    colors = colormaps["tab10" if len(curves) <= 10 else "turbo"]
    for number, curve in enumerate(curves):
        color = colors(number if len(curves) <= 10 else number / (len(curves) - 1))
        _draw(axes[0], [_losses(run) for run in curve.runs], color=color, label=curve.label)
        if has_score:
            assert metric is not None
            _draw(axes[1], [_scores(run, metric) for run in curve.runs], color=color, marker="o")
    axes[0].set(ylabel="training loss, smoothed")
    if has_score:
        axes[1].set(ylabel=f"development {metric}")
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(frameon=False, fontsize=9)
    for each in axes:
        style_axes(each)
    return to_png(figure)


def _draw(
    axes: Axes,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    color: Any,
    label: str = "",
    marker: str = "",
) -> None:
    runs = [(steps, values) for steps, values in runs if len(steps)]
    if not runs:
        return
    steps, values = runs[0]
    if len(runs) > 1:
        # Where all runs have been: beyond, the mean would jump as runs drop out.
        last = min(steps[-1] for steps, _ in runs)
        steps = np.unique(np.concatenate([steps[steps <= last] for steps, _ in runs]))
        aligned = np.stack([np.interp(steps, *run) for run in runs])
        values = aligned.mean(axis=0)
        axes.fill_between(
            steps, aligned.min(axis=0), aligned.max(axis=0), color=color, alpha=0.18, linewidth=0
        )
    axes.plot(steps, values, color=color, linewidth=1.8, marker=marker, markersize=4, label=label)


def _losses(lines: Sequence[MetricsLine]) -> tuple[np.ndarray, np.ndarray]:
    steps = [line for line in lines if line["kind"] == "step"]
    losses = np.array([line["loss"] for line in steps], dtype=np.float64)
    return np.array([line["step"] for line in steps]), smooth(losses)


def _scores(lines: Sequence[MetricsLine], metric: str) -> tuple[np.ndarray, np.ndarray]:
    found = [line for line in lines if line["kind"] == "epoch" and line.get(metric) is not None]
    return np.array([line["step"] for line in found]), np.array([line[metric] for line in found])


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 30 else f"...{text[-27:]}"
