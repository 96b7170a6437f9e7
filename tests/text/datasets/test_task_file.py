"""Task files: what they describe, and what is said of wrong ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertjobs.errors import ConfigError, DataError
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.read_split import read_split
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.splits import expand_splits, find_split
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import resolve_task

GOOD = """
columns: {text_a: premise, text_b: hypothesis, label: gold}
labels: {0: against, 1: favour}
metric: f1
no_label: "?"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "stance.yaml"
    path.write_text(text)
    return str(path)


def test_a_task_file_describes_a_task(tmp_path: Path) -> None:
    task = resolve_task(write(tmp_path, GOOD))
    assert task.name == "stance"
    assert task.columns == Columns(text_a="premise", text_b="hypothesis", label="gold")
    assert task.labels == ("against", "favour")
    assert task.label_values == ("0", "1")
    assert (task.metric, task.format, task.no_label, task.is_pair) == ("f1", "table", "?", True)


def test_a_list_of_labels_gives_both_their_values_and_their_names(tmp_path: Path) -> None:
    task = resolve_task(write(tmp_path, "columns: {text_a: t, label: l}\nlabels: [bad, good]\nname: x"))
    assert (task.name, task.labels, task.label_values) == ("x", ("bad", "good"), ("bad", "good"))
    assert (task.metric, task.is_pair, task.no_label) == ("accuracy", False, None)


def test_json_gives_a_users_task_back(tmp_path: Path) -> None:
    task = resolve_task(write(tmp_path, GOOD))
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


BASE = "columns: {text_a: t, label: l}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("labels: [a, b]", "the key 'columns' is missing."),
        (BASE, "the key 'labels' is missing."),
        (BASE + "labels: [a, b]\nmetrics: f1", "unknown key 'metrics'. Known are: name, type, columns, "),
        ("columns: {text: t, label: l}\nlabels: [a, b]", "unknown column 'text'. Known are: text_a, "),
        ("columns: {text_a: t}\nlabels: [a, b]", "the column 'label' is missing."),
        ("columns: [t]\nlabels: [a, b]", "columns must be a mapping, but is ['t']."),
        (BASE + "labels: [a]", "labels must list at least two labels, but is ['a']."),
        (BASE + "labels: [a, a]", "labels repeat: a, a. Give each label once."),
        (BASE + "labels: {0: a, 1: a}", "labels repeat: a, a."),
        (BASE + "labels: [no, yes]", "labels: False is not a text. Quote it, as in \"yes\"."),
        (BASE + "labels: [a, b]\nmetric: bleu", "metric 'bleu' is not known. Choose one of accuracy, "),
    ],
)  # fmt: skip
def test_a_wrong_task_file_is_refused_with_its_cause(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as e:
        resolve_task(path)
    assert str(e.value).startswith(f"--task {path}: {message}")
    assert e.value.exit_code == 2


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task .*none\.yaml cannot be read: No such file or directory"):
        resolve_task(str(tmp_path / "none.yaml"))


def test_a_regression_has_a_range_and_no_labels(tmp_path: Path) -> None:
    content = BASE + "type: regression\nrange: [0, 5]\nmetric: spearman"
    task = resolve_task(write(tmp_path, content))
    assert (task.type, task.score_range, task.metric, task.labels) == (
        "regression",
        (0.0, 5.0),
        "spearman",
        (),
    )
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_the_labels_of_multiple_choice_are_the_numbers_of_its_endings(tmp_path: Path) -> None:
    content = (
        "type: multiple_choice\ncolumns: {text_a: t, endings: [x, y, z], label: l}\nlabel_smoothing: 0.1"
    )
    task = resolve_task(write(tmp_path, content))
    assert (task.columns.endings, task.labels, task.metric) == (("x", "y", "z"), ("0", "1", "2"), "accuracy")
    assert task.label_smoothing == 0.1 and task.is_pair
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_weights_and_splits_of_ones_own_are_read(tmp_path: Path) -> None:
    content = (
        BASE + "labels: [a, b]\nclass_weights: {b: 3}\nfiles: {hard: hard.csv}\ngroups: {dev: [dev, hard]}"
    )
    task = resolve_task(write(tmp_path, content))
    assert task.class_weights == (1.0, 3.0)
    assert expand_splits(task, "dev") == ("dev", "hard")
    (tmp_path / "hard.csv").write_text("t,l\nx,a\n")
    assert find_split(task, str(tmp_path), split="hard", cache=tmp_path).path == tmp_path / "hard.csv"
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_several_labels_per_text_are_read_from_cells_and_lists(tmp_path: Path) -> None:
    content = BASE + "labels: {a: first, b: second, c: third}\nmulti_label: true\nthreshold: 0.3"
    task = resolve_task(write(tmp_path, content))
    assert (task.type, task.metric, task.threshold) == ("multi_label", "f1_micro", 0.3)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    (tmp_path / "train.csv").write_text("t,l\nx,a|c\ny,b\nz,|\n")
    (tmp_path / "train.jsonl").write_text(
        '{"t": "x", "l": ["c", "a"]}\n{"t": "y", "l": ["b"]}\n{"t": "z", "l": []}\n'
    )
    rows: Any = {"on_bad_row": "error", "cache": tmp_path, "require_labels": True}
    for name in ("train.csv", "train.jsonl"):
        table = read_split(task, str(tmp_path / name), split="train", **rows).table
        assert table["label"].to_pylist() == [5, 2, 0]
        assert example_format(task).label_counts(table) == {"first": 1, "second": 1, "third": 1}
    (tmp_path / "bad.csv").write_text("t,l\nx,a|d\n")
    with pytest.raises(DataError, match=r"bad\.csv, line 2: the label 'd' is not one of a, b, c"):
        read_split(task, str(tmp_path / "bad.csv"), split="train", **rows)


LABELS = BASE + "labels: [a, b]\n"
REGRESSION = BASE + "type: regression"
CHOICE = "type: multiple_choice\ncolumns: {text_a: t, endings: %s, label: l}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BASE + "type: ranking", "type 'ranking' is not known. Choose one of classification, regression, "),
        (REGRESSION + "\nlabels: [a, b]", "unknown key 'labels'. Known are: name, type, columns, "),
        (REGRESSION + "\nrange: [5, 0]", "range: 5 is not less than 0. Give the lowest score first."),
        (REGRESSION + "\nrange: 5", "range must be two numbers, but is 5. It looks like: range: "),
        (REGRESSION + "\nmetric: f1", "metric 'f1' is not known. Choose one of pearson, spearman."),
        (BASE + "type: multiple_choice", "the column 'endings' is missing."),
        (CHOICE % "[x]", "columns.endings must list the columns of at least two endings, but is ['x']."),
        (LABELS + "class_weights: {c: 1}", "class_weights: 'c' is not a label. The labels are: a, b."),
        (LABELS + "class_weights: {a: 0}", "class_weights: 0 is not a positive number."),
        (LABELS + "multi_label: 1", "multi_label: 1 is not true or false. Give true or false."),
        (LABELS + "multi_label: true\nthreshold: 1", "threshold must be between 0 and 1, but is 1."),
        (LABELS + "multi_label: true\nmetric: mcc", "metric 'mcc' is not known. Choose one of f1_micro, "),
        (LABELS + "multi_label: true\nclass_weights: {a: 2}", "unknown key 'class_weights'."),
        (LABELS + "threshold: 0.3", "unknown key 'threshold'."),
        (BASE + "labels: [a|b, c]\nmulti_label: true", "the label 'a|b' contains |, which separates"),
        (LABELS + "label_smoothing: 1", "label_smoothing must be from 0 up to less than 1"),
        (LABELS + "groups: {dev: [odd]}", "groups.dev must list splits, but is ['odd']."),
        (LABELS + "files: {a/b: c.csv}", "the split 'a/b' is not a name."),
    ],
)  # fmt: skip
def test_a_wrong_key_of_a_type_is_refused_with_its_cause(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as e:
        resolve_task(path)
    assert str(e.value).startswith(f"--task {path}: {message}")
