"""`data vocab` and `data inspect --corpus`: vocabularies made, corpora described, idle flags refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.cli.commands.data import DownloadProgress
from bertjobs.errors import DownloadError
from bertjobs.text.tokenizer_files import load_tokenizer

Run = Callable[..., Result]


@pytest.fixture
def corpus(sample: Path) -> str:
    return str(sample / "corpus" / "train.tokens")


def test_wordpieces_are_made_and_can_be_opened(run: Run, corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pieces"
    result = run("data", "vocab", "--corpus", corpus, "--vocab-size", "200", "-o", str(folder))
    tokenizer = load_tokenizer(folder)
    assert result.exit_code == 0
    assert result.stdout == f"{folder}\n"
    assert (
        f"{tokenizer.vocab_size} entries. Next: `bertjobs submit pretrain --vocab {folder}" in result.stderr
    )
    assert 100 < tokenizer.vocab_size <= 200


def test_words_are_made_and_told_as_json(run: Run, corpus: str, tmp_path: Path) -> None:
    words = ("--vocab-kind", "word", "--vocab-min-count", "3", "--output", str(tmp_path), "--json")
    document = json.loads(run("data", "vocab", "--corpus", corpus, *words).stdout)
    assert document == {"path": str(tmp_path), "kind": "word", "size": load_tokenizer(tmp_path).vocab_size}


def test_a_corpus_is_described_in_words_or_wordpieces(run: Run, corpus: str, tmp_path: Path) -> None:
    result = run("data", "inspect", "--corpus", corpus)
    assert result.exit_code == 0
    for part in ("train: 240 documents, 4,", " words\n", "Sentences per document: mean 1", "SENTENCES  \n"):
        assert part in result.stdout.replace("SENTENCES\n", "SENTENCES  \n")
    run("data", "vocab", "--corpus", corpus, "--output", str(tmp_path))
    document = json.loads(
        run("data", "inspect", "--corpus", corpus, "--vocab", str(tmp_path), "--json").stdout
    )
    report = document["train"]
    assert list(document) == ["train"]
    assert (report["documents"], report["dropped"], report["unit"]) == (240, 0, "wordpieces")
    assert sum(bin_["rows"] for bin_ in report["sentence_lengths"]["histogram"]) == report["sentences"]
    paragraphs = run("data", "inspect", "--corpus", corpus, "--document", "paragraph", "--json").stdout
    assert json.loads(paragraphs)["train"]["documents"] == 720


def test_both_parts_of_a_published_corpus_are_described(run: Run, sample: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        content = (sample / "corpus" / f"{split}.tokens").read_bytes()
        (tmp_path / f"wiki.{split}.tokens").write_bytes(content)
    result = run("data", "inspect", "--corpus", "wikitext-2", "--data", str(tmp_path), "--json")
    assert {name: r["documents"] for name, r in json.loads(result.stdout).items()} == {
        "train": 240,
        "valid": 24,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vocab", "--corpus", "nowhere", "-o", "x"), "--corpus nowhere: there is no such corpus, file or"),
        (("vocab", "-o", "x"), "Run `bertjobs data get wikitext-2`"),
        (("vocab", "-o", "x", "--vocab-kind", "word", "--vocab-size", "99"), "--vocab-size has no effect"),
        (("vocab", "-o", "x", "--vocab-size", "3"), "--vocab-size: 3 is not allowed"),
        (("vocab", "-o", "x", "--corpus", "x.txt", "--data", "y"), "--data has no effect: only a published"),
        (
            ("inspect", "--corpus", "x", "--task", "snli"),
            "--task has no effect: it is about the data of a task, and --corpus was given",
        ),
        (
            ("inspect", "--corpus", "x", "--max-len", "64"),
            "--max-len has no effect: it is about the data of a task",
        ),
        (("inspect", "--document", "file"), "--document has no effect: it is about a corpus; give --corpus"),
    ],
)
def test_what_cannot_be_done_exits_2_and_says_why(run: Run, words: tuple[str, ...], message: str) -> None:
    result = run("data", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_vocabulary_that_cannot_be_written_exits_2(run: Run, corpus: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("data", "vocab", "--corpus", corpus, "-o", str(tmp_path / "file" / "x"))
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr


def test_a_broken_corpus_is_named_by_file_and_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\ncaf\xe9\n")
    result = run("data", "inspect", "--corpus", str(path))
    assert result.exit_code == 2
    assert "latin.txt, line 2: byte 0xe9 at column 4 is not UTF-8" in result.stderr
    assert "1 sentences" in run("data", "inspect", "--corpus", str(path), "--on-bad-row", "skip").stdout


def test_the_sample_is_written_and_its_files_are_named(run: Run, tmp_path: Path) -> None:
    result = run("data", "sample", str(tmp_path / "here"))
    files = [Path(line) for line in result.stdout.splitlines()]
    assert len(files) == 12 + 7 * 3 + 5 + 3  # GLUE's other tasks, MNLI, SWAG
    assert all(file.is_file() for file in files)
    assert "--preset demo" in result.stderr


@pytest.mark.parametrize(("name", "what"), [("mrpc", "MRPC/train.tsv"), ("swag", "val.csv")])
def test_data_that_has_no_archive_says_what_to_give_in_its_place(run: Run, name: str, what: str) -> None:
    result = run("data", "get", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{name} has no published archive with a known checksum" in result.stderr
    assert what in result.stderr and "--data" in result.stderr


def test_a_sample_that_cannot_be_written_exits_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("data", "sample", str(tmp_path / "file" / "here"))
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr


def test_inspect_shows_labels_lengths_and_cuts_of_every_split(run: Run, sample: Path) -> None:
    result = run("data", "inspect", "--data", str(sample / "snli_1.0"), "--max-len", "16")
    assert result.exit_code == 0
    for part in (
        "train: 600 rows",
        "dev: 144 rows (dropped: 6 no gold label)",
        "test: 150 rows",
        "entailment",
    ):
        assert part in result.stdout
    assert result.stdout.count("Cut at 16:") == 3
    assert "longest_first" in result.stdout


def test_inspect_as_json_keeps_the_splits_apart(run: Run, sample: Path) -> None:
    data = str(sample / "cola_public")
    result = run("data", "inspect", "--task", "cola", "--data", data, "--json")
    document = json.loads(result.stdout)
    assert list(document) == ["train", "dev", "out_of_domain_dev"]
    one = run("data", "inspect", "--task", "cola", "--data", data, "--split", "in_domain_dev", "--json")
    assert json.loads(one.stdout)["in_domain_dev"] == document["dev"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "there is no such folder or file"),
        (["--task", "sli"], "--task sli: there is no such task"),
        (["--split", "tset", "--data", "."], "--split tset: there is no such file"),
        ([], "Run `bertjobs data get snli`"),
    ],
)
def test_inspect_of_what_is_not_there_exits_2(run: Run, words: list[str], message: str) -> None:
    result = run("data", "inspect", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_inspect_of_another_tasks_folder_exits_2(run: Run, sample: Path) -> None:
    result = run("data", "inspect", "--task", "snli", "--data", str(sample / "cola_public"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cola_public has no 'train' split of snli (looked for snli_1.0_train.jsonl" in result.stderr


def test_get_prints_where_the_file_is(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str, *, cache: Path, base_url: str | None, progress: Any) -> Path:
        progress(5 << 20, 10 << 20)
        progress(10 << 20, 10 << 20)
        return cache / f"{name}.zip"

    monkeypatch.setattr("bertjobs.text.datasets.download.get", get)
    result = run("data", "get", "cola")
    assert result.stdout == f"{home}/cache/cola.zip\n"
    assert result.stderr == "cola:  50% of 10.0 MiB\ncola: 100% of 10.0 MiB\n"


def test_get_without_a_network_exits_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str, **_: Any) -> Path:
        raise DownloadError(f"{name} cannot be downloaded: no route.", hint="Put it there yourself.")

    monkeypatch.setattr("bertjobs.text.datasets.download.get", get)
    result = run("data", "get", "snli")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("no route.\n hint: Put it there yourself.\n")
    assert run("data", "get", "mnli").exit_code == 2


def test_a_download_of_unknown_size_says_a_line_per_ten_mebibytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = DownloadProgress("x")
    for mebibytes in range(1, 25):
        line(mebibytes << 20, None)
    assert capsys.readouterr().err.splitlines() == ["x: 1.0 MiB", "x: 10.0 MiB", "x: 20.0 MiB"]
