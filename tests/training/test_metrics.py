"""Expected values were computed with scikit-learn 1.7 (accuracy_score, matthews_corrcoef, f1_score, ...)."""

import json

import numpy as np
import pytest

from bertjobs.training.metrics import Metrics, matthews, metrics_of

THREE = np.array([[[1, 1, 1], [1, 3, 0], [1, 1, 3]]])
TWO = np.array([[[3, 1], [2, 4]]])


def test_three_classes_match_scikit_learn() -> None:
    metrics = metrics_of(THREE, loss_sum=6.0, labels=("a", "b", "c"))
    assert metrics.num_examples == 12
    assert metrics.loss == 0.5
    assert metrics.accuracy == pytest.approx(0.5833333333333334)
    assert metrics.mcc == pytest.approx(0.3723404255319149)
    assert metrics.f1 == pytest.approx(0.5555555555555555)
    table = [(s.label, s.precision, s.recall, s.f1, s.support) for s in metrics.per_class]
    assert table == [
        ("a", pytest.approx(1 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3), 3),
        ("b", pytest.approx(0.6), pytest.approx(0.75), pytest.approx(2 / 3), 4),
        ("c", pytest.approx(0.75), pytest.approx(0.6), pytest.approx(2 / 3), 5),
    ]


def test_two_classes_report_the_f1_of_the_second() -> None:
    metrics = metrics_of(TWO, loss_sum=1.0, labels=("0", "1"))
    assert metrics.f1 == pytest.approx(0.7272727272727273)
    assert metrics.mcc == pytest.approx(0.408248290463863)
    assert metrics.confusion == ((3, 1), (2, 4))


def test_a_class_that_never_occurs_scores_zero() -> None:
    metrics = metrics_of(np.array([[[2, 0, 0], [0, 0, 0], [0, 1, 1]]]), loss_sum=1.0, labels=("a", "b", "c"))
    assert metrics.f1 == pytest.approx(0.5555555555555555)
    assert (metrics.per_class[1].precision, metrics.per_class[1].recall, metrics.per_class[1].f1) == (0, 0, 0)


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        ([[2, 0], [0, 2]], 1.0),
        ([[0, 2], [2, 0]], -1.0),
        ([[1, 1], [1, 1]], 0.0),
        ([[0, 2], [0, 2]], 0.0),  # all predictions alike: undefined
        ([[0, 0], [0, 3]], 0.0),  # all labels alike: undefined
        ([[0, 0], [2, 1]], 0.0),
        ([[1, 0], [0, 0]], 0.0),  # a single example
        ([[239824, 60383], [59910, 239883]], 0.5990243232008863),  # past 64 bits
    ],
)
def test_matthews_matches_scikit_learn_also_where_undefined(
    confusion: list[list[int]], expected: float
) -> None:
    assert matthews(np.array(confusion)) == pytest.approx(expected, abs=1e-12)


def test_mcc_is_listed_per_batch_and_empty_batches_are_left_out() -> None:
    batches = np.array([[[2, 0], [0, 2]], [[0, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 1], [0, 1]]])
    metrics = metrics_of(batches, loss_sum=1.0, labels=("0", "1"))
    assert metrics.mcc_per_batch == (1.0, -1.0, 0.0)
    assert metrics.num_examples == 8


def test_without_labels_there_are_no_scores() -> None:
    metrics = metrics_of(np.zeros((2, 3, 3), dtype=np.int64), loss_sum=0.0, labels=("a", "b", "c"))
    assert (metrics.num_examples, metrics.loss, metrics.accuracy, metrics.mcc) == (0, None, None, None)


def test_metrics_survive_json() -> None:
    metrics = metrics_of(THREE, loss_sum=6.0, labels=("a", "b", "c"))
    assert Metrics.from_json(json.loads(json.dumps(metrics.to_json()))) == metrics


def test_value_of_names_the_deciding_score() -> None:
    metrics = metrics_of(TWO, loss_sum=1.0, labels=("0", "1"))
    assert [metrics.value_of(m) for m in ("accuracy", "mcc", "f1")] == [
        metrics.accuracy,
        metrics.mcc,
        metrics.f1,
    ]
