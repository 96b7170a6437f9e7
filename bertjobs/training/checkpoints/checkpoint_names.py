"""Names of checkpoints: after how many steps, and which attempt wrote it. Knows no files.

    step-00000040-a3        by the third attempt at a job
    step-00000040           by a run outside the queue, or by a version that had no other names

Two attempts never write under one name: one that was taken for dead and lives on can damage neither what
another one publishes nor what it resumes from.
"""

import re
from collections.abc import Collection, Iterable

_NAME = re.compile(r"step-(\d{8,})(?:-a(\d+))?")


def checkpoint_name(num_done: int, *, writer: str = "") -> str:
    """Return the name of the checkpoint after `num_done` steps. `writer` is the attempt, as `a3`."""
    return f"step-{num_done:08d}" + (f"-{writer}" if writer else "")


def step_of(name: str) -> int | None:
    """Return the steps that a checkpoint's name says; None where it is no such name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def checkpoints_at(names: Iterable[str], step: int) -> list[str]:
    """Return the checkpoints after this step, that of the latest attempt first.

    All of them have the same weights: what a step does depends on the seed and the step only.
    """
    return sorted((name for name in names if step_of(name) == step), key=_order, reverse=True)


def checkpoints_before(names: Iterable[str], name: str) -> list[str]:
    """Return what to resume from where the named checkpoint is damaged, the latest first."""
    step = step_of(name)
    others = (n for n in names if n != name and (found := step_of(n)) is not None and found <= (step or 0))
    return sorted(others, key=_order, reverse=True)


def last_checkpoint(names: Iterable[str]) -> str | None:
    """Return the one after the most steps; None where there is none."""
    return max((name for name in names if step_of(name) is not None), key=_order, default=None)


def superseded(
    names: Iterable[str], *, published: str, previous: str | None, best_step: int | None
) -> Collection[str]:
    """Return the checkpoints that are not needed once `published` is the one to resume from.

    `previous` was published before it. It is kept in case Redis loses its last second or the new one turns
    out to be damaged. What a later attempt wrote is kept too: the race is with an attempt that hangs after it
    has published, is replaced, and lives on.
    """
    kept, attempt = {published, previous}, _attempt_of(published)
    older = (name for name in names if name not in kept and _attempt_of(name) <= attempt)
    return [name for name in older if best_step is None or step_of(name) != best_step]


def _order(name: str) -> tuple[int, int]:
    return step_of(name) or 0, _attempt_of(name)


def _attempt_of(name: str) -> int:
    found = _NAME.fullmatch(name)
    return int(found[2] or 0) if found else 0
