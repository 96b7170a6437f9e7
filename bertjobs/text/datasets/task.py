"""What a task is: which columns are read, which labels there are, and how its files are named.

A built-in task is a module that defines both (`snli`, `cola`) and is listed in `tasks`; a user's own is
described by a task file (`task_file`). Knows no file's content.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from bertjobs.text.datasets.readers import Columns, Reader

TypeName = Literal["classification", "multi_label", "regression", "multiple_choice", "span"]
TYPES: tuple[str, ...] = tuple(name for name in get_args(TypeName) if name != "multi_label")
"""As task files name them; `multi_label` is classification there."""
Metric = Literal["accuracy", "mcc", "f1", "f1_micro", "f1_macro", "pearson", "spearman", "exact"]
METRICS: dict[TypeName, tuple[Metric, ...]] = {
    "classification": ("accuracy", "mcc", "f1"),
    "multi_label": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("pearson", "spearman"),
    "multiple_choice": ("accuracy",),
    "span": ("f1", "exact"),
}
"""What the best checkpoint can be chosen by, for each type of task; the first is the default."""
LABEL_SEPARATOR = "|"
"""Between the labels of a text in a cell of CSV or TSV; alone it says that no label applies."""
METRIC_NAMES: tuple[str, ...] = (*get_args(Metric), "loss")
"""What an evaluation of any type may report, in the order in which it is shown."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned from which columns. Stored as JSON with each model trained on it.

    What depends on its type is in two objects: `examples.ExampleFormat` (columns and encoding) and
    `training.tasks.TaskType` (head, loss, metrics, predictions).
    """

    name: str
    labels: tuple[str, ...]
    """Names for people; a label's number is its position here. Of multiple choice the numbers of the endings,
    of regression none."""
    label_values: tuple[str, ...]
    """The values in the data files, one for each of `labels`."""
    metric: Metric
    """What the best checkpoint is chosen by."""
    format: str
    """Key of the task's `SplitFiles`: the name of a built-in task, or `table` for a task file."""
    columns: Columns
    no_label: str | None
    """Label value of rows that nobody agreed on; such rows are dropped and counted."""
    type: TypeName = "classification"
    score_range: tuple[float, float] | None = None
    """Of regression: the lowest and the highest score; None where any number is one."""
    threshold: float = 0.5
    """Of several labels per text: the probability above which a label is predicted."""
    unanswerable: bool = False
    """Of spans: whether a question may have no answer, as in SQuAD v2.0."""
    n_best: int = 20
    """Of spans: most answers in the n-best list, and best starts and ends of a window that are combined."""
    max_answer_tokens: int = 30
    """Of spans: the longest answer, in tokens."""
    null_threshold: float | None = None
    """Of spans: null odds above which a question counts as unanswered; None: tuned where it is evaluated."""
    class_weights: tuple[float, ...] | None = None
    """Of classification: the weight of each label's examples in the loss; None: all alike."""
    label_smoothing: float = 0.0
    """Of classification and multiple choice: the share of the target that is spread over all labels."""
    files: tuple[tuple[str, str], ...] = ()
    """Of a task file: names of further splits, and of their files."""
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of a task file: as `SplitFiles.groups`."""

    @property
    def is_pair(self) -> bool:
        """Whether a sequence has two texts."""
        return self.columns.text_b is not None or bool(self.columns.endings)

    @property
    def has_windows(self) -> bool:
        """Whether long contexts are cut into windows, and not truncated."""
        return self.type == "span"

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON types, without what has its default: older models have no such keys."""
        columns = _without_defaults(self.columns)
        document: dict[str, Any] = _plain({**_without_defaults(self), "columns": columns})
        return document

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Task":
        """Rebuild a task from what `to_json` returned."""
        columns = {key: _frozen(cell) for key, cell in value["columns"].items()}
        given = {key: _frozen(cell) for key, cell in value.items() if key != "columns"}
        return cls(columns=Columns(**columns), **given)


def choice_labels(num_endings: int) -> tuple[str, ...]:
    """Return the labels of multiple choice: the numbers of the endings, from 0."""
    return tuple(str(i) for i in range(num_endings))


def _without_defaults(record: Any) -> dict[str, Any]:
    values = {f.name: (getattr(record, f.name), f.default) for f in fields(record)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _plain(value: Any) -> Any:
    """Return a value with lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(cell) for key, cell in value.items()}
    return [_plain(cell) for cell in value] if isinstance(value, (list, tuple)) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(cell) for cell in value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """How the data of a task is published, or given by a user."""

    names: Mapping[str, tuple[str, ...]]
    """File names of each split, the first that exists is read."""
    folders: tuple[str, ...] = ("",)
    """Where under the given folder or zip the files may be."""
    archive: str | None = None
    """The file or folder that `data get` downloads; None where nothing is published."""
    by_hand: str = ""
    """Where nothing is published: how to get the files, as a hint."""
    read_text: Reader | None = None
    """Reader of the task's `.tsv` and `.txt` files, where they are not read by the names in their header."""
    holds_out_validation: bool = False
    """Whether validation rows are held out of the training split although there is a `dev` split."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that stand for several splits, which are all evaluated: MNLI's `dev`. The first of them decides
    which weights are best."""
    submission: Mapping[str, str] = field(default_factory=dict)
    """Name of the file that the task's server wants for each unlabelled split."""
