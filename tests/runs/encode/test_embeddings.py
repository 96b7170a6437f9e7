"""The parts that an encode job writes, and its progress, with a clock of the test's own."""

import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.runs.encode.embeddings import EncodeProgress, PartWriter, embeddings_table
from bertjobs.text.lines import LineSpan

FILES = ["a.txt", "b.txt"]
SPANS = [
    LineSpan(path=path, first=first, num_lines=100, begin=0, num_bytes=1)
    for path, first in (("a.txt", 1), ("a.txt", 101), ("b.txt", 1))
]


def table(*, file: int, lines: range, num_cut: int = 0) -> pa.Table:
    return pa.table(
        {
            "file": [file] * len(lines),
            "line": list(lines),
            "num_tokens": [5] * len(lines),
            "is_cut": [i < num_cut for i in range(len(lines))],
        }
    )


def test_lines_done_are_counted_over_files_and_the_speed_without_the_start():
    now = [100.0]
    done = EncodeProgress(SPANS, FILES, clock=lambda: now[0])
    done.add(table(file=0, lines=range(1, 101)))
    assert done.progress() == {"step": 100, "num_steps": 300, "epoch": 0}
    now[0] += 4.0
    done.add(table(file=0, lines=range(101, 191), num_cut=3))  # the last ten lines of this span are blank
    assert done.progress()["step"] == 190
    done.add(table(file=1, lines=range(1, 51)))
    report = done.progress()
    assert (report["step"], report["num_steps"]) == (250, 300)
    assert report["examples_per_s"] == pytest.approx(140 / 4)
    assert report["eta_s"] == pytest.approx(50 / 35)


def test_the_final_figures_are_over_all_the_time():
    done = EncodeProgress(SPANS, FILES, clock=lambda: 0.0)
    done.add(table(file=0, lines=range(1, 201, 2), num_cut=7))
    assert done.metrics(run_s=20.0) == {
        "num_texts": 100,
        "num_tokens": 500,
        "num_cut": 7,
        "num_left_out": 200,
        "texts_per_s": 5.0,
        "run_s": 20.0,
    }


def test_embeddings_are_written_into_parts_of_bounded_size(tmp_path):
    writer = PartWriter(tmp_path, files=["a.txt", "b.txt"], part_bytes=2000)
    vectors = np.arange(60 * 8, dtype=np.float32).reshape(60, 8)
    for start in range(0, 60, 20):
        rows = np.arange(start, start + 20)
        lines = pa.table({"line": rows + 1, "text": [f"text {row}" for row in rows]})
        writer.add(
            embeddings_table(
                file=pa.chunked_array([pa.array((rows >= 30).astype(np.int32))]),
                lines=lines, num_tokens_R=rows, is_cut_R=rows % 2 == 0, vectors_RD=vectors[rows],
            )
        )  # fmt: skip
    writer.close()
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    table = pq.read_table(tmp_path)
    assert table["vector"].type == pa.list_(pa.float32(), 8)
    assert np.array_equal(np.stack(table["vector"].to_numpy()), vectors)
    assert table["line"].to_pylist() == list(range(1, 61))
    assert table["file"].to_pylist() == ["a.txt"] * 30 + ["b.txt"] * 30
    assert all(stat.S_ISREG(part.stat().st_mode) for part in parts)
