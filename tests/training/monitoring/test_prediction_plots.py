"""Pictures of predictions and comparisons: their numbers, and that they are drawn at the edges."""

import io
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest

from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.training.monitoring.comparison_plots import Curve, draw_comparison, label_jobs
from bertjobs.training.monitoring.prediction_plots import calibrate, count_words
from bertjobs.training.tasks.types import task_type

PNG = b"\x89PNG"


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png), format="png"))


def snli(num_rows: int) -> pa.Table:
    """Return predictions of a classifier; every fifth row has no label."""
    rng = np.random.default_rng(0)
    labels = BUILT_IN["snli"].labels
    probabilities = rng.dirichlet((1, 1, 1), num_rows)
    truth = [None if n % 5 == 4 else labels[rng.integers(3)] for n in range(num_rows)]
    return pa.table({
        "index": list(range(num_rows)),
        "text_a": ["a word " * rng.integers(1, 30) for _ in range(num_rows)],
        "text_b": pa.array(["more"] * num_rows, pa.string()),
        "label": pa.array(truth, pa.string()),
        "prediction": pa.array([labels[i] for i in probabilities.argmax(axis=1)], pa.string()),
        **{f"p_{label}": probabilities[:, i].astype(np.float32) for i, label in enumerate(labels)},
    })  # fmt: skip


def test_the_calibration_error_is_that_of_the_paper() -> None:
    # Bins (0.5, 0.6] with 2 of 4 right at 0.6, and (0.9, 1] with 1 of 1 at 0.95: (4 * 0.1 + 1 * 0.05) / 5.
    found = calibrate(np.array([0.6, 0.6, 0.6, 0.6, 0.95]), np.array([True, True, False, False, True]))
    assert found.error == pytest.approx((4 * 0.1 + 0.05) / 5)
    assert found.accuracy.tolist() == [0.5, 1.0]
    assert found.counts.tolist() == [4, 1]


def test_the_binned_calibration_equals_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    confidence, is_correct = rng.uniform(0.01, 1, 500), rng.random(500) < 0.7
    error = 0.0
    for low in np.arange(10) / 10:
        inside = [i for i, p in enumerate(confidence) if low < p <= low + 0.1]
        if inside:
            gap = np.mean([is_correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            error += len(inside) / 500 * abs(gap)
    assert calibrate(confidence, is_correct).error == pytest.approx(error)


@pytest.mark.parametrize("num_rows", [1, 3, 200])
def test_predictions_of_a_classifier_are_drawn_however_few(num_rows: int) -> None:
    pictures = task_type(BUILT_IN["snli"]).prediction_plots(snli(num_rows), title="j-1 <b>")
    assert sorted(pictures) == ["accuracy-by-length.png", "calibration.png", "confusion.png"]
    assert all(png.startswith(PNG) for png in pictures.values())


def test_the_confusion_matrix_is_that_of_the_table() -> None:
    table = snli(200)
    all_right = table.set_column(table.column_names.index("prediction"), "prediction", table["label"])
    draw = task_type(BUILT_IN["snli"]).prediction_plots
    assert not np.array_equal(
        pixels(draw(table, title="x")["confusion.png"]), pixels(draw(all_right, title="x")["confusion.png"])
    )


def test_without_labels_there_are_no_pictures() -> None:
    table = snli(3).set_column(3, "label", pa.array([None] * 3, pa.string()))
    assert task_type(BUILT_IN["snli"]).prediction_plots(table, title="x") == {}
    scores = pa.table({"label": pa.array([None], pa.float32()), "prediction": [0.5]})
    assert task_type(BUILT_IN["stsb"]).prediction_plots(scores, title="x") == {}


def test_scores_are_scattered_and_choices_have_no_confusion() -> None:
    scores = pa.table({"label": pa.array([1.0, None, 4.5], pa.float32()), "prediction": [1.5, 2.0, 4.0]})
    assert list(task_type(BUILT_IN["stsb"]).prediction_plots(scores, title="x")) == ["scatter.png"]
    choices = pa.table({
        "context": ["a b", "c"],
        "label": pa.array([0, 1], pa.int32()), "prediction": pa.array([0, 0], pa.int32()),
        "p_0": [0.7, 0.6], "p_1": [0.3, 0.4],
    })  # fmt: skip
    pictures = task_type(BUILT_IN["swag"]).prediction_plots(choices, title="x")
    assert sorted(pictures) == ["accuracy-by-length.png", "calibration.png"]


def test_words_are_counted_over_all_texts_of_a_row() -> None:
    table = pa.table({"text_a": ["one two", None], "text_b": ["three", "four"], "label": ["x", "y"]})
    assert count_words(table).tolist() == [3, 1]


def test_labels_say_what_differs() -> None:
    values = {
        "optim.lr": [1e-5, 3e-5],
        "train.batch_size": [32, 32],
        "train.seed": [1, 2],
        "text.source": ["a", "b"],
        "model.source": ["a", "c"],
    }
    assert label_jobs(values, ["first", "second"]) == [
        "lr=1e-05, seed=1, text.source=a, model.source=a",
        "lr=3e-05, seed=2, text.source=b, model.source=c",
    ]
    assert label_jobs({"train.seed": [1, 1]}, ["first", "second"]) == ["first", "second"]
    assert label_jobs({"train.seed": [1, 1, 2]}, ["a", "b", "c"]) == ["seed=1, a", "seed=1, b", "seed=2"]


def lines(num_steps: int, *, score: float | None = 0.5) -> list[dict[str, Any]]:
    steps = [{"kind": "step", "step": n, "loss": 1 / n, "lr": 1e-4} for n in range(1, num_steps + 1)]
    return [*steps, *([] if score is None else [{"kind": "epoch", "step": num_steps, "accuracy": score}])]


@pytest.mark.parametrize("num_curves", [1, 2, 12])
def test_curves_are_drawn_over_one_another(num_curves: int) -> None:
    curves = [Curve(label=f"$x_{n}$", runs=[lines(5 + n), lines(3)]) for n in range(num_curves)]
    assert draw_comparison(curves, metric="accuracy", title="x").startswith(PNG)


def test_a_mean_over_seeds_is_drawn_where_all_runs_have_been() -> None:
    mean = draw_comparison([Curve(label="a", runs=[lines(10), lines(4)])], metric=None, title="x")
    one = draw_comparison([Curve(label="a", runs=[lines(4)])], metric=None, title="x")
    assert pixels(mean).shape == pixels(one).shape
    unscored = draw_comparison([Curve(label="a", runs=[lines(4, score=None)])], metric="accuracy", title="x")
    assert np.array_equal(pixels(unscored), pixels(one))
