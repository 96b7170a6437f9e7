"""What a task is: which columns are read, which labels there are, and how its files are named.

A built-in task is a module that defines both (`snli`, `cola`) and is listed in `tasks`; a user's own is
described by a task file (`task_file`). Knows no file's content.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from bertjobs.text.datasets.readers import Columns, Reader

Metric = Literal["accuracy", "mcc", "f1"]
METRICS: tuple[str, ...] = get_args(Metric)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task over single texts or pairs. Stored as JSON with each model trained on it."""

    name: str
    labels: tuple[str, ...]
    """Names for people; a label's number is its position here."""
    label_values: tuple[str, ...]
    """The values in the data files, one for each of `labels`."""
    metric: Metric
    """What the best checkpoint is chosen by."""
    format: str
    """Key of the task's `SplitFiles`: the name of a built-in task, or `table` for a task file."""
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


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """How the data of a task is published, or given by a user."""

    names: Mapping[str, tuple[str, ...]]
    """File names of each split, the first that exists is read."""
    folders: tuple[str, ...] = ("",)
    """Where under the given folder or zip the files may be."""
    archive: str | None = None
    """What `data get` downloads; None where nothing is published."""
    read_text: Reader | None = None
    """Reader of the task's `.tsv` and `.txt` files, where they are not read by the names in their header."""
    holds_out_validation: bool = False
    """Whether validation rows are held out of the training split although there is a `dev` split."""
