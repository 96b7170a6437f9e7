"""Correct answers by the length of the example: what truncation changes, and where. Pure numpy."""

from typing import Any

import numpy as np

from bertjobs.config.finetune import TextSection
from bertjobs.text.encoding import EncodedTable

EDGES = (0.0, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Buckets in shares of max_len, each up to and including the next edge: above 1 an example is cut."""


def whole_lengths(table: EncodedTable) -> np.ndarray:
    """Return the rows' lengths before truncation, special tokens included."""
    lengths = table.lengths_a + (3 if table.is_pair else 2)
    return lengths if table.lengths_b is None else lengths + table.lengths_b


def cut_ratio(table: EncodedTable, *, max_len: int) -> float:
    """Return the share of the examples that do not fit; every strategy cuts the same ones."""
    return float((whole_lengths(table) > max_len).mean())


def count_correct(
    table: EncodedTable, probabilities: np.ndarray, *, text: TextSection
) -> tuple[dict[str, Any], ...]:
    """Count correct answers per bucket of length.

    probabilities: (rows, labels). Returns `{"above", "up_to", "num_examples", "num_correct"}` per bucket, the
    bounds in shares of max_len; `up_to` is None for the last.
    """
    ratios = whole_lengths(table) / text.max_len
    is_correct = probabilities.argmax(axis=1) == table.labels
    bucket = np.searchsorted(EDGES, ratios, side="left") - 1
    return tuple(
        {
            "above": edge,
            "up_to": EDGES[i + 1] if i + 1 < len(EDGES) else None,
            "num_examples": int((bucket == i).sum()),
            "num_correct": int(is_correct[bucket == i].sum()),
        }
        for i, edge in enumerate(EDGES)
    )
