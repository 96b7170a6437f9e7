"""Rows to predict, read in spans: the same rows as a reader of whole files finds."""

import csv
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.config.predict import RowsSection
from bertjobs.errors import DataError
from bertjobs.text import input_rows, lines
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.text.input_rows import fit_task, plan_rows, read_rows
from bertjobs.text.source_file import SourceFile

COLA = BUILT_IN["cola"]
TEXTS = ["one", 'a "quoted" text, with a comma', "two\nlines", "", "  ", 'ends in """', "naïve 文", '5" inch']


@pytest.fixture(autouse=True)
def small_spans(monkeypatch):
    for module in (lines, input_rows):
        monkeypatch.setattr(module, "LINES_PER_SPAN", 3)
        monkeypatch.setattr(module, "SPAN_BYTES", 64)


def read(paths, **values):
    data = RowsSection(path=str(paths[0]), **values)
    plan = plan_rows([SourceFile(path) for path in paths], data)
    tables, texts = [], []
    for span in plan.spans:
        for table, found in read_rows(span, plan.schema, data, format=example_format(COLA)):
            tables.append(table)
            texts += found
    return plan, pa.concat_tables(tables), texts


def cells(count):
    return [[TEXTS[i % len(TEXTS)], str(i)] for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
def test_spans_of_csv_have_the_rows_of_the_whole_file(tmp_path, count):
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["sentence", "n"], *cells(count)])
    with path.open(newline="") as stream:
        (header, *rows) = csv.reader(stream)
    plan, table, texts = read([path])
    assert plan.num_rows == count
    assert plan.schema.names == header
    assert [
        list(row) for row in zip(table["sentence"].to_pylist(), table["n"].to_pylist(), strict=True)
    ] == rows
    assert texts == [(row[0],) for row in rows]
    assert len(plan.spans) > count // 4


def test_a_stray_quote_inside_of_a_cell_moves_no_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sentence,n\n" + "".join(f'{i}" inch,{i}\n' for i in range(20)) + '"a\nb",20\n')
    _, table, _ = read([path])
    assert table["n"].to_pylist() == [str(i) for i in range(21)]
    assert table["sentence"][20].as_py() == "a\nb"


def test_blank_lines_before_the_header_of_csv_are_left_out(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\n\nsentence,n\n" + "".join(f"text,{i}\n" for i in range(7)))
    plan, table, _ = read([path])
    assert (plan.num_rows, plan.schema.names) == (7, ["sentence", "n"])
    assert table["n"].to_pylist() == [str(i) for i in range(7)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_spans_of_tsv_have_the_rows_of_the_whole_file(tmp_path, end):
    path = tmp_path / "x.tsv"
    rows = [["sentence", "n"], *[[f'"{i}', str(i)] for i in range(20)]]
    path.write_bytes("".join("\t".join(row) + end for row in rows).encode())
    plan, table, _ = read([path])
    assert plan.num_rows == 20
    assert table["sentence"].to_pylist() == [f'"{i}' for i in range(20)]


def test_fields_of_json_lines_are_texts_and_others_are_json(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"sentence": f"t{i}", "n": i, "more": {"a": [i, None]}} for i in range(9)]
    rows[4].pop("n")
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    _, table, _ = read([path])
    assert table["sentence"].to_pylist() == [row["sentence"] for row in rows]
    assert table["n"].to_pylist() == ["0", "1", "2", "3", None, "5", "6", "7", "8"]
    assert json.loads(table["more"][2].as_py()) == rows[2]["more"]


def test_parquet_keeps_its_types(tmp_path):
    path = tmp_path / "x.parquet"
    given = pa.table({"n": pa.array(range(20), pa.int16()), "sentence": [f"t{i}" for i in range(20)]})
    pq.write_table(given, path, row_group_size=6)
    plan, table, texts = read([path])
    assert table.select(["n", "sentence"]) == given
    assert (plan.num_rows, len(plan.spans), texts[19]) == (20, 4, ("t19",))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("limit", [1, 3, 4, 7, 100])
def test_a_limit_keeps_the_first_rows(tmp_path, suffix, limit):
    path = tmp_path / f"x{suffix}"
    rows = [{"sentence": f"t{i}", "n": str(i)} for i in range(9)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = "," if suffix == ".csv" else "\t"
        path.write_text("".join(f"{a}{comma}{b}\n" for a, b in [("sentence", "n"), *map(dict.values, rows)]))
    plan, table, _ = read([path], limit=limit)
    assert table["n"].to_pylist() == [str(i) for i in range(min(limit, 9))]
    assert plan.num_rows == min(limit, 9)


def test_several_files_follow_one_another_and_have_the_same_columns(tmp_path):
    for name, start in (("a", 0), ("b", 5)):
        rows = "".join(f"t{i},{i}\n" for i in range(start, start + 5))
        (tmp_path / f"{name}.csv").write_text(f"sentence,n\n{rows}")
    _, table, _ = read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert table["n"].to_pylist() == [str(i) for i in range(10)]
    assert table["bertjobs.line"].to_pylist() == [2, 3, 4, 5, 6] * 2
    (tmp_path / "c.csv").write_text("sentence,other\na,b\n")
    with pytest.raises(DataError, match=r"c\.csv has the columns sentence, other, but .*a\.csv has "):
        read([tmp_path / "a.csv", tmp_path / "c.csv"])


def test_a_row_that_is_broken_is_named_by_its_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sentence,n\n" + "".join(f"t{i},{i}\n" for i in range(7)) + "t7\nt8,8\n")
    with pytest.raises(DataError, match=r"x\.csv, line 9: expected 2 columns, but found 1[.]"):
        read([path])
    _, table, _ = read([path], on_bad_row="skip")
    assert table["n"].to_pylist() == ["0", "1", "2", "3", "4", "5", "6", "8"]


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"sentence\na\nb\n\xff\n")
    with pytest.raises(DataError, match=r"x\.csv, line 4: byte 0xff at column 1 is not UTF-8"):
        read([tmp_path / "x.csv"])


def test_the_columns_of_a_task_must_be_there_and_hold_texts(tmp_path):
    schema = pa.schema([("sentence", pa.int64())])
    source = SourceFile(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="the column 'sentence' is of type int64, not of texts"):
        fit_task(COLA, schema, source, is_pair_known=True)
    with pytest.raises(DataError, match="there is no column 'text_a'; the file has sentence"):
        columns = replace(COLA.columns, text_a="text_a")
        fit_task(replace(COLA, columns=columns), schema, source, is_pair_known=True)
