"""A user's own task, described by a YAML file:

    name: stance                                # optional; default: the file's name
    type: classification                        # optional; or regression, multiple_choice
    columns: {text_a: tweet, label: stance}     # text_b: for pairs; endings: a list, for multiple_choice
    labels: [against, favour]                   # or {value in the file: name to show}; numbered in this order
    metric: f1                                  # optional: accuracy (default), mcc, f1; pearson, spearman
    no_label: "-"                               # optional: the label value of rows without a label
    class_weights: {against: 1, favour: 3}      # optional
    label_smoothing: 0.1                        # optional; of multiple_choice too
    multi_label: true                           # optional, of classification: a text has any number of labels
    threshold: 0.5                              # optional, of these: the probability above which one holds
    range: [0, 5]                               # optional, of regression: the lowest and the highest score
    files: {dev_2020: old.csv, dev_2024: new.csv}      # optional: further splits
    groups: {dev: [dev_2020, dev_2024]}                # optional: splits that are evaluated together

Its data files are tables with named columns, in any format that `read_split` knows.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bertjobs.config.presets import read_yaml
from bertjobs.errors import ConfigError
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import (
    LABEL_SEPARATOR,
    METRICS,
    TYPES,
    SplitFiles,
    Task,
    TypeName,
    choice_labels,
)

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

_KEYS = ("name", "type", "columns", "labels", "metric", "no_label", "files", "groups")
_KEYS_OF: dict[TypeName, tuple[str, ...]] = {
    "classification": ("class_weights", "label_smoothing", "multi_label"),
    "multi_label": ("multi_label", "threshold"),
    "regression": ("range",),
    "multiple_choice": ("label_smoothing",),
}
"""What a task file of each type may say besides."""
_COLUMNS_OF: dict[TypeName, tuple[str, ...]] = {
    "classification": ("text_a", "text_b", "label"),
    "multi_label": ("text_a", "text_b", "label"),
    "regression": ("text_a", "text_b", "label"),
    "multiple_choice": ("text_a", "text_b", "endings", "label"),
}
_SPAN_KEYS = ("type", "name", "metric", "unanswerable")
_EXAMPLE = "A task file looks like: columns: {text_a: sentence, label: label}, labels: [bad, good]."


def read_task_file(path: Path) -> Task:
    """Read a task file.

    Raises: ConfigError: it cannot be read, or a key is missing, unknown or wrong; says which.
    """
    content = read_yaml(path, flag="--task")
    type_ = content.get("type", "classification")
    if type_ == "span":
        return _span_task(content, path)
    if not isinstance(type_, str) or type_ not in TYPES:
        raise _error(path, f"type {type_!r} is not known", f"Choose one of {', '.join(TYPES)}.")
    return _table_task(_type_of(type_, content, path), content, path)


def _table_task(type_: TypeName, content: Mapping[str, Any], path: Path) -> Task:
    """Return a task whose files are tables with named columns."""
    has_labels = type_ in ("classification", "multi_label")  # those of multiple choice are its endings
    keys = tuple(key for key in _KEYS if has_labels or key != "labels") + _KEYS_OF[type_]
    required = ("columns", "labels") if has_labels else ("columns",)
    _check_keys(content, keys, required=required, what="key", path=path)
    columns = _columns(content["columns"], type_, path)
    values = names = choice_labels(len(columns.endings))
    if has_labels:
        values, names = _labels(content["labels"], path)
    if type_ == "multi_label":
        _check_label_set(values, path)
    metric = content.get("metric", METRICS[type_][0])
    if metric not in METRICS[type_]:
        raise _error(path, f"metric {metric!r} is not known", f"Choose one of {', '.join(METRICS[type_])}.")
    return Task(
        type=type_,
        score_range=_range(content["range"], path) if "range" in content else None,
        class_weights=_weights(content.get("class_weights"), values, path),
        label_smoothing=_smoothing(content.get("label_smoothing", 0.0), path),
        threshold=_threshold(content.get("threshold", 0.5), path),
        **_splits(content, path),
        name=_text(content["name"], "name", path) if "name" in content else path.stem,
        labels=names,
        label_values=values,
        metric=metric,
        format="table",
        columns=columns,
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


def _columns(given: Any, type_: TypeName, path: Path) -> Columns:
    if not isinstance(given, Mapping):
        raise _error(path, f"columns must be a mapping, but is {given!r}", _EXAMPLE)
    known = _COLUMNS_OF[type_]
    required = tuple(name for name in known if name != "text_b")
    _check_keys(given, known, required=required, what="column", path=path)
    endings = given.get("endings", ())
    if "endings" in known and (not isinstance(endings, list) or len(endings) < 2):
        raise _error(
            path,
            f"columns.endings must list the columns of at least two endings, but is {endings!r}",
            "It looks like: columns: {text_a: scene, endings: [ending0, ending1], label: label}.",
        )
    named = {key: _text(value, f"columns.{key}", path) for key, value in given.items() if key != "endings"}
    return Columns(
        text_a=named["text_a"],
        text_b=named.get("text_b"),
        label=named["label"],
        endings=tuple(_text(name, "columns.endings", path) for name in endings),
    )


def _range(given: Any, path: Path) -> tuple[float, float]:
    if not isinstance(given, list) or len(given) != 2 or not all(_is_number(end) for end in given):
        raise _error(path, f"range must be two numbers, but is {given!r}", "It looks like: range: [0, 5].")
    low, high = float(given[0]), float(given[1])
    if low >= high:
        raise _error(path, f"range: {low:g} is not less than {high:g}", "Give the lowest score first.")
    return low, high


def _weights(given: Any, values: tuple[str, ...], path: Path) -> tuple[float, ...] | None:
    """Return a weight for each label; those that are not given are 1."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        what = f"class_weights must be a mapping, but is {given!r}"
        raise _error(path, what, "It looks like: class_weights: {bad: 2}.")
    weights = {_text(value, "class_weights", path): weight for value, weight in given.items()}
    for value, weight in weights.items():
        if value not in values:
            known = ", ".join(values)
            raise _error(path, f"class_weights: {value!r} is not a label", f"The labels are: {known}.")
        if not _is_number(weight) or weight <= 0:
            raise _error(path, f"class_weights: {weight!r} is not a positive number", "Give 1 for no change.")
    return tuple(float(weights.get(value, 1.0)) for value in values)


def _smoothing(given: Any, path: Path) -> float:
    if not _is_number(given) or not 0 <= given < 1:
        raise _error(
            path, f"label_smoothing must be from 0 up to less than 1, but is {given!r}", "0.1 is usual."
        )
    return float(given)


def _type_of(given: str, content: Mapping[str, Any], path: Path) -> TypeName:
    is_multi_label = content.get("multi_label", False)
    if given != "classification" or is_multi_label is False:
        return cast(TypeName, given)
    if is_multi_label is not True:
        raise _error(path, f"multi_label: {is_multi_label!r} is not true or false", "Give true or false.")
    return "multi_label"


_MAX_LABELS = 62  # they are the bits of an int64


def _check_label_set(values: tuple[str, ...], path: Path) -> None:
    if len(values) > _MAX_LABELS:
        raise _error(
            path, f"labels lists {len(values)}, and multi_label has {_MAX_LABELS} at most", "Give fewer."
        )
    for value in values:
        if LABEL_SEPARATOR in value:
            what = f"the label {value!r} contains {LABEL_SEPARATOR}, which separates labels"
            raise _error(path, what, "Rename it in the data.")


def _threshold(given: Any, path: Path) -> float:
    if not _is_number(given) or not 0 < given < 1:
        raise _error(path, f"threshold must be between 0 and 1, but is {given!r}", "0.5 is usual.")
    return float(given)


def _splits(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return `Task.files` and `Task.groups`."""
    files, groups = content.get("files", {}), content.get("groups", {})
    for key, given in (("files", files), ("groups", groups)):
        if not isinstance(given, Mapping):
            raise _error(path, f"{key} must be a mapping, but is {given!r}", f"It looks like: {_SPLITS}")
    known = (*FILES.names, *files)
    for name, parts in groups.items():
        if not isinstance(parts, list) or not parts or any(part not in known for part in parts):
            raise _error(
                path,
                f"groups.{name} must list splits, but is {parts!r}",
                f"Known are: {', '.join(map(str, known))}.",
            )
    return {
        "files": tuple((_split_name(name, path), _text(file, "files", path)) for name, file in files.items()),
        "groups": tuple((_split_name(name, path), tuple(parts)) for name, parts in groups.items()),
    }


_SPLITS = "files: {dev_hard: hard.csv}, groups: {dev: [dev, dev_hard]}."


def _split_name(given: Any, path: Path) -> str:
    name = _text(given, "files", path)
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise _error(path, f"the split {name!r} is not a name", "Give letters, digits and _ only.")
    return name


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
