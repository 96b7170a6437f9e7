"""Texts of which some are pairs (`first|second`): split them, and encode them into one table."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertjobs.errors import DataError
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer import Tokenizer


def split_pair(text: str, separator: str | None) -> tuple[str, str | None]:
    """Return the two texts of a pair, or a single text and None.

    separator: what is between the texts of a pair; None where there are no pairs.

    Raises: DataError: there are more than two texts, or an empty one.
    """
    parts = [text] if separator is None else text.split(separator)
    if len(parts) > 2:
        raise DataError(
            f"The text {quoted(text)} has {len(parts) - 1} separators {separator!r}; a pair has one",
            hint="Give another `--pair-separator`.",
        )
    if not all(part.strip() for part in parts):
        half = "first" if not parts[0].strip() else "second"
        what = "text" if len(parts) == 1 else f"{half} half of the text"
        raise DataError(f"The {what} {quoted(text)} is empty", hint="Give a text with a word in it.")
    return parts[0], parts[1] if len(parts) == 2 else None


def encode_singles_and_pairs(pairs: Sequence[tuple[str, str | None]], tokenizer: Tokenizer) -> pa.Table:
    """Encode texts without truncation: columns `a` and `b` of lists of ids; `b` is null for single texts."""
    firsts, seconds = ([pair[i] for pair in pairs] for i in (0, 1))
    a_ids, a_offsets = tokenizer.encode_column(pa.array(firsts, pa.string()))
    b_ids, b_offsets = tokenizer.encode_column(pa.array(seconds, pa.string()))
    is_single = pa.array([second is None for second in seconds], pa.bool_())
    return pa.table({"a": _lists(a_ids, a_offsets), "b": _lists(b_ids, b_offsets, mask=is_single)})


def singles_and_pairs(table: pa.Table) -> Iterator[tuple[np.ndarray, EncodedTable]]:
    """Yield the single texts, then the pairs, as tables to batch, each with its row numbers in `table`.

    A batch is of one of the two kinds. Labels are -1.
    """
    is_single = pc.is_null(table["b"].combine_chunks())
    for is_wanted, columns in ((is_single, ["a"]), (pc.invert(is_single), ["a", "b"])):
        rows = np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False))
        if len(rows):
            part = table.select(columns).take(pa.array(rows))
            part = part.append_column("label", pa.array(np.full(len(rows), -1, dtype=np.int32)))
            yield rows, EncodedTable.from_arrow(part.append_column("index", pa.array(rows)))


def quoted(text: str) -> str:
    """Return a text quoted for a message, shortened to 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _lists(ids: np.ndarray, offsets: np.ndarray, *, mask: pa.Array | None = None) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids), mask=mask)
