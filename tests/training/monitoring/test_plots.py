"""Pictures are looked at by people; here only that they are drawn, at the edges too."""

import io
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from bertjobs.training.metrics import metrics_of
from bertjobs.training.monitoring.plots import draw_confusion, draw_curves


def _step(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "step", "step": step, "loss": loss, "lr": 1e-5 * step}


def _epoch(step: int, score: float) -> dict[str, Any]:
    return {"kind": "epoch", "step": step, "loss": 1.0, "accuracy": score, "mcc": score - 0.3, "f1": score}


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png), format="png"))


LINES = [_step(step, 1.1 - step / 100) for step in range(1, 41)] + [_epoch(20, 0.6), _epoch(40, 0.7)]


@pytest.mark.parametrize("lines", [LINES, LINES[:1], LINES[:-2], []], ids=["all", "one", "no epoch", "none"])
@pytest.mark.parametrize("metric", ["accuracy", "mcc", "f1"])
def test_curves_are_drawn_however_far_the_run_is(lines: list[dict[str, Any]], metric: str) -> None:
    assert _pixels(draw_curves(lines, metric=metric)).shape == (1020, 960, 4)


def test_the_loss_is_in_the_picture() -> None:
    flat = [{**line, "loss": 0.5} for line in LINES]
    assert not np.array_equal(
        _pixels(draw_curves(LINES, metric="f1")), _pixels(draw_curves(flat, metric="f1"))
    )


@pytest.mark.parametrize("labels", [("0", "1"), ("entailment", "neutral", "contradiction")])
def test_confusion_is_drawn_for_any_number_of_labels(labels: tuple[str, ...]) -> None:
    counts = np.arange(len(labels) ** 2).reshape(1, len(labels), len(labels))
    metrics = metrics_of(counts, loss_sum=3.0, labels=labels)
    assert _pixels(draw_confusion(metrics, title="dev")).ndim == 3


def test_a_label_that_never_occurs_leaves_its_row_empty() -> None:
    metrics = metrics_of(np.array([[[3, 1], [0, 0]]]), loss_sum=3.0, labels=("a", "b"))
    assert _pixels(draw_confusion(metrics, title="dev")).ndim == 3
