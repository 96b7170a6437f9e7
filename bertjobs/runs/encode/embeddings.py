"""The output of an encode job: its vectors as Parquet, its progress, and its metrics.

Columns: file, line (or row, from 1), text, num_tokens (after truncation, special tokens included), is_cut,
vector. Parts have a bounded size; each row group is a worker's block. Knows no Ray.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertjobs.text.lines import LineSpan

Array = npt.NDArray[Any]

FOLDER = "embeddings"
PART_BYTES = 256 << 20
"""Size at which a part is closed and the next one begins."""


def embeddings_table(
    *, file: pa.Array, lines: pa.Table, num_tokens_R: Array, is_cut_R: Array, vectors_RD: Array
) -> pa.Table:
    """Return a worker's block; `file` has the numbers of files, so that their names are not copied each time.

    Legend: R rows, D numbers of a vector.
    """
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

    # The numbers of vectors do not compress: trying would cost more time than writing them.
    parquet_options: ClassVar[Mapping[str, Any]] = {
        "use_dictionary": ["file"],
        "compression": {"text": "zstd"},
    }

    def __init__(self, folder: Path, *, files: Sequence[str], part_bytes: int = PART_BYTES) -> None:
        self._folder = folder
        self._files = pa.array(files, pa.string())
        self._part_bytes = part_bytes
        self._writer: pq.ParquetWriter | None = None
        self._num_bytes = 0
        self.num_parts = 0

    def add(self, table: pa.Table) -> None:
        """Append a worker's table as a row group."""
        table = self.published(table)
        if self._writer is None:
            path = self._folder / f"part-{self.num_parts:05d}.parquet"
            self._writer = pq.ParquetWriter(path, table.schema, **self.parquet_options)
            self.num_parts += 1
        self._writer.write_table(table)
        self._num_bytes += table.nbytes
        if self._num_bytes >= self._part_bytes:
            self.close()

    def published(self, table: pa.Table) -> pa.Table:
        """Return a worker's table as it is written: with the names of files in place of their numbers."""
        names = pa.DictionaryArray.from_arrays(table["file"].combine_chunks(), self._files)
        return table.set_column(0, "file", names)

    def close(self) -> None:
        """Finish the open part."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._num_bytes = None, 0


class EncodeProgress:
    """Counts the lines whose vectors have been written, in their order."""

    def __init__(
        self,
        spans: Sequence[LineSpan],
        files: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = files
        self._clock = clock
        num_lines_of = dict.fromkeys(files, 0)
        for span in spans:
            num_lines_of[span.path] += span.num_lines
        self._ends = list(accumulate(num_lines_of.values(), initial=0))
        """Number of lines before each file, and of all files."""
        self._num_done = 0
        self.num_texts = self._num_tokens = self._num_cut = 0
        self._first_at: float | None = None
        self._num_at_first = 0

    @property
    def num_lines(self) -> int:
        return self._ends[-1]

    def add(self, table: pa.Table) -> None:
        """Count a table of vectors."""
        self.num_texts += table.num_rows
        self._num_tokens += pc.sum(table["num_tokens"]).as_py()
        self._num_cut += pc.sum(table["is_cut"]).as_py()
        self._num_done = self._ends[table["file"][-1].as_py()] + table["line"][-1].as_py()
        if self._first_at is None:  # the start of the workers before it is not part of their speed
            self._first_at, self._num_at_first = self._clock(), self.num_texts

    def progress(self) -> dict[str, Any]:
        """Return a progress report: lines done as steps, and the speed once it is known."""
        assert self._first_at is not None
        report: dict[str, Any] = {"step": self._num_done, "num_steps": self.num_lines, "epoch": 0}
        if self.num_texts > self._num_at_first:
            elapsed_s = max(self._clock() - self._first_at, 1e-3)
            rate = (self.num_texts - self._num_at_first) / elapsed_s
            report |= {"examples_per_s": rate, "eta_s": (self.num_lines - self._num_done) / rate}
        return report

    def metrics(self, *, run_s: float) -> dict[str, Any]:
        """Return the final figures; the speed is over the whole time, the start of the workers included."""
        return {
            "num_texts": self.num_texts,
            "num_tokens": self._num_tokens,
            "num_cut": self._num_cut,
            "num_left_out": self.num_lines - self.num_texts,
            "texts_per_s": self.num_texts / run_s,
            "run_s": run_s,
        }
