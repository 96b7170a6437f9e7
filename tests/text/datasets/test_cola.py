"""CoLA's files, as published and as GLUE has them."""

from collections.abc import Callable
from pathlib import Path

from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.read_split import Split

Read = Callable[..., Split]


def test_glues_cola_files_are_read_with_and_without_header(tmp_path: Path, read: Read) -> None:
    (tmp_path / "train.tsv").write_text('gj04\t1\t\tone "quoted.\ngj04\t0\t*\ttwo.\n')
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tthree.\n1\tfour.\n")
    train = read(COLA, tmp_path).table
    assert train["text_a"].to_pylist() == ['one "quoted.', "two."]
    assert train["label"].to_pylist() == [1, 0]
    assert "text_b" not in train.column_names
    test = read(COLA, tmp_path, split="test", require_labels=False).table
    assert test["text_a"].to_pylist() == ["three.", "four."]
    assert test["label"].to_pylist() == [-1, -1]
