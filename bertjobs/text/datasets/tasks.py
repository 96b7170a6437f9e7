"""The tasks that there are by name, and what a `--task` stands for.

To add one, write a module that defines a `Task` and its `SplitFiles`, as `snli` does, and list it here.
"""

from pathlib import Path

from bertjobs.errors import ConfigError
from bertjobs.text.datasets import cola, snli, task_file
from bertjobs.text.datasets.task import SplitFiles, Task

BUILT_IN: dict[str, Task] = {task.name: task for task in (snli.SNLI, cola.COLA)}
_FILES: dict[str, SplitFiles] = {"snli": snli.FILES, "cola": cola.FILES, "table": task_file.FILES}


def resolve_task(name_or_path: str) -> Task:
    """Return a built-in task by name, or the one that a task file describes.

    Raises: ConfigError: neither a known name nor a readable, complete task file.
    """
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path]
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise ConfigError(
            f"--task {name_or_path}: there is no such task",
            hint=f"Choose one of {', '.join(BUILT_IN)}, or give the path of a task file (.yaml).",
        )
    return task_file.read_task_file(path)


def files_of(task: Task) -> SplitFiles:
    """Return under which names the task's splits are looked for."""
    return _FILES[task.format]


def archive_of(name: str | None) -> str | None:
    """Return the name of the file that `data get` downloads for a task; None where nothing is published."""
    return _FILES[BUILT_IN[name].format].archive if name in BUILT_IN else None
