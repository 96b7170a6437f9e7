"""Task files: what they describe, and what is said of wrong ones."""

import json
from pathlib import Path

import pytest

from bertjobs.errors import ConfigError
from bertjobs.text.datasets.readers import Columns
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
