"""The encoded form of a split: untruncated token ids in Arrow, one list per text, with label and index.

Truncation comes later and costs nothing (see `truncation`), so the encoded form and its cache key depend on
neither max_len nor the strategy.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertjobs.errors import StorageError
from bertjobs.storage import replacing, sha256_of
from bertjobs.text import ragged
from bertjobs.text.datasets.task import Task
from bertjobs.text.tokenizer import Tokenizer

ENCODER_VERSION = 1
"""Raise it when the same rows would be encoded differently."""


_NOT_ABOUT_ROWS = (
    *("n_best", "max_answer_tokens", "null_threshold"),
    *("threshold", "class_weights", "label_smoothing", "files", "groups"),
)
"""Of a task: what changes the training, or which files are read, but not how a row is encoded."""


def encode_table(table: pa.Table, tokenizer: Tokenizer) -> pa.Table:
    """Encode a split: columns `a`, `b` (pairs) as lists of uint16 or int32, `label` int32, `index` int64."""
    is_pair = "text_b" in table.column_names
    columns = ["text_a", "text_b"] if is_pair else ["text_a"]
    # Both columns at once, because they share most of their words: each word is tokenized once.
    texts = pa.chunked_array(
        [c.cast(pa.string()) for name in columns for c in table[name].chunks], pa.string()
    )
    ids, offsets = tokenizer.encode_column(texts)
    n = table.num_rows
    encoded = {"a": list_array(ids, offsets[: n + 1])}
    if is_pair:
        encoded["b"] = list_array(ids, offsets[n:])
    encoded["label"] = table["label"].combine_chunks()
    encoded["index"] = table["index"].combine_chunks()
    return pa.table(encoded)


def cache_key(
    files: Sequence[Path],
    task: Task,
    tokenizer: Tokenizer,
    *,
    split: str,
    on_bad_row: str = "error",
    limit: int | None = None,
    extra: str = "",
) -> str:
    """Return a name for the encoded form of these rows: 32 hex digits.

    It changes with the content of the files, the task's columns and labels, the tokenizer, which rows are
    kept (`split`, `on_bad_row`, `limit`, and `extra` for anything else that selects rows) and the encoder.
    """
    described = {
        "encoder": ENCODER_VERSION,
        "files": [[path.suffix, sha256_of(path)] for path in files],
        "task": {**_without(task.to_json(), _NOT_ABOUT_ROWS), "name": "", "labels": [], "metric": ""},
        "tokenizer": tokenizer.fingerprint,
        "rows": [split, on_bad_row, limit, extra],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _without(document: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


@dataclass(frozen=True, kw_only=True)
class EncodedTable:
    """Views of an encoded split: numpy arrays over Arrow's own memory, nothing copied.

    The ids of row i's first text are `a_ids[a_offsets[i] : a_offsets[i + 1]]`. A row is one sequence, or (of
    multiple choice) several that share their first text; sequences are numbered through all rows.
    """

    a_ids: np.ndarray
    a_offsets: np.ndarray
    b_ids: np.ndarray | None
    b_offsets: np.ndarray | None
    """Of each sequence's second text."""
    labels: np.ndarray
    """int32, -1 where a row has none; of regression float32 and NaN."""
    indices: np.ndarray
    """int64, the rows' numbers in their split."""
    first_sequences: np.ndarray | None = None
    """(rows + 1): where each row's sequences begin; None where each row is one sequence."""
    more: Mapping[str, pa.Array] = field(default_factory=dict)
    """Columns that only the task's type reads."""

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "EncodedTable":
        """View a table of `encode_table`'s columns; several chunks are joined first, which copies."""
        a_ids, a_offsets = _views(table["a"])
        b_ids, b_offsets, first_sequences = None, None, None
        if "b" in table.column_names:
            seconds = one_array(table["b"])
            if pa.types.is_list(seconds.type.value_type):
                first_sequences = seconds.offsets.to_numpy().astype(np.int64)
                seconds = seconds.values
            b_ids, b_offsets = seconds.values.to_numpy(), seconds.offsets.to_numpy()
        known = ("a", "b", "label", "index")
        return cls(
            a_ids=a_ids,
            a_offsets=a_offsets,
            b_ids=b_ids,
            b_offsets=b_offsets,
            labels=one_array(table["label"]).to_numpy(),
            indices=one_array(table["index"]).to_numpy(),
            first_sequences=first_sequences,
            more={name: one_array(table[name]) for name in table.column_names if name not in known},
        )

    @property
    def num_rows(self) -> int:
        return len(self.labels)

    @property
    def is_pair(self) -> bool:
        return self.b_ids is not None

    @property
    def num_sequences(self) -> int:
        return self.num_rows if self.first_sequences is None else int(self.first_sequences[-1])

    def sequences_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of these rows' sequences, row after row: int64."""
        if self.first_sequences is None:
            return rows
        starts = self.first_sequences[:-1][rows]
        return ragged.flat_indices(starts, self.first_sequences[1:][rows] - starts)

    def rows_of(self, sequences: np.ndarray) -> np.ndarray:
        """Return the row of each of these sequences: int64."""
        if self.first_sequences is None:
            return sequences
        return np.asarray(np.searchsorted(self.first_sequences, sequences, side="right") - 1)

    def sum_by_row(self, values: np.ndarray) -> np.ndarray:
        """Add up a number of each sequence over the sequences of each row."""
        if self.first_sequences is None:
            return values
        sums = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(values, out=sums[1:])
        return np.asarray(np.diff(sums[self.first_sequences]))

    @property
    def lengths_a(self) -> np.ndarray:
        """Wordpieces of each sequence's first text: int64."""
        lengths = np.diff(self.a_offsets).astype(np.int64)
        return np.asarray(lengths[self.rows_of(np.arange(self.num_sequences))])

    @property
    def lengths_b(self) -> np.ndarray | None:
        """Wordpieces of each sequence's second text: int64; None for single texts."""
        return None if self.b_offsets is None else np.diff(self.b_offsets).astype(np.int64)

    def select(self, rows: np.ndarray) -> "EncodedTable":
        """Copy the given rows, in the given order."""
        a_ids, a_offsets = ragged.take(self.a_ids, self.a_offsets, rows)
        b_ids, b_offsets = None, None
        if self.b_ids is not None and self.b_offsets is not None:
            b_ids, b_offsets = ragged.take(self.b_ids, self.b_offsets, self.sequences_of(rows))
        first_sequences = None
        if self.first_sequences is not None:
            first_sequences = ragged.offsets_of(np.diff(self.first_sequences)[rows])
        return EncodedTable(
            a_ids=a_ids,
            a_offsets=a_offsets,
            b_ids=b_ids,
            b_offsets=b_offsets,
            labels=self.labels[rows],
            indices=self.indices[rows],
            first_sequences=first_sequences,
            more={name: column.take(pa.array(rows)) for name, column in self.more.items()},
        )


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write an Arrow file of one record batch, atomically, so that `read_arrow` can map it into memory.

    Raises: StorageError: no room, no right.
    """
    table = table.combine_chunks()
    try:
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=max(table.num_rows, 1))
    except OSError as e:
        raise StorageError(
            f"The encoded data cannot be written to {path}: {e.strerror or e}",
            hint="Free room there, or set BERTJOBS_CACHE to another place.",
        ) from e


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow file into memory; pages are read as they are touched.

    Raises: StorageError: missing or damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as e:
        raise StorageError(
            f"The encoded data at {path} cannot be read: {str(e).splitlines()[0]}",
            hint="Remove it, and the data will be encoded again.",
        ) from e


def list_array(ids: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    """Return a ragged array (ids, offsets) as an Arrow array of lists."""
    start, end = int(offsets[0]), int(offsets[-1])
    return pa.ListArray.from_arrays(
        pa.array((offsets - start).astype(np.int32)), pa.array(ids[start:end], pa.from_numpy_dtype(ids.dtype))
    )


def _views(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    lists = one_array(column)
    return lists.values.to_numpy(), lists.offsets.to_numpy()


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; copies only if it has several chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
