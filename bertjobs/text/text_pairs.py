"""A text that may be a pair, `a|b`; and many of them as integers in one Arrow table, singles beside pairs.

Where a word stands among the wordpieces of a text.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertjobs.errors import DataError
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.tokenizer_files import Tokenizer


def split_pair(text: str, separator: str | None) -> tuple[str, str | None]:
    """Return the two halves of a pair, or a single text and None.

    Raises: DataError: there are more than two parts, or an empty one.
    """
    parts = [text] if separator is None else text.split(separator)
    if len(parts) > 2:
        raise DataError(
            f"The text {shown(text)} has {len(parts) - 1} separators {separator!r}; a pair has one.",
            hint="Give another --pair-separator.",
        )
    if not all(part.strip() for part in parts):
        half = "first" if not parts[0].strip() else "second"
        what = "text" if len(parts) == 1 else f"{half} half of the text"
        raise DataError(f"The {what} {shown(text)} is empty.", hint="Give a text with a word in it.")
    return parts[0], parts[1] if len(parts) == 2 else None


def encode_singles_and_pairs(pairs: Sequence[tuple[str, str | None]], tokenizer: Tokenizer) -> pa.Table:
    """Encode texts without truncation: columns `a`, `b` (null in single texts), lists of ids."""
    firsts, seconds = ([pair[i] for pair in pairs] for i in (0, 1))
    a_ids, a_offsets = tokenizer.encode_column(pa.array(firsts, pa.string()))
    b_ids, b_offsets = tokenizer.encode_column(pa.array(seconds, pa.string()))
    is_single = pa.array([second is None for second in seconds], pa.bool_())
    return pa.table({"a": _lists(a_ids, a_offsets), "b": _lists(b_ids, b_offsets, mask=is_single)})


def singles_and_pairs(table: pa.Table) -> Iterator[tuple[np.ndarray, EncodedTable]]:
    """Yield the single texts and the pairs apart, each with its rows' numbers, as batches are made of."""
    is_single = pc.is_null(table["b"].combine_chunks())
    for is_wanted, columns in ((is_single, ["a"]), (pc.invert(is_single), ["a", "b"])):
        rows = np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False))
        if len(rows):
            part = table.select(columns).take(pa.array(rows))
            part = part.append_column("label", pa.array(np.full(len(rows), -1, dtype=np.int32)))
            yield rows, EncodedTable.from_arrow(part.append_column("index", pa.array(rows)))


def shown(text: str) -> str:
    """Show a text in a message, its beginning if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _lists(ids: np.ndarray, offsets: np.ndarray, *, mask: pa.Array | None = None) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids), mask=mask)


_CONTINUATION = "##"


def find_word(word: str, ids: Sequence[int], tokenizer: Tokenizer) -> list[range]:
    """Return the places of a word, all its pieces together; else those of the token that is called so.

    `crane` is found in `crane`, and not in `crane ##s`, unless nothing else is found; `[CLS]` and `##s` are
    tokens. Unknown words are not found: all of them have the same number.
    """
    pieces = tokenizer.token_strings(ids)
    wanted = tokenizer.encode(word)
    places = _find(wanted, ids) if wanted and tokenizer.unk_id not in wanted else []
    whole = [place for place in places if not _goes_on(pieces, place.stop)]
    return whole or [range(i, i + 1) for i, piece in enumerate(pieces) if piece == word]


def _goes_on(pieces: Sequence[str], end: int) -> bool:
    return end < len(pieces) and pieces[end].startswith(_CONTINUATION)


def _find(wanted: Sequence[int], ids: Sequence[int]) -> list[range]:
    length = len(wanted)
    starts = [i for i in range(len(ids) - length + 1) if list(ids[i : i + length]) == list(wanted)]
    return [range(i, i + length) for i in starts]
