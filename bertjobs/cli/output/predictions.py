"""The answer of `predict` as text: a line per row, or a block per row with its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import print_line, print_table

if TYPE_CHECKING:  # their modules import torch
    from bertjobs.runs.predict.predict_rows import PredictedRows
    from bertjobs.training.tasks.task_type import RankedValue

NO_ANSWER, NO_LABEL = "(no answer)", "(no label)"


def print_predictions(found: PredictedRows, *, top_k: int | None) -> None:
    """Print what is predicted for each row, or its `top_k` best values (None: all)."""
    num_endings, is_span = len(found.task.columns.endings), found.task.type == "span"
    rows = list(zip(found.texts, found.shown(top_k=top_k), strict=True))
    if len(rows) > 1 and top_k == 1 and all(len(shown) == 1 for _, shown in rows):
        lines = [[*_cells(v[0], t[len(t) - num_endings :]), printable(" | ".join(t))] for t, v in rows]
        _print_rows(lines)
        return
    for place, (texts, shown) in enumerate(rows):
        if place:
            print_line("")
        endings = texts[len(texts) - num_endings :]
        # A context may be a page long, and endings are named beside their probabilities.
        for text in texts[:1] if is_span else texts[: len(texts) - num_endings]:
            print_line(printable(text))
        _print_rows([["", *_cells(value, endings)] for value in shown] or [["", NO_LABEL]])
        if found.null_odds is not None:
            print_line(f"  null odds {found.null_odds[place]:.4f}")


def _print_rows(rows: list[list[str]]) -> None:
    width = max(len(row) for row in rows)
    print_table(None, [row + [""] * (width - len(row)) for row in rows])


def _cells(value: RankedValue, endings: Sequence[str]) -> list[str]:
    """Return a value as cells: what it is, its probability, and of an answer where it is in the context."""
    if value.probability is None:
        return [f"{value.value:.4f}"]
    if isinstance(value.value, int):
        return [str(value.value), f"{value.probability:.2%}", printable(endings[value.value])]
    place = [] if value.start is None else [f"at {value.start}-{value.end}"]
    return [printable(str(value.value)) or NO_ANSWER, f"{value.probability:.2%}", *place]
