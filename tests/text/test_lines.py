"""Lines as a stream of spans: every line once, under its number, however the file is cut."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.config.encode import LinesSection
from bertjobs.errors import DataError
from bertjobs.text import lines
from bertjobs.text.corpus.files import own_files
from bertjobs.text.lines import plan_lines, read_lines
from bertjobs.text.source_file import SourceFile


@pytest.fixture
def small_spans(monkeypatch):
    monkeypatch.setattr(lines, "LINES_PER_SPAN", 4)
    monkeypatch.setattr(lines, "SPAN_BYTES", 32)


def section(path, **given) -> LinesSection:
    return LinesSection(path=str(path), **given)


def read_all(path, **given) -> list[tuple[int, str]]:
    data = section(path, **given)
    spans = plan_lines(own_files(data.path, flag="--data"), data)
    tables = [table for span in spans for table in read_lines(span, data)]
    return [(row["line"], row["text"]) for table in tables for row in table.to_pylist()]


TEXTS = st.lists(st.text(st.characters(exclude_characters="\n\r\0\ufeff", codec="utf-8"), max_size=20))


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_line_with_text_is_read_once_under_its_number(texts, end, has_last_end):
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as name:
        patch.setattr(lines, "LINES_PER_SPAN", 4)
        patch.setattr(lines, "SPAN_BYTES", 32)
        folder = Path(name)
        content = end.join(["first", *texts]) + (end if has_last_end else "")
        (folder / "x.txt").write_bytes(content.encode())
        expected = list(enumerate(["first", *texts], start=1))
        assert read_all(folder / "x.txt") == [(i, t) for i, t in expected if t and not t.isspace()]


def test_spans_end_after_some_lines_and_where_lines_are_long_sooner(small_spans, tmp_path):
    (tmp_path / "x.txt").write_text("a\n" * 10 + ("b" * 40 + "\n") * 3)
    spans = plan_lines([SourceFile(tmp_path / "x.txt")], section(tmp_path))
    assert [(span.first, span.num_lines) for span in spans][:2] == [(1, 4), (5, 4)]
    assert sum(span.num_lines for span in spans) == 13
    assert all(span.num_bytes <= 2 * 41 + 6 for span in spans)
    assert spans[-1].begin + spans[-1].num_bytes == (tmp_path / "x.txt").stat().st_size


def test_a_limit_counts_lines_over_all_files(small_spans, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(f"{name} {i}\n" for i in range(6)))
    assert len(read_all(tmp_path)) == 12
    found = read_all(tmp_path, limit=7)
    assert [text for _, text in found[5:]] == ["a.txt 5", "b.txt 0"]
    assert found[-1][0] == 1  # numbers begin anew in each file


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbffirst\nsecond\n")
    assert read_all(tmp_path / "x.txt") == [(1, "first"), (2, "second")]


def test_a_line_that_is_not_utf8_is_refused_with_its_number_or_left_out(small_spans, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"a\n" * 5 + b"x\xffy\n" + b"b\n" + b"c\0d\n")
    with pytest.raises(DataError, match=r"x\.txt, line 6: byte 0xff at column 2 is not UTF-8\."):
        read_all(path)
    assert [number for number, _ in read_all(path, on_bad_row="skip")] == [1, 2, 3, 4, 5, 7]


def test_a_text_that_the_caller_refuses_is_a_bad_line(tmp_path):
    (tmp_path / "x.txt").write_text("good\nbad\n")

    def check(text):
        if text == "bad":
            raise DataError("It is bad.")

    data = section(tmp_path / "x.txt")
    (span,) = plan_lines([SourceFile(tmp_path / "x.txt")], data)
    with pytest.raises(DataError, match=r"line 2: It is bad\."):
        list(read_lines(span, data, check=check))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"text": "cut', "broken JSON"),
        ('["text"]', "expected a JSON object"),
        ('{"txt": "a"}', "there is no field 'text' (--column); the row has txt"),
        ('{"text": 3}', "the field 'text' is not a text but 3"),
    ],
)
def test_a_broken_line_of_jsonl_is_named(tmp_path, line, cause):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n\n' + line + "\n")
    with pytest.raises(DataError, match="line 3: ") as caught:
        read_all(tmp_path / "x.jsonl")
    assert cause in str(caught.value)


def test_fields_and_columns_are_named_by_the_caller(tmp_path):
    rows = [{"t": "a"}, {"t": "b"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        assert read_all(tmp_path / name, column="t") == [(1, "a"), (2, "b")]


def test_rows_of_parquet_are_numbered_over_its_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LINES_PER_SPAN", 3)
    texts = [f"row {i}" for i in range(10)]
    dictionary = pa.array(texts).dictionary_encode()
    pq.write_table(pa.table({"text": dictionary}), tmp_path / "x.parquet", row_group_size=4)
    assert read_all(tmp_path / "x.parquet") == list(enumerate(texts, start=1))
    assert read_all(tmp_path / "x.parquet", limit=6) == list(enumerate(texts, start=1))[:6]


def test_parquet_without_the_column_or_with_nulls_or_damaged_says_so(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), path)
    with pytest.raises(DataError, match=r"there is no column 'body'; the file has text, n\. .*--column"):
        read_all(path, column="body")
    with pytest.raises(DataError, match=r"the column 'n' is of type int64, not of texts"):
        read_all(path, column="n")
    with pytest.raises(DataError, match=r"x\.parquet, row 2: the text is null"):
        read_all(path)
    assert read_all(path, on_bad_row="skip") == [(1, "a")]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        read_all(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"PK\x03\x04", "is not text but a zip archive")]
)
def test_empty_and_binary_files_are_refused_when_planned(tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        plan_lines([SourceFile(tmp_path / "x.txt")], section(tmp_path))


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"--data .*x\.parquet: there are no rows in it"):
        read_all(tmp_path / "x.parquet")


def test_a_missing_path_is_named_with_its_flag(tmp_path):
    with pytest.raises(DataError, match=r"--data .*/none: there is no such file or folder with text\."):
        own_files(str(tmp_path / "none"), flag="--data")


def test_a_file_that_shrank_since_planning_is_refused(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("one\ntwo\n")
    (span,) = plan_lines([SourceFile(path)], section(path))
    path.write_text("one\n")
    with pytest.raises(DataError, match="was changed while the job read it"):
        list(read_lines(span, section(path)))
