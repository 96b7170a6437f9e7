"""`data vocab` and `data inspect --corpus`: vocabularies made, corpora described, idle flags refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

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
    assert f"{tokenizer.vocab_size} entries. Try: bertjobs submit pretrain --vocab {folder}" in result.stderr
    assert 100 < tokenizer.vocab_size <= 200


def test_words_are_made_and_told_as_json(run: Run, corpus: str, tmp_path: Path) -> None:
    words = ("--vocab-kind", "word", "--vocab-min-count", "3", "--output", str(tmp_path), "--json")
    document = json.loads(run("data", "vocab", "--corpus", corpus, *words).stdout)
    assert document == {"path": str(tmp_path), "kind": "word", "size": load_tokenizer(tmp_path).vocab_size}


def test_a_corpus_is_described_in_words_or_wordpieces(run: Run, corpus: str, tmp_path: Path) -> None:
    result = run("data", "inspect", "--corpus", corpus)
    assert result.exit_code == 0
    for part in ("train: 240 documents, 4,", " words\n", "Sentences of a document: mean 1", "SENTENCES  \n"):
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
        (("inspect", "--corpus", "x", "--task", "snli"), "--task has no effect: only a task's data has it"),
        (("inspect", "--corpus", "x", "--max-len", "64"), "--max-len has no effect: only a task's data"),
        (("inspect", "--document", "file"), "--document has no effect: only a corpus has it; give --corpus"),
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
