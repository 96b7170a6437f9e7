"""What stands in a corpus: documents and sentences of every format, cut into shards, and what is refused."""

import gzip
import json
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import DataError
from bertjobs.text.corpus.documents import read_shard
from bertjobs.text.corpus.files import find_files
from bertjobs.text.corpus.shards import plan_shards
from corpus_kit import documents_of, section, shards_of, sources

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


def test_an_article_is_what_stands_under_a_title_without_any_heading(wiki: Path) -> None:
    assert documents_of(wiki) == [CRANE, ["x = y", "z ."]]


def test_a_paragraph_is_a_line_that_is_no_heading(wiki: Path) -> None:
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


def test_a_published_corpus_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        find_files("wikitext-103", None, split="train", cache=tmp_path)
    assert str(e.value) == (
        f"wikitext-103: wiki.train.tokens is not in {tmp_path}/downloads. Run `bertjobs data get "
        "wikitext-103`, or give the folder or zip that holds it (--data)."
    )


@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=60),
    kind=st.sampled_from(["article", "line", "file"]),
)
def test_spans_hold_every_document_once_in_order_and_none_is_larger_than_a_block(
    lengths: list[int], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    paragraphs = [f"{i} " + "ü" * length for i, length in enumerate(lengths)]
    titles = [f" = T{i} = \n \n" if kind == "article" else "" for i in range(len(lengths))]
    path.write_text("".join(f"{t}{p}\n" for t, p in zip(titles, paragraphs, strict=True)), encoding="utf-8")
    shards = shards_of(path, document=kind, sentences="line", block_bytes=4096)
    assert all(shard.num_bytes <= 4096 for shard in shards)
    assert sum(shard.num_bytes for shard in shards) == path.stat().st_size
    documents = [d for shard in shards for d in read_shard(shard).documents]
    assert [sentence for document in documents for sentence in document] == paragraphs
    if kind != "file":
        assert all(len(document) == 1 for document in documents)
    assert pickle.loads(pickle.dumps(shards)) == shards


def test_small_files_share_a_span(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i:02d}.txt" for i in range(20)]
    for path in paths:
        path.write_text("x" * 999 + "\n")
    assert [len(shard.parts) for shard in shards_of(*paths, block_bytes=4096)] == [4, 4, 4, 4, 4]


def test_a_document_larger_than_a_block_is_cut_at_a_line_a_space_or_a_character(tmp_path: Path) -> None:
    for name, text in {"line": "abc\n" * 3000, "space": "abc " * 3000, "none": "ü€" * 3000}.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        shards = shards_of(path, block_bytes=4096)
        assert len(shards) >= 3
        assert all(shard.num_bytes <= 4096 for shard in shards)
        found = "".join(s for shard in shards for d in read_shard(shard).documents for s in d)
        assert found.replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_a_row_of_jsonl_is_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = ["a " * 5000, "b", "c " * 3000, "d"]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert documents_of(path, sentences="line", block_bytes=4096) == [[row.strip()] for row in rows]


def test_only_the_first_documents_are_read_when_a_limit_says_so(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{i} {'x' * 500}\n" for i in range(40)))
    found = documents_of(path, document="line", block_bytes=4096, limit_documents=10)
    assert [document[0].split()[0] for document in found] == [str(i) for i in range(10)]


def test_bytes_that_are_no_utf8_are_named_by_file_and_line_in_any_span(tmp_path: Path) -> None:
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


def test_a_corpus_of_ones_own_is_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    for name in ("x/one.txt", "x/two.jsonl", "x/image.png", "three.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for corpus, expected in (
        ("", ["three.parquet", "one.txt", "two.jsonl"]),
        ("**/*.txt", ["one.txt"]),
        ("x/image.png", ["image.png"]),
    ):
        files = find_files(str(tmp_path / corpus), None, split="train", cache=tmp_path)
        assert files == sources(*(file.path for file in files))
        assert [file.path.name for file in files] == expected
    with pytest.raises(DataError, match=r"--corpus .*/y: there is no such corpus, file or folder with text"):
        find_files(str(tmp_path / "y"), None, split="train", cache=tmp_path)
