"""A user's own task, described by a YAML file:

    name: stance                                # optional; default: the file's name
    columns: {text_a: tweet, label: stance}     # text_b: for pairs
    labels: [against, favour]                   # or {value in the file: name to show}; numbered in this order
    metric: f1                                  # optional: accuracy (default), mcc, f1
    no_label: "-"                               # optional: the label value of rows without a label

Its data files are tables with named columns, in any format that `read_split` knows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjobs.config.presets import read_yaml
from bertjobs.errors import ConfigError
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import METRICS, SplitFiles, Task

_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_STEMS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
FILES = SplitFiles(
    names={
        split: tuple(stem + suffix for stem in stems for suffix in _SUFFIXES)
        for split, stems in _STEMS.items()
    }
)

QUESTION_FILES = SplitFiles(
    names={
        split: tuple(stem + suffix for stem in stems for suffix in (".json", ".jsonl", ".parquet"))
        for split, stems in _STEMS.items()
    }
)

_KEYS = ("name", "columns", "labels", "metric", "no_label")
_SPAN_KEYS = ("type", "name", "metric", "unanswerable")
_EXAMPLE = "A task file looks like: columns: {text_a: sentence, label: label}, labels: [bad, good]."


def read_task_file(path: Path) -> Task:
    """Read a task file.

    Raises: ConfigError: it cannot be read, or a key is missing, unknown or wrong; says which.
    """
    content = read_yaml(path, flag="--task")
    if content.get("type") == "span":
        return _span_task(content, path)
    _check_keys(content, _KEYS, required=("columns", "labels"), what="key", path=path)
    values, names = _labels(content["labels"], path)
    metric = {"metric": "accuracy", **content}["metric"]
    if metric not in METRICS["classification"]:
        known = ", ".join(METRICS["classification"])
        raise _error(path, f"metric {metric!r} is not known", f"Choose one of {known}.")
    return Task(
        name=_text(content["name"], "name", path) if "name" in content else path.stem,
        labels=names,
        label_values=values,
        metric=metric,
        format="table",
        columns=_columns(content["columns"], path),
        no_label=_text(content["no_label"], "no_label", path) if "no_label" in content else None,
    )


def _span_task(content: Mapping[str, Any], path: Path) -> Task:
    """Return a task of questions whose answers are pieces of a context, in files in SQuAD's format."""
    _check_keys(content, _SPAN_KEYS, required=("type",), what="key", path=path)
    metric, unanswerable = content.get("metric", "f1"), content.get("unanswerable", False)
    if metric not in METRICS["span"]:
        raise _error(path, f"metric {metric!r} is not known", f"Choose one of {', '.join(METRICS['span'])}.")
    if not isinstance(unanswerable, bool):
        raise _error(path, f"unanswerable: {unanswerable!r} is not true or false", "Give true or false.")
    return Task(
        name=_text(content["name"], "name", path) if "name" in content else path.stem,
        type="span",
        labels=(),
        label_values=(),
        metric=metric,
        format="questions",
        columns=Columns(text_a="question", text_b="context", label="answers"),
        no_label=None,
        unanswerable=unanswerable,
    )


def _columns(given: Any, path: Path) -> Columns:
    if not isinstance(given, Mapping):
        raise _error(path, f"columns must be a mapping, but is {given!r}", _EXAMPLE)
    _check_keys(given, ("text_a", "text_b", "label"), required=("text_a", "label"), what="column", path=path)
    named = {key: _text(value, f"columns.{key}", path) for key, value in given.items()}
    return Columns(text_a=named["text_a"], text_b=named.get("text_b"), label=named["label"])


def _labels(given: Any, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the values in the file and the names to show."""
    if not isinstance(given, (list, Mapping)) or len(given) < 2:
        raise _error(path, f"labels must list at least two labels, but is {given!r}", _EXAMPLE)
    values = tuple(_text(value, "labels", path) for value in given)
    names = values
    if isinstance(given, Mapping):
        names = tuple(_text(name, "labels", path) for name in given.values())
    for repeated in (values, names):
        if len(set(repeated)) < len(repeated):
            raise _error(path, f"labels repeat: {', '.join(repeated)}", "Give each label once.")
    return values, names


def _text(value: Any, key: str, path: Path) -> str:
    """Return a YAML scalar as text; `yes`, `no`, `on` and `off` are booleans in YAML and must be quoted."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _error(
            path,
            f"{key}: {value!r} is not a text",
            'Quote it, as in "yes". YAML reads yes and no without quotes as booleans.',
        )
    return str(value)


def _check_keys(
    given: Mapping[str, Any], known: tuple[str, ...], *, required: tuple[str, ...], what: str, path: Path
) -> None:
    for key in given:
        if key not in known:
            raise _error(path, f"unknown {what} {key!r}", f"Known are: {', '.join(known)}.")
    for key in required:
        if key not in given:
            raise _error(path, f"the {what} {key!r} is missing", _EXAMPLE)


def _error(path: Path, what: str, hint: str) -> ConfigError:
    return ConfigError(f"--task {path}: {what}", hint=hint)
