"""What a model does worst, from the table of its predictions."""

import math
from itertools import pairwise

import pyarrow as pa
import pytest

from bertjobs.errors import DataError
from bertjobs.text.error_report import error_report, read_error_report


def labels_table(labels, yes):
    """Rows of one, two, ... words, with the probability of `yes`."""
    return pa.table(
        {
            "index": range(len(labels)),
            "text_a": [" ".join(["w"] * (i + 1)) for i in range(len(labels))],
            "label": pa.array(labels, pa.string()),
            "prediction": ["yes" if p > 0.5 else "no" for p in yes],
            "p_no": pa.array([1 - p for p in yes], pa.float32()),
            "p_yes": pa.array(yes, pa.float32()),
        }
    )


def test_the_largest_losses_come_first_with_their_texts():
    report = error_report(labels_table(["yes", "no", "no", "yes"], [0.9, 0.75, 0.25, 0.125]), num_worst=2)
    assert [row["index"] for row in report["worst"]] == [3, 1]
    first = report["worst"][0]
    assert (first["label"], first["prediction"], first["texts"]) == ("yes", "no", {"text_a": "w w w w"})
    assert first["loss"] == pytest.approx(-math.log(0.125))
    assert (report["type"], report["rows"], report["error"]) == ("classification", 4, 0.5)


def test_errors_are_counted_by_class_and_by_confusion():
    report = error_report(
        labels_table(["yes", "no", "no", "no", "yes"], [0.9, 0.8, 0.7, 0.1, 0.2]), num_worst=0
    )
    assert [(p["label"], p["rows"], p["error"]) for p in report["per_class"]] == [
        ("no", 3, pytest.approx(2 / 3)),
        ("yes", 2, 0.5),
    ]
    assert report["confusions"] == [
        {"label": "no", "prediction": "yes", "rows": 2},
        {"label": "yes", "prediction": "no", "rows": 1},
    ]
    assert report["worst"] == []


def test_lengths_are_in_buckets_that_hold_every_row_once():
    table = labels_table(["yes"] * 23, [0.9] * 20 + [0.1] * 3)
    buckets = error_report(table, num_worst=0)["per_length"]
    assert (buckets[0]["from"], buckets[-1]["to"]) == (1, 23)
    assert sum(bucket["rows"] for bucket in buckets) == 23
    assert all(a["to"] + 1 == b["from"] for a, b in pairwise(buckets))
    assert [bucket["error"] > 0 for bucket in buckets] == [False] * 4 + [True]


def test_rows_of_one_length_are_one_bucket():
    table = labels_table(["yes"] * 4, [0.9] * 4).set_column(1, "text_a", pa.array(["a b"] * 4))
    (bucket,) = error_report(table, num_worst=0)["per_length"]
    assert (bucket["from"], bucket["to"], bucket["rows"]) == (2, 2, 4)


def test_rows_without_a_label_are_left_out():
    report = error_report(labels_table(["yes", None, "no"], [0.1, 0.1, 0.2]), num_worst=9)
    assert [row["index"] for row in report["worst"]] == [0, 2]
    with pytest.raises(DataError, match="None of the rows has a label"):
        error_report(labels_table([None, None], [0.1, 0.1]), num_worst=1)


def test_scores_have_squared_and_absolute_errors_and_no_classes():
    table = pa.table(
        {
            "index": [0, 1, 2],
            "text_a": ["a", "b c", "d"],
            "text_b": ["x", "y", "z"],
            "label": pa.array([1.0, None, 3.0], pa.float32()),
            "prediction": pa.array([1.5, 2.0, 1.0], pa.float32()),
        }
    )
    report = error_report(table, num_worst=1)
    assert (report["type"], report["rows"], report["error"], report["mean_loss"]) == (
        "regression", 2, 1.25, 2.125,
    )  # fmt: skip
    assert report["worst"][0] == {
        "index": 2, "loss": 4.0, "label": 3.0, "prediction": 1.0, "texts": {"text_a": "d", "text_b": "z"},
    }  # fmt: skip
    assert report["per_class"] == report["confusions"] == []


def test_endings_are_compared_by_their_numbers():
    table = pa.table(
        {
            "index": [0, 1],
            "text_a": ["a", "b"],
            "endings": [["x", "y"], ["x", "y"]],
            "label": pa.array([0, 1], pa.int32()),
            "prediction": pa.array([1, 1], pa.int32()),
            "p_0": pa.array([0.25, 0.5], pa.float32()),
            "p_1": pa.array([0.75, 0.5], pa.float32()),
        }
    )
    report = error_report(table, num_worst=1)
    assert report["type"] == "multiple_choice"
    assert report["worst"][0]["texts"] == {"text_a": "a", "ending 0": "x", "ending 1": "y"}
    assert report["worst"][0]["loss"] == pytest.approx(math.log(4))
    assert report["confusions"] == [{"label": 0, "prediction": 1, "rows": 1}]


def test_answers_are_ordered_by_their_f1():
    table = pa.table(
        {
            "index": [0, 1, 2],
            "id": ["a", "b", "c"],
            "text_a": ["q1", "q2", "q3"],
            "text_b": ["the old tower"] * 3,
            "answers": pa.array([["old tower", "tower"], [], ["tower"]], pa.list_(pa.string())),
            "prediction": ["the tower", "old", "old tower"],
        }
    )
    report = error_report(table, num_worst=3)
    assert [row["index"] for row in report["worst"]] == [1, 2, 0]
    assert [row["loss"] for row in report["worst"]] == pytest.approx([1.0, 1 / 3, 0.0])
    assert report["worst"][0]["label"] == ""
    assert [(p["label"], p["rows"]) for p in report["per_class"]] == [("answer", 2), ("no answer", 1)]
    assert report["confusions"] == []


def test_a_damaged_file_is_refused():
    with pytest.raises(DataError, match="The predictions cannot be read as Parquet"):
        read_error_report(b"PAR1 and no more", num_worst=1)


def test_another_table_is_refused():
    with pytest.raises(DataError, match="The table has no predictions; its columns are a"):
        error_report(pa.table({"a": [1]}), num_worst=1)


def test_label_sets_have_the_errors_of_each_label():
    table = pa.table(
        {
            "index": [0, 1, 2],
            "text_a": ["a", "b", "c"],
            "label": pa.array([["x"], [], ["x", "y"]], pa.list_(pa.string())),
            "prediction": pa.array([["x"], ["y"], ["x"]], pa.list_(pa.string())),
            "p_x": pa.array([0.75, 0.25, 0.75], pa.float32()),
            "p_y": pa.array([0.25, 0.75, 0.25], pa.float32()),
        }
    )
    report = error_report(table, num_worst=1)
    assert (report["type"], report["error"]) == ("multi_label", pytest.approx(2 / 3))
    assert [(p["label"], p["rows"], p["error"]) for p in report["per_class"]] == [
        ("x", 2, 0.0),
        ("y", 2, 1.0),
    ]
    (worst,) = report["worst"]
    assert (worst["index"], worst["label"], worst["prediction"]) == (1, [], ["y"])
    assert worst["loss"] == pytest.approx((math.log(4) - math.log(0.75)) / 2)
