"""Draw a search as PNG images: its trials, their parameters, what truncation changed. Needs no display."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bertjobs.config.dimensions import Choice, Dimension, LogRange, parse_space
from bertjobs.runs.tune.trial_records import Search, Trial, rank
from bertjobs.storage import JobDir
from bertjobs.training.monitoring.plots import style_axes, to_png

_BEST, _OTHER = "#c8541b", "#7a7a7a"
_COLOURS = colormaps["viridis"]
_STRATEGY_COLOURS = colormaps["tab10"]


def save_plots(job_dir: JobDir, search: Search, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Write the images for which there is data; return their names. Raises: StorageError."""
    images = {
        "plots/trials.png": draw_trials(search, trials),
        "plots/parallel.png": draw_parallel(search, trials),
        "plots/parameters.png": draw_parameters(search, trials),
    }
    if by_strategy := accuracy_by_length(trials):
        images["plots/truncation.png"] = draw_truncation(by_strategy)
    for name, png in images.items():
        job_dir.write_bytes(name, png)
    return tuple(images)


def draw_trials(search: Search, trials: Sequence[Trial]) -> bytes:
    """Draw the metric over the examples seen, a line per trial; the best trial in bold."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ranked = rank(trials, search.metric)
    for trial in reversed(ranked):
        is_best = trial is ranked[0]
        x = [evaluation.num_examples for evaluation in trial.history]
        y = [evaluation.value_of(search.metric) for evaluation in trial.history]
        axes.plot(
            x, y, color=_BEST if is_best else _OTHER, alpha=1.0 if is_best else 0.55,
            linewidth=2.4 if is_best else 1.1, marker="o", markersize=3,
            label=f"trial {trial.number}, the best" if is_best else None,
        )  # fmt: skip
        if trial.state == "stopped":
            axes.plot(x[-1:], y[-1:], "x", color=_BEST if is_best else _OTHER, markersize=8)
    axes.plot([], [], "x", color=_OTHER, markersize=8, linestyle="none", label="stopped early")
    axes.set(xlabel="examples seen", ylabel=f"development {search.metric}", title=f"{len(trials)} trials")
    axes.legend(frameon=False)
    style_axes(axes)
    return to_png(figure)


def draw_parallel(search: Search, trials: Sequence[Trial]) -> bytes:
    """Draw each trial as a line across one axis per parameter, coloured by its best value."""
    space = parse_space(search.space)
    ranked = rank(trials, search.metric)
    figure = Figure(figsize=(2.4 * (len(space) + 1) + 1.5, 5), layout="constrained")
    axes = figure.subplots()
    values = [_best_value(trial, search.metric) for trial in ranked]
    norm = _norm(values)
    for trial, value in sorted(zip(ranked, values, strict=True), key=lambda pair: pair[1]):
        heights = [_height(dimension, trial.values[path]) for path, dimension in space.items()]
        axes.plot(
            range(len(space) + 1), [*heights, float(norm(value))],
            color=_COLOURS(norm(value)), linewidth=2.4 if trial is ranked[0] else 1.1, alpha=0.85,
        )  # fmt: skip
    for place, (path, dimension) in enumerate(space.items()):
        _label_axis(axes, place, path, {_height(dimension, v): _text(v) for v in _marks(dimension)})
    ends = {float(norm(value)): f"{value:.3f}" for value in ([min(values), max(values)] if values else [])}
    _label_axis(axes, len(space), search.metric, ends)
    axes.set(xlim=(-0.3, len(space) + 0.5), ylim=(-0.12, 1.08), title="Parameters of the trials")
    axes.set_axis_off()
    figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, label=f"best {search.metric}", shrink=0.8)
    return to_png(figure)


def draw_parameters(search: Search, trials: Sequence[Trial]) -> bytes:
    """Draw the best value of each trial against each parameter."""
    space = parse_space(search.space)
    ranked = rank(trials, search.metric)
    figure = Figure(figsize=(4.2 * len(space), 4.2), layout="constrained")
    all_axes = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
    for axes, (path, dimension) in zip(all_axes, space.items(), strict=True):
        for trial in ranked:
            x = (
                trial.values[path]
                if not isinstance(dimension, Choice)
                else _place(dimension, trial.values[path])
            )
            axes.plot(
                x, _best_value(trial, search.metric),
                "x" if trial.state == "stopped" else "o",
                color=_BEST if trial is ranked[0] else _OTHER, markersize=7, alpha=0.8,
            )  # fmt: skip
        if isinstance(dimension, Choice):
            axes.set_xticks(range(len(dimension.values)), dimension.values, rotation=20)
            axes.set_xlim(-0.5, len(dimension.values) - 0.5)
        elif isinstance(dimension, LogRange):
            axes.set_xscale("log")
        axes.set_xlabel(path)
        style_axes(axes)
    all_axes[0].set_ylabel(f"best development {search.metric}")
    figure.suptitle("Dots ran to the end, crosses were stopped early; the best trial in colour")
    return to_png(figure)


def accuracy_by_length(trials: Sequence[Trial]) -> dict[str, list[tuple[str, int, float]]]:
    """Return, per truncation strategy, the accuracy of its finished trials per bucket of length.

    Each bucket is (its name in percent of max_len, examples, accuracy over the trials). Empty where no
    example was truncated, or the strategy was not varied.
    """
    counted = [t for t in trials if t.by_length and t.state == "finished" and "text.truncation" in t.values]
    found = {}
    for strategy, group in groupby(sorted(counted, key=_strategy), key=_strategy):
        tables = [trial.by_length for trial in group]
        buckets = [
            (_bucket_name(rows[0]), rows[0]["num_examples"], sum(r["num_correct"] for r in rows), len(rows))
            for rows in zip(*tables, strict=True)
        ]
        found[strategy] = [(name, n, right / (n * times)) for name, n, right, times in buckets if n]
    return found


def draw_truncation(by_strategy: Mapping[str, Sequence[tuple[str, int, float]]]) -> bytes:
    """Draw the accuracy over the length of the examples, a line per truncation strategy."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    names: list[str] = []
    for i, (strategy, buckets) in enumerate(by_strategy.items()):
        names = [f"{name}\n{num} examples" for name, num, _ in buckets]
        axes.plot(
            range(len(buckets)), [accuracy for _, _, accuracy in buckets],
            marker="o", linewidth=1.8, color=_STRATEGY_COLOURS(i), label=strategy,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set(
        xlabel="length before truncation, in shares of max_len (above 100 % it is cut)",
        ylabel="accuracy",
        title="What truncation changes, and at which length",
    )
    axes.legend(frameon=False)
    style_axes(axes)
    return to_png(figure)


def _strategy(trial: Trial) -> str:
    return str(trial.values["text.truncation"])


def _bucket_name(bucket: Mapping[str, Any]) -> str:
    if bucket["up_to"] is None:
        return f"over {bucket['above']:.0%}"
    return f"up to {bucket['up_to']:.0%}"


def _best_value(trial: Trial, metric: str) -> float:
    best = trial.best(metric)
    assert best is not None, "ranked trials have a value"
    return best.value_of(metric)


def _norm(values: Sequence[float]) -> Normalize:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return Normalize(low, high if high > low else low + 1e-9)


def _place(dimension: Choice, value: Any) -> int:
    return dimension.values.index(str(value))


def _height(dimension: Dimension, value: Any) -> float:
    """Return the position of a value between the ends of its axis, in 0..1."""
    if isinstance(dimension, Choice):
        return _place(dimension, value) / max(len(dimension.values) - 1, 1)
    low, high, at = (float(v) for v in (dimension.low, dimension.high, value))
    if isinstance(dimension, LogRange):
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _marks(dimension: Dimension) -> Sequence[Any]:
    return dimension.values if isinstance(dimension, Choice) else dimension.ends


def _label_axis(axes: Axes, place: float, name: str, marks: Mapping[float, str]) -> None:
    axes.plot([place, place], [0, 1], color="black", linewidth=1)
    axes.text(place, 1.05, name, ha="center", fontsize=11)
    for height, text in marks.items():
        axes.text(
            place + 0.03, height, text, va="center", fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 1}
        )


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
