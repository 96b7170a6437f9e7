"""The vectors of many lines as Parquet: parts of bounded size, each row group as it comes from a worker.

Columns: file, line (or row, from 1), text, num_tokens (as represented, special tokens included), is_cut,
vector.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = "embeddings"
PART_BYTES = 256 << 20
"""A part that has grown to this is closed and another begun."""


def embeddings_table(
    *, file: pa.Array, lines: pa.Table, num_tokens_R: np.ndarray, is_cut_R: np.ndarray, vectors_RD: np.ndarray
) -> pa.Table:
    """Return what a worker hands over; `file` holds numbers of files, so that names do not travel."""
    flat, dim = pa.array(vectors_RD.reshape(-1)), vectors_RD.shape[1]
    return pa.table(
        {
            "file": file,
            "line": lines["line"],
            "text": lines["text"],
            "num_tokens": num_tokens_R.astype(np.int32),
            "is_cut": is_cut_R,
            "vector": pa.FixedSizeListArray.from_arrays(flat, dim),
        }
    )


class PartWriter:
    """Writes `part-00000.parquet`, `part-00001.parquet`, ... into a folder."""

    def __init__(self, folder: Path, *, files: Sequence[str], part_bytes: int = PART_BYTES) -> None:
        self._folder = folder
        self._files = pa.array(files, pa.string())
        self._part_bytes = part_bytes
        self._writer: pq.ParquetWriter | None = None
        self._num_bytes = 0
        self.num_parts = 0

    def add(self, table: pa.Table) -> None:
        """Append a worker's table as a row group."""
        names = pa.DictionaryArray.from_arrays(table["file"].combine_chunks(), self._files)
        table = table.set_column(0, "file", names)
        if self._writer is None:
            path = self._folder / f"part-{self.num_parts:05d}.parquet"
            # Numbers of vectors neither repeat nor shrink: trying costs more than writing them.
            self._writer = pq.ParquetWriter(
                path, table.schema, use_dictionary=["file"], compression={"text": "zstd"}
            )
            self.num_parts += 1
        self._writer.write_table(table)
        self._num_bytes += table.nbytes
        if self._num_bytes >= self._part_bytes:
            self.close()

    def close(self) -> None:
        """Finish the part that is open."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._num_bytes = None, 0
