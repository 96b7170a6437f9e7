"""How far the lines of an encode job are done: what is reported meanwhile, and the figures at the end."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bertjobs.text.lines import LineSpan


class LinesDone:
    """Counts the tables of vectors that have been written, in the order of the lines."""

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
        """Lines before each file, and in all."""
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
        if self._first_at is None:  # workers start before it, which says nothing of their speed
            self._first_at, self._num_at_first = self._clock(), self.num_texts

    def progress(self) -> dict[str, Any]:
        """Return what is reported: lines done as steps, and once it is known the speed."""
        assert self._first_at is not None
        report: dict[str, Any] = {"step": self._num_done, "num_steps": self.num_lines, "epoch": 0}
        if self.num_texts > self._num_at_first:
            elapsed_s = max(self._clock() - self._first_at, 1e-3)
            rate = (self.num_texts - self._num_at_first) / elapsed_s
            report |= {"examples_per_s": rate, "eta_s": (self.num_lines - self._num_done) / rate}
        return report

    def metrics(self, *, run_s: float) -> dict[str, Any]:
        """Return the final figures; the speed is over all the time, starting the workers included."""
        return {
            "num_texts": self.num_texts,
            "num_tokens": self._num_tokens,
            "num_cut": self._num_cut,
            "num_left_out": self.num_lines - self.num_texts,
            "texts_per_s": self.num_texts / run_s,
            "run_s": run_s,
        }
