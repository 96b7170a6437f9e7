"""What is to be learned from which columns: the built-in tasks, and a user's own by a task file.

A task file is YAML:

    name: stance                          # optional, default: the file's name
    columns: {text_a: tweet, label: stance}     # text_b: for pairs
    labels: [against, favour]             # or {value in the file: name to show}; their order is their number
    metric: f1                            # optional: accuracy (default), mcc, f1
    no_label: "-"                         # optional: the label value that means there is none

Knows no file of rows: those are read in `sources`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bertjobs.config.presets import read_yaml
from bertjobs.errors import ConfigError

Metric = Literal["accuracy", "mcc", "f1"]
Format = Literal["snli", "cola", "table"]

METRICS = ("accuracy", "mcc", "f1")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where the texts and the label stand: names of a header, of JSON fields, or of table columns."""

    text_a: str
    text_b: str | None
    label: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task over single texts or pairs."""

    name: str
    labels: tuple[str, ...]
    """Names for people; a label's number is its place here."""
    label_values: tuple[str, ...]
    """What stands in the file for each of `labels`."""
    metric: Metric
    """What the best checkpoint is chosen by."""
    format: Format
    """Which files make up the task's splits; see `locate`."""
    columns: Columns
    no_label: str | None
    """Label value of rows that nobody agreed on; such rows are dropped and counted."""

    @property
    def is_pair(self) -> bool:
        """Whether an example has two texts."""
        return self.columns.text_b is not None

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON types."""
        return {**asdict(self), "labels": list(self.labels), "label_values": list(self.label_values)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Task":
        """Rebuild a task from what `to_json` returned."""
        rest = {k: v for k, v in value.items() if k not in ("labels", "label_values", "columns")}
        return cls(
            labels=tuple(value["labels"]),
            label_values=tuple(value["label_values"]),
            columns=Columns(**value["columns"]),
            **rest,
        )


SNLI = Task(
    name="snli",
    labels=("entailment", "neutral", "contradiction"),
    label_values=("entailment", "neutral", "contradiction"),
    metric="accuracy",
    format="snli",
    columns=Columns(text_a="sentence1", text_b="sentence2", label="gold_label"),
    no_label="-",
)
COLA = Task(
    name="cola",
    labels=("unacceptable", "acceptable"),
    label_values=("0", "1"),
    metric="mcc",
    format="cola",
    columns=Columns(text_a="sentence", text_b=None, label="label"),
    no_label=None,
)
BUILT_IN = {task.name: task for task in (SNLI, COLA)}


def resolve_task(name_or_path: str) -> Task:
    """Return a built-in task by name, or the one that a task file describes.

    Raises: ConfigError: neither a known name nor a readable, complete task file.
    """
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path]
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise ConfigError(
            f"--task {name_or_path}: there is no such task.",
            hint=f"Choose one of {', '.join(BUILT_IN)}, or give the path of a task file (.yaml).",
        )
    return _from_file(read_yaml(path, flag="--task"), path)


_KEYS = ("name", "columns", "labels", "metric", "no_label")
_EXAMPLE = "A task file looks like: columns: {text_a: sentence, label: label}, labels: [bad, good]."


def _from_file(content: Mapping[str, Any], path: Path) -> Task:
    _check_keys(content, _KEYS, required=("columns", "labels"), what="key", path=path)
    values, names = _labels(content["labels"], path)
    metric = {"metric": "accuracy", **content}["metric"]
    if metric not in METRICS:
        raise _error(path, f"metric {metric!r} is not known", f"Choose one of {', '.join(METRICS)}.")
    return Task(
        name=_text(content["name"], "name", path) if "name" in content else path.stem,
        labels=names,
        label_values=values,
        metric=metric,
        format="table",
        columns=_columns(content["columns"], path),
        no_label=_text(content["no_label"], "no_label", path) if "no_label" in content else None,
    )


def _columns(given: Any, path: Path) -> Columns:
    if not isinstance(given, Mapping):
        raise _error(path, f"columns must be a mapping, but is {given!r}", _EXAMPLE)
    _check_keys(given, ("text_a", "text_b", "label"), required=("text_a", "label"), what="column", path=path)
    named = {key: _text(value, f"columns.{key}", path) for key, value in given.items()}
    return Columns(text_b=named.pop("text_b", None), **named)


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
        raise _error(path, f"{key}: {value!r} is not a text", 'Quote it, as in "yes".')
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
    return ConfigError(f"--task {path}: {what}.", hint=hint)
