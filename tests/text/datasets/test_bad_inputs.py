"""Everything that can be wrong with the data, each with the whole text that its user gets."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.errors import DataError
from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.read_split import Split
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.snli import SNLI
from bertjobs.text.datasets.task import Task

Read = Callable[..., Split]

MINE = Task(
    name="mine",
    labels=("bad", "good"),
    label_values=("bad", "good"),
    metric="accuracy",
    format="table",
    columns=Columns(text_a="text", text_b=None, label="label"),
    no_label=None,
)
SKIP = "Correct the row, or skip and count such rows: --on-bad-row skip."


def said(read: Read, task: Task, path: Path | None, **options: object) -> str:
    """Return what the user is told, without the folder of this test."""
    with pytest.raises(DataError) as e:
        read(task, path, **options)
    assert e.value.exit_code == 2
    if path is None:
        return str(e.value)
    folder = path if path.is_dir() else path.parent
    return str(e.value).replace(f"{folder}/", "").replace(str(folder), "DIR")


def snli_line(**fields: object) -> str:
    row = {"gold_label": "neutral", "sentence1": "a", "sentence2": "b", **fields}
    return json.dumps({k: v for k, v in row.items() if v is not ...})


def test_a_missing_folder_names_the_flag(tmp_path: Path, read: Read) -> None:
    with pytest.raises(DataError) as e:
        read(SNLI, tmp_path / "none")
    assert str(e.value) == f"--data {tmp_path}/none: there is no such folder or file. Check the path."


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path, read: Read) -> None:
    too_long = tmp_path / ("x" * 5000)
    with pytest.raises(DataError) as e:
        read(SNLI, too_long)
    assert str(e.value) == f"{too_long} cannot be read: File name too long. Check --data."
    with pytest.raises(DataError, match="File name too long"):
        read(SNLI, tmp_path, split="x" * 5000)


def test_a_folder_without_the_split_says_what_was_looked_for(tmp_path: Path, read: Read) -> None:
    assert said(read, SNLI, tmp_path, split="dev") == (
        "DIR has no 'dev' split of snli (looked for snli_1.0_dev.jsonl, snli_1.0_dev.txt). "
        "Give the folder or zip that holds it (--data), or the path of one file (--split)."
    )


def test_missing_downloads_say_how_to_get_them(tmp_path: Path, read: Read) -> None:
    with pytest.raises(DataError) as e:
        read(SNLI, None)
    archive = tmp_path / "cache" / "downloads" / "snli_1.0.zip"
    assert str(e.value) == (
        f"No data was given for snli, and none has been downloaded ({archive} does not exist). "
        "Run `bertjobs data get snli`, or give a folder or zip (--data)."
    )


def test_a_users_task_needs_its_data(read: Read) -> None:
    assert said(read, MINE, None) == "The task mine needs its data. Give its folder or file (--data)."


def test_a_split_that_is_neither_name_nor_file_lists_the_names(tmp_path: Path, read: Read) -> None:
    assert said(read, SNLI, tmp_path, split="development") == (
        "--split development: there is no such file, and it is not a split of snli. "
        "Choose one of train, dev, test, or give the path of a file."
    )


def test_one_file_has_no_other_split(snli_file: Path, read: Read) -> None:
    assert said(read, SNLI, snli_file, split="dev") == (
        "snli_1.0_train.jsonl is one file, so it has no 'dev' split. "
        "Give a folder or zip that has it (--data), or the path of one file (--split)."
    )


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path, read: Read) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    assert said(read, MINE, tmp_path / "rows.xlsx") == (
        "rows.xlsx: files ending in '.xlsx' cannot be read. "
        "Give a file ending in one of .jsonl, .json, .csv, .tsv, .txt, .parquet, .arrow, .feather "
        "(--data, --split)."
    )


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f.tsv", "f.parquet", "f.arrow"])
def test_an_empty_file_is_refused(tmp_path: Path, read: Read, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert said(read, MINE, tmp_path / name) == f"{name} is empty. Give a file with rows (--data)."


@pytest.mark.parametrize(
    ("name", "content"),
    [("f.csv", "text,label\n"), ("f.tsv", "text\tlabel"), ("f.jsonl", "\n \n")],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, read: Read, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert said(read, MINE, tmp_path / name) == f"{name} has no rows. Give a file with rows (--data)."


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x1f\x8b\x08rest", "gzip-compressed"),
        (b"PAR1rest", "a Parquet file"),
        (b"\x7fELF\x02\x01\x00\x00", "a binary file"),
    ],
)
@pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f.tsv"])
def test_a_binary_file_is_refused_with_its_kind(
    tmp_path: Path, read: Read, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert said(read, MINE, tmp_path / name, on_bad_row="skip") == (
        f"{name} is not text but {kind}. Give a file in the task's format (--data)."
    )


def test_a_zero_byte_further_down_is_refused_with_its_line(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.tsv").write_bytes(b"text\tlabel\nfine\tgood\nodd\x00\tgood\n")
    assert said(read, MINE, tmp_path / "f.tsv") == (
        "f.tsv, line 3: contains a zero byte, so it is not text. Give a text file saved as UTF-8 (--data)."
    )


def test_text_in_another_encoding_is_refused_with_line_and_column(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.tsv").write_bytes("text\tlabel\ncaf\xe9\tgood\n".encode("latin-1"))
    assert said(read, MINE, tmp_path / "f.tsv") == (
        "f.tsv, line 2: byte 0xe9 at column 4 is not UTF-8. Give a text file saved as UTF-8 (--data)."
    )


BAD_ROWS = [
    ("f.jsonl", SNLI, '{"gold_label": "neu',
     "broken JSON (Unterminated string starting at: line 1 column 16 (char 15))"),
    ("f.jsonl", SNLI, "[1, 2]", "expected a JSON object, but found '[1, 2]'"),
    ("f.jsonl", SNLI, snli_line(sentence2=...),
     "there is no field 'sentence2'; the row has gold_label, sentence1"),
    ("f.jsonl", SNLI, snli_line(sentence1=7), "the field 'sentence1' is not a text but 7"),
    ("f.jsonl", SNLI, snli_line(sentence1=None), "the field 'sentence1' is not a text but null"),
    ("f.jsonl", SNLI, snli_line(gold_label="neutrl"),
     "the label 'neutrl' is not one of entailment, neutral, contradiction"),
    ("f.jsonl", SNLI, snli_line(gold_label=""), "the label (column 'gold_label') is empty"),
    ("f.jsonl", SNLI, snli_line(gold_label=...), "the label (column 'gold_label') is empty"),
    ("f.tsv", COLA, "gj04\t1\tno mark", "expected 4 columns, but found 3"),
    ("f.tsv", COLA, "gj04\t2\t\ttwo", "the label '2' is not one of 0, 1"),
    ("f.csv", MINE, "a,good,more", "expected 2 columns, but found 3"),
    ("f.csv", MINE, 'a "b" c,good\n"x"y,good', "broken CSV (',' expected after '\"')"),
]  # fmt: skip
GOOD_ROWS = {SNLI.name: snli_line(), COLA.name: "gj04\t1\t\tone", MINE.name: "fine,good"}


def _file_with(tmp_path: Path, name: str, task: Task, bad: str) -> Path:
    good = GOOD_ROWS[task.name]
    header = "text,label\n" if name == "f.csv" else f"{good}\n"
    path = tmp_path / name
    path.write_text(f"{header}{good}\n{bad}\n{good}\n")
    return path


@pytest.mark.parametrize(("name", "task", "bad", "cause"), BAD_ROWS)
def test_a_bad_row_is_refused_with_file_line_and_cause(
    tmp_path: Path, read: Read, name: str, task: Task, bad: str, cause: str
) -> None:
    path = _file_with(tmp_path, name, task, bad)
    line = 3 + bad.count("\n")
    assert said(read, task, path) == f"{name}, line {line}: {cause}. {SKIP}"


@pytest.mark.parametrize(("name", "task", "bad", "cause"), BAD_ROWS)
def test_a_bad_row_is_skipped_and_counted_where_the_user_says_so(
    tmp_path: Path, read: Read, name: str, task: Task, bad: str, cause: str
) -> None:
    found = read(task, _file_with(tmp_path, name, task, bad), on_bad_row="skip")
    assert found.num_dropped["broken row"] == 1
    assert found.table.num_rows == (2 if name == "f.csv" else 3) + bad.count("\n")


def test_an_unclosed_quote_says_where_it_ends(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.csv").write_text('text,label\nfine,good\n"open,good\nmore,bad\n')
    assert said(read, MINE, tmp_path / "f.csv") == (
        f"f.csv, line 4: broken CSV (unexpected end of data). {SKIP}"
    )


def test_nothing_but_broken_rows_is_refused_even_where_they_are_skipped(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.jsonl").write_text("{\n{\n")
    assert said(read, SNLI, tmp_path / "f.jsonl", on_bad_row="skip") == (
        "f.jsonl: all of its 2 rows are broken. The first: f.jsonl, line 1: broken JSON (Expecting property "
        "name enclosed in double quotes: line 1 column 2 (char 1)). "
        "Check that the file is in the task's format (--task, --data)."
    )


@pytest.mark.parametrize(
    ("name", "header"), [("f.csv", "txt,label"), ("f.tsv", "txt\tlabel"), ("f.parquet", None)]
)
def test_a_missing_column_lists_the_columns_of_the_file(
    tmp_path: Path, read: Read, name: str, header: str | None
) -> None:
    if header is None:
        pq.write_table(pa.table({"txt": ["a"], "label": ["good"]}), tmp_path / name)
    else:
        (tmp_path / name).write_text(f"{header}\na{header[3]}good\n")
    assert said(read, MINE, tmp_path / name).startswith(
        f"{name}: there is no column 'text'; the file has txt, label."
    )


def test_a_text_column_of_numbers_is_refused(tmp_path: Path, read: Read) -> None:
    pq.write_table(pa.table({"text": [1, 2], "label": ["good", "bad"]}), tmp_path / "f.parquet")
    assert said(read, MINE, tmp_path / "f.parquet") == (
        "f.parquet: the column 'text' is of type int64, not of texts. "
        "Name a column of texts (columns in the task file, --task)."
    )


def test_a_null_text_is_a_bad_row(tmp_path: Path, read: Read) -> None:
    pq.write_table(pa.table({"text": ["a", None], "label": ["good", "bad"]}), tmp_path / "f.parquet")
    assert said(read, MINE, tmp_path / "f.parquet") == f"f.parquet, row 2: a text is null. {SKIP}"


@pytest.mark.parametrize("name", ["f.parquet", "f.arrow", "f.feather"])
def test_a_columnar_file_cut_short_is_refused(tmp_path: Path, read: Read, name: str) -> None:
    table = pa.table({"text": ["a"] * 100, "label": ["good"] * 100})
    if name == "f.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    message = said(read, MINE, tmp_path / name)
    assert message.startswith(f"{name} cannot be read as {name[2:]}: ")
    assert message.endswith("It is damaged, cut short or of another format; give another file (--data).")


def test_an_unlabelled_test_set_given_to_training_is_refused(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.jsonl").write_text(f"{snli_line(gold_label='-')}\n" * 5)
    assert said(read, SNLI, tmp_path / "f.jsonl") == (
        "f.jsonl: none of its 5 rows has a label (column 'gold_label' is empty or absent). "
        "This split is for predictions only; give one with labels (--data, --split)."
    )


def test_glues_test_file_given_to_training_is_refused(tmp_path: Path, read: Read) -> None:
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\ta\n1\tb\n")
    assert said(read, COLA, tmp_path, split="test").startswith("test.tsv: none of its 2 rows has a label")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "snli_1.0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("snli_1.0/snli_1.0_train.jsonl", f"{snli_line()}\n" * 2000)
    return path


def test_a_truncated_zip_is_refused(archive: Path, read: Read) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert said(read, SNLI, archive) == (
        "snli_1.0.zip: the archive is damaged or cut short (File is not a zip file). "
        "Fetch it again, or give another file (--data)."
    )


def test_a_tampered_zip_is_refused(archive: Path, read: Read) -> None:
    content = bytearray(archive.read_bytes())
    content[content.index(b"jsonl") + 60] ^= 0xFF
    archive.write_bytes(content)
    message = said(read, SNLI, archive)
    assert message.startswith("snli_1.0.zip: the archive is damaged or cut short (")
    assert message.endswith("Fetch it again, or give another file (--data).")


def test_a_zip_whose_content_differs_from_its_checksum_is_refused(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "snli_1.0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("snli_1.0/snli_1.0_train.jsonl", f"{snli_line(sentence1='honest')}\n" * 20)
    path.write_bytes(path.read_bytes().replace(b"honest", b"forged", 1))
    assert "Bad CRC-32 for file 'snli_1.0/snli_1.0_train.jsonl'" in said(read, SNLI, path)


@pytest.mark.parametrize("member", ["../../evil.txt", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_a_zip_that_points_outside_of_itself_is_refused(archive: Path, read: Read, member: str) -> None:
    with zipfile.ZipFile(archive, "a") as z:
        z.writestr(zipfile.ZipInfo(member), "x")
    assert said(read, SNLI, archive) == (
        f"snli_1.0.zip: the member {member!r} points outside of the archive. "
        "Do not use this archive; fetch it again from its official address (data get)."
    )


def test_a_zip_without_the_split_says_so(archive: Path, read: Read) -> None:
    assert said(read, SNLI, archive, split="test") == (
        "snli_1.0.zip has no 'test' split of snli (looked for snli_1.0_test.jsonl, snli_1.0_test.txt). "
        "Give the folder or zip that holds it (--data), or the path of one file (--split)."
    )


def test_a_folder_where_a_file_should_be_is_refused(tmp_path: Path, read: Read) -> None:
    (tmp_path / "x.jsonl").mkdir()
    assert said(read, SNLI, tmp_path / "x.jsonl").startswith("DIR has no 'train' split of snli")
