"""The documents and sentences of a corpus in every format, and what is refused."""

import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.errors import DataError
from bertjobs.text.corpus.documents import read_shard
from bertjobs.text.corpus.files import find_files
from bertjobs.text.corpus.shards import plan_shards
from corpus_kit import documents_of, section, shards_of

ARTICLES = "".join(
    f" {line} \n"
    for line in (
        *("", "= A Crane =", "", "A crane is flying . It is white .", "", "= = Life = =", ""),
        *("It eats <unk> @-@ fish .", "", "= = = Young = = =", "", "They hatch . They fly .", ""),
        *("= <unk> ( b ) =", "x = y . z ."),
    )
)


CRANE = ["A crane is flying", "It is white .", "It eats <unk> @-@ fish .", "They hatch", "They fly ."]


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.train.tokens"
    path.write_text(ARTICLES, encoding="utf-8")
    return path


def test_an_article_is_the_text_under_a_title_without_headings(wiki: Path) -> None:
    assert documents_of(wiki) == [CRANE, ["x = y", "z ."]]


def test_a_paragraph_is_a_line_that_is_not_a_heading(wiki: Path) -> None:
    assert documents_of(wiki, document="paragraph") == [
        ["A crane is flying", "It is white ."],
        ["It eats <unk> @-@ fish ."],
        ["They hatch", "They fly ."],
        ["x = y", "z ."],
    ]


def test_text_files_are_documents_and_sentences_end_at_punctuation(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("One. Two!  Three?\r\nno end\n\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeffVersion 2.0 is out. = so =\n", encoding="utf-8")
    files = find_files(str(tmp_path), None, split="train", cache=tmp_path)
    assert [file.path.name for file in files] == ["a.txt", "b.txt"]
    found = documents_of(*(file.path for file in files))
    assert found == [["Version 2.0 is out.", "= so ="], ["One.", "Two!", "Three?", "no end"]]


def test_lines_can_be_documents_or_sentences(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("a . b\n\n c. d\n", encoding="utf-8")
    assert documents_of(path, document="line", sentences="dot") == [["a", "b"], ["c. d"]]
    assert documents_of(path, sentences="line") == [["a . b", "c. d"]]


def test_rows_of_jsonl_and_parquet_are_documents(tmp_path: Path) -> None:
    texts = ["One. Two.", "Line one\nline two", "  "]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"id": 1, "body": text}) + "\n" for text in texts), encoding="utf-8")
    table = tmp_path / "b.parquet"
    columns = {"body": texts * 700, "id": range(2100)}
    pq.write_table(pa.table(columns), table, row_group_size=1500, use_dictionary=False)
    expected = [["One.", "Two."], ["Line one", "line two"]]
    assert documents_of(lines, column="body") == expected
    assert documents_of(table, column="body") == expected * 700
    shards = shards_of(table, column="body", block_bytes=4096)
    assert len(shards) > 2
    assert documents_of(table, column="body", block_bytes=4096) == expected * 700


def test_a_published_zip_is_read_where_it_is(wiki: Path, tmp_path: Path) -> None:
    archive = tmp_path / "wikitext-2-v1.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        z.write(wiki, "wikitext-2/wiki.train.tokens")
    (file,) = find_files("wikitext-2", str(archive), split="train", cache=tmp_path)
    assert file.member == "wikitext-2/wiki.train.tokens"
    plain = documents_of(wiki, block_bytes=4096)
    assert [read_shard(shard).documents for shard in plan_shards([file], section())] == [plain]
    with pytest.raises(DataError, match=r"wikitext-2: wiki.valid.tokens is not in .*\.zip"):
        find_files("wikitext-2", str(archive), split="valid", cache=tmp_path)


def test_bytes_that_are_not_utf8_are_named_by_file_and_line_in_any_shard(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    lines = [b"x" * 300] * 60
    lines[40] = b"caf\xe9"
    path.write_bytes(b"\n".join(lines))
    message = "latin.txt, line 41: byte 0xe9 at column 4 is not UTF-8. Correct it, or skip and count such"
    for options in ({"document": "line"}, {"document": "file"}, {"document": "article"}):
        with pytest.raises(DataError, match=message):
            documents_of(path, block_bytes=4096, **options)
    found = [
        read_shard(shard) for shard in shards_of(path, block_bytes=4096, document="line", on_bad_row="skip")
    ]
    assert sum(f.num_dropped for f in found) == 1
    assert sum(len(f.documents) for f in found) == 59


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", r"rows.jsonl, line 2: broken JSON \(Expecting"),
        ("[1]", "expected a JSON object, but found '[1]'".replace("[", r"\[").replace("]", r"\]")),
        ('{"body": "x"}', r"there is no field 'text' \(--column\); the row has body"),
        ('{"text": 5}', "the field 'text' is not a text but 5"),
        ('{"text": "\\u0000"}', None),
        ("\0", "line 2: contains a zero byte"),
    ],
)
def test_a_broken_row_is_named_or_skipped_and_counted(tmp_path: Path, line: str, cause: str | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "One."}}\n{line}\n{{"text": "Two."}}\n')
    if cause is None:
        assert len(documents_of(path)) == 3
        return
    with pytest.raises(DataError, match=cause):
        documents_of(path)
    (shard,) = shards_of(path, on_bad_row="skip")
    found = read_shard(shard)
    assert (found.documents, found.num_dropped) == ([["One."], ["Two."]], 1)


def test_a_null_in_parquet_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", None]}), path, row_group_size=2)
    with pytest.raises(DataError, match=r"rows\.parquet, row 4: the text is null"):
        documents_of(path)
    assert documents_of(path, on_bad_row="skip") == [["a"], ["b"], ["c"]]


def test_what_cannot_be_a_corpus_is_refused_with_its_reason(tmp_path: Path) -> None:
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1]}), table)
    broken = tmp_path / "b.parquet"
    broken.write_bytes(b"PAR1 and no more")
    packed = tmp_path / "c.txt"
    packed.write_bytes(gzip.compress(b"text"))
    empty = tmp_path / "d.txt"
    empty.write_bytes(b"")
    for path, options, message in (
        (table, {}, "a.parquet: there is no column 'text'; the file has n. Name a column of texts"),
        (table, {"column": "n"}, "the column 'n' is of type int64, not of texts"),
        (broken, {}, "b.parquet cannot be read as Parquet"),
        (packed, {}, "c.txt is not text but gzip-compressed"),
        (empty, {}, "The corpus is empty: there is no text in .*d.txt. Give files with text"),
        (tmp_path / "e.txt", {}, "e.txt does not exist"),
        (
            table,
            {"document": "line"},
            "--document line: .*a.parquet is parquet, whose documents are its rows",
        ),
        (empty, {"document": "row"}, "--document row: .*d.txt is text, which has no rows"),
    ):
        with pytest.raises(DataError, match=message):
            documents_of(path, **options)


def test_a_file_that_shrinks_after_planning_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("some text\n" * 10)
    (shard,) = shards_of(path)
    path.write_text("less\n")
    with pytest.raises(DataError, match=r"log\.txt is shorter than it was"):
        read_shard(shard)
