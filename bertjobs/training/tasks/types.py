"""The types of tasks; one module each beside this one."""

from collections.abc import Callable
from typing import Any

from bertjobs.text.datasets.task import Task, TypeName
from bertjobs.training.tasks.classification import Classification
from bertjobs.training.tasks.multi_label import MultiLabel
from bertjobs.training.tasks.multiple_choice import MultipleChoice
from bertjobs.training.tasks.regression import Regression
from bertjobs.training.tasks.span import Span
from bertjobs.training.tasks.task_type import TaskType

_TYPES: dict[TypeName, Callable[[Task], TaskType[Any]]] = {
    "classification": Classification,
    "multi_label": MultiLabel,
    "regression": Regression,
    "multiple_choice": MultipleChoice,
    "span": Span,
}


def task_type(task: Task) -> TaskType[Any]:
    """Return the object that knows what depends on the task's type."""
    return _TYPES[task.type](task)
