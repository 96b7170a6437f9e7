"""The tasks that there are by name, and what a `--task` stands for.

To add one, write a module that defines a `Task` and its `SplitFiles`, as `snli` does, and list it here.
"""

from dataclasses import replace
from pathlib import Path

from bertjobs.config.finetune import TaskSection
from bertjobs.errors import ConfigError
from bertjobs.text.datasets import cola, glue, snli, squad, swag, task_file
from bertjobs.text.datasets.task import SplitFiles, Task

BUILT_IN: dict[str, Task] = {
    task.name: task for task in (snli.SNLI, cola.COLA, *glue.TASKS, squad.SQUAD, squad.SQUAD_V2, swag.SWAG)
}
_FILES: dict[str, SplitFiles] = {
    "snli": snli.FILES,
    "cola": cola.FILES,
    **glue.FILES,
    "squad": squad.FILES,
    "squad_v2": squad.FILES_V2,
    "swag": swag.FILES,
    "table": task_file.FILES,
    "questions": task_file.QUESTION_FILES,
}


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


def configured_task(section: TaskSection) -> Task:
    """Return the task of a configuration, with what that says of its answers.

    Raises: ConfigError: as `resolve_task`; something is said that has no effect on this task.
    """
    task = resolve_task(section.name)
    given = section.model_dump(exclude_none=True, exclude={"name"})
    for name in given:
        flag = f"--{name.replace('_', '-')}"
        if task.type != "span":
            raise ConfigError(
                f"{flag} has no effect: {task.name} does not look for answers in a context",
                hint="Leave it out, or give a task of the type span, such as squad.",
            )
        if name == "null_threshold" and not task.unanswerable:
            raise ConfigError(
                f"{flag} has no effect: every question of {task.name} has an answer",
                hint="Leave it out, or give a task with questions that have none, such as squad_v2.",
            )
    return replace(task, **given)


def files_of(task: Task) -> SplitFiles:
    """Return under which names the task's splits are looked for."""
    files = _FILES[task.format]
    if not task.files and not task.groups:
        return files
    names = {**files.names, **{split: (name,) for split, name in task.files}}
    return replace(files, names=names, groups={**files.groups, **dict(task.groups)})


def archive_of(name: str | None) -> str | None:
    """Return the name of what `data get` downloads for a task; None where nothing is published."""
    return _FILES[BUILT_IN[name].format].archive if name in BUILT_IN else None
