"""Every format that is read, which rows are kept, and which are held out."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from bertjobs.errors import DataError
from bertjobs.text.datasets.read_split import Split, holdout
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.datasets.task import Task

Read = Callable[..., Split]


TASK = Task(
    name="mine",
    labels=("bad", "good"),
    label_values=("0", "1"),
    metric="accuracy",
    format="table",
    columns=Columns(text_a="text", text_b="other", label="label"),
    no_label="-",
)


TEXTS = ["plain", "with, comma", 'with "quotes"', "with  two spaces", "ünïcödé\u2028line", "", "last"]


LABELS = ["0", "1", "1", "-", "0", "1", "0"]


KEPT = [0, 1, 2, 4, 5, 6]


def write_csv(path: Path) -> None:
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    lines = [f"{label},{text},{text}" for label, text in zip(LABELS, quoted, strict=True)]
    path.write_text("label,text,other\n" + "\n".join(lines) + "\n", encoding="utf-8")


def write_tsv(path: Path) -> None:
    lines = [f"{text}\t{label}\t{text}" for label, text in zip(LABELS, TEXTS, strict=True)]
    path.write_text("text\tlabel\tother\n" + "\n".join(lines), encoding="utf-8-sig", newline="\r\n")


def write_jsonl(path: Path) -> None:
    rows = [{"text": t, "other": t, "label": x, "more": 1} for x, t in zip(LABELS, TEXTS, strict=True)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")


def as_table() -> pa.Table:
    return pa.table({"other": TEXTS, "label": LABELS, "text": pa.array(TEXTS).dictionary_encode()})


def write_parquet(path: Path) -> None:
    pq.write_table(as_table(), path)


def write_arrow_file(path: Path) -> None:
    with pa.ipc.new_file(str(path), as_table().schema) as writer:
        writer.write_table(as_table())


def write_arrow_stream(path: Path) -> None:
    with pa.ipc.new_stream(str(path), as_table().schema) as writer:
        writer.write_table(as_table())


def write_feather(path: Path) -> None:
    pyarrow.feather.write_feather(as_table(), str(path))


WRITERS = {
    "train.csv": write_csv,
    "train.tsv": write_tsv,
    "train.jsonl": write_jsonl,
    "train.parquet": write_parquet,
    "train.arrow": write_arrow_file,
    "train.feather": write_feather,
}


@pytest.mark.parametrize("name", [*WRITERS])
@pytest.mark.parametrize("how", ["folder", "file", "zip", "split"])
def test_every_format_gives_the_same_rows(tmp_path: Path, read: Read, name: str, how: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / name
    WRITERS[name](file)
    if how == "zip":
        archive = tmp_path / "data.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
            z.write(file, f"top/{name}")
        found = read(TASK, archive)
        assert found.files == (archive,)
    elif how == "split":
        found = read(TASK, None, split=str(file))
        assert found.files == (file,)
    else:
        found = read(TASK, folder if how == "folder" else file)
        assert found.files == (file,)
    assert found.table.column_names == ["text_a", "text_b", "label", "index"]
    assert found.table["text_a"].to_pylist() == [TEXTS[i] for i in KEPT]
    assert found.table["text_b"].to_pylist() == [TEXTS[i] for i in KEPT]
    assert found.table["label"].to_pylist() == [0, 1, 1, 0, 1, 0]
    assert found.table["index"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert found.table.schema.types == [pa.string(), pa.string(), pa.int32(), pa.int64()]
    assert found.num_dropped == {"no gold label": 1, "broken row": 0}
    assert found.task.labels == ("bad", "good")


def test_an_arrow_stream_is_read_like_a_file(tmp_path: Path, read: Read) -> None:
    write_arrow_stream(tmp_path / "train.arrow")
    assert read(TASK, tmp_path).table["text_a"].to_pylist() == [TEXTS[i] for i in KEPT]


@pytest.mark.parametrize(
    "labels",
    [[1, 0, 1], [1.0, 0.0, 1.0], ["1", "0", "1"], [" 1", "0 ", "1"]],
    ids=["int", "float", "text", "padded"],
)
def test_labels_are_compared_as_text_whatever_their_type(tmp_path: Path, read: Read, labels: list) -> None:
    pq.write_table(
        pa.table({"text": ["a", "b", "c"], "other": ["", "", ""], "label": labels}),
        tmp_path / "train.parquet",
    )
    assert read(TASK, tmp_path).table["label"].to_pylist() == [1, 0, 1]


def test_a_csv_field_may_hold_line_ends(tmp_path: Path, read: Read) -> None:
    (tmp_path / "train.csv").write_text('text,other,label\n"two\nlines",b,1\nc,d,0\n')
    assert read(TASK, tmp_path).table["text_a"].to_pylist() == ["two\nlines", "c"]


def test_snli_drops_and_counts_rows_without_a_gold_label(snli_file: Path, read: Read) -> None:
    found = read(SNLI, snli_file)
    assert found.table["text_a"].to_pylist() == ["Premise 0.", "Premise 2.", "Premise 3."]
    assert found.table["text_b"].to_pylist() == ["Hypothesis 0.", "Hypothesis 2.", "Hypothesis 3."]
    assert found.table["label"].to_pylist() == [0, 1, 2]
    assert found.table["index"].to_pylist() == [0, 1, 2]
    assert found.num_dropped == {"no gold label": 1, "broken row": 0}


def test_an_unlabelled_set_is_kept_whole_where_labels_are_not_required(tmp_path: Path, read: Read) -> None:
    rows = [{"gold_label": "-", "sentence1": "a", "sentence2": "b"}] * 3
    (tmp_path / "snli_1.0_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(SNLI, tmp_path, split="test", require_labels=False)
    assert found.table["label"].to_pylist() == [-1, -1, -1]
    assert found.num_dropped == {"no gold label": 0, "broken row": 0}


def test_a_labelled_set_drops_the_same_rows_where_labels_are_not_required(
    snli_file: Path, read: Read
) -> None:
    assert read(SNLI, snli_file, require_labels=False).table.equals(read(SNLI, snli_file).table)


@pytest.mark.parametrize("num_rows", [2, 9, 10, 11, 31, 600, 8551])
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("seed", [0, 2018])
def test_holdout_is_scikit_learns(num_rows: int, ratio: float, seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    train, valid = holdout(num_rows, ratio=ratio, seed=seed)
    sk_train, sk_valid = sklearn.train_test_split(np.arange(num_rows), random_state=seed, test_size=ratio)
    np.testing.assert_array_equal(train, sk_train)
    np.testing.assert_array_equal(valid, sk_valid)


def test_holdout_stays_what_it_was() -> None:
    """Golden: what scikit-learn 1.9 gives for 10 rows and CoLA's seed."""
    train, valid = holdout(10, ratio=0.2, seed=2018)
    assert (train.tolist(), valid.tolist()) == ([7, 8, 9, 4, 5, 1, 2, 6], [0, 3])


def test_holdout_refuses_to_leave_one_side_empty() -> None:
    with pytest.raises(DataError) as e:
        holdout(1, ratio=0.1, seed=0)
    assert str(e.value) == (
        "Holding out 0.1 of 1 rows leaves 0 to train on and 1 to validate on. "
        "Change data.valid_ratio (--valid-ratio), or give more rows (--data)."
    )
