"""Read the rows that a run trains, validates or evaluates on, in the driver: a wrong file fails early."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from bertjobs.config.finetune import DataSection, EvalDataSection
from bertjobs.text.datasets.read_split import Split, holdout, read_split
from bertjobs.text.datasets.splits import default_valid_split, expand_splits
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import cache_key
from bertjobs.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a split, with everything that selects them: the key of their encoded form in the cache."""

    table: pa.Table
    split: str
    files: tuple[Path, ...]
    on_bad_row: str
    limit: int | None
    held_out: str
    """Which part of a split that is divided into training and validation rows; empty for a whole split."""
    num_dropped: dict[str, int]

    def key(self, task: Task, tokenizer: Tokenizer) -> str:
        """Return the name of the encoded form."""
        return cache_key(
            self.files, task, tokenizer,
            split=self.split, on_bad_row=self.on_bad_row, limit=self.limit, extra=self.held_out,
        )  # fmt: skip


def read_training_rows(task: Task, data: DataSection, *, cache: Path) -> tuple[Rows, tuple[Rows, ...]]:
    """Return the rows to train on and those to validate on: by the first part the best weights are chosen.

    Raises: DataError: a file is missing, empty or broken, or has no labels.
    """
    read = partial(read_split, task, data.path, on_bad_row=data.on_bad_row, cache=cache, require_labels=True)
    rows = partial(_rows, on_bad_row=data.on_bad_row)
    train = read(split="train")
    if valid_split := data.valid_split or default_valid_split(task, data.path, cache=cache):
        return rows(train, "train", limit=data.limit_train), tuple(
            rows(read(split=name), name, limit=data.limit_valid) for name in expand_splits(task, valid_split)
        )
    train_part, valid_part = holdout(train.table.num_rows, ratio=data.valid_ratio, seed=data.split_seed)
    name = f"{data.valid_ratio:g} by {data.split_seed}"
    return (
        rows(train, "train", limit=data.limit_train, held_out=f"all but {name}", part=train_part),
        (rows(train, "train", limit=data.limit_valid, held_out=name, part=valid_part),),
    )


def read_evaluation_rows(task: Task, data: EvalDataSection, *, cache: Path) -> tuple[Rows, ...]:
    """Return the rows of each split or file to evaluate; rows without labels are only predicted.

    Raises: DataError: the file is missing, empty or broken.
    """
    read = partial(read_split, task, data.path, on_bad_row=data.on_bad_row, cache=cache, require_labels=False)
    return tuple(
        _rows(read(split=name), name, on_bad_row=data.on_bad_row, limit=data.limit)
        for name in expand_splits(task, data.split)
    )


def _rows(
    read: Split, split: str, *, on_bad_row: str, limit: int | None, held_out: str = "", part: Any = None
) -> Rows:
    table = read.table if part is None else read.table.take(part)
    return Rows(
        table=table if limit is None else table.slice(0, limit),
        split=split,
        files=read.files,
        on_bad_row=on_bad_row,
        limit=limit,
        held_out=held_out,
        num_dropped=read.num_dropped,
    )
